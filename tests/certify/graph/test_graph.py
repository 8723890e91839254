"""What the typed graph says about itself: cuts against brute force, operations against torch's own counter, memory against a trace."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from certify.graph.graph import Graph
from certify.graph.layout import Layout
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from tests.support.onnx_models import model_bytes, node, small_cnn
from tests.support.zoo import NAMED, export

MULTIPLYING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def random_graph(seed: int, size: int = 12) -> Graph:
    """A random network of additions: skips, branches and bottlenecks."""
    rng = np.random.default_rng(seed)
    names, nodes = ["x"], []
    for i in range(size):
        recent = names[-4:] if rng.random() < 0.8 else names
        picked = [recent[k] for k in rng.integers(len(recent), size=2)]
        nodes.append(node("Relu", picked[0], f"t{i}") if rng.random() < 0.4 else node("Add", " ".join(picked), f"t{i}"))
        names.append(f"t{i}")
    nodes.append(node("Add", f"t{size - 1} t{size - 2}", "logits"))
    return read_onnx(model_bytes(nodes, {}, input_shape=("batch", 3)))


def reachable_without(graph: Graph, removed: str) -> bool:
    """Whether a path from input to logits avoids a tensor."""
    alive = {graph.input}
    for operator in graph.operators:
        if operator.output != removed and alive & set(operator.inputs):
            alive.add(operator.output)
    return graph.output in alive


@pytest.mark.parametrize("seed", range(60))
def test_a_cut_is_what_no_path_avoids(seed: int) -> None:
    graph = random_graph(seed)
    expected = [o.output for o in graph.operators if o.output != graph.output and not reachable_without(graph, o.output)]
    assert list(graph.cuts()) == expected


def test_a_skip_path_leaves_no_cut_inside_the_block() -> None:
    nodes = [node("Relu", "x", "a"), node("Sigmoid", "a", "b"), node("Add", "a b", "c"), node("Relu", "c", "logits")]
    assert read_onnx(model_bytes(nodes, {}, input_shape=("batch", 3))).cuts() == ("a", "c")


@pytest.mark.parametrize("name", ["mlp", "resnet-basic", "resnext", "mobilenet-v2", "vit-timm", "unet-transposed", "convnext"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    graph = read_onnx(export(NAMED[name], exporter="torchscript", opset=17, batch="dynamic"))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        GraphModule(graph)(torch.zeros(1, *graph.input_shape))
    ours = sum(operator.flops for operator in graph.operators if operator.type in MULTIPLYING)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert graph.flops() >= ours


def test_live_elements_are_those_of_a_forward_pass() -> None:
    graph = read_onnx(small_cnn())
    last, alive, most = graph.last_uses(), {graph.input: math.prod(graph.input_shape)}, 0
    for position, operator in enumerate(graph.operators):
        alive[operator.output] = math.prod(operator.shape)
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, math.inf) > position}
    assert graph.live_elements() == most


def test_class_names_come_from_the_metadata() -> None:
    model = onnx.load_model_from_string(small_cnn(classes=3))
    model.metadata_props.add(key="class_names", value='["cat", "dog", "frog"]')
    assert read_onnx(model.SerializeToString()).class_names == ("cat", "dog", "frog")


@pytest.mark.parametrize(
    ("sizes", "batch", "outer", "target", "doubled", "found"),
    [
        ((1, 3, 4), 0, 1, (1, 12), (2, 12), Layout((1, 12))),
        ((1, 3, 4), 0, 1, (3, 4), (6, 4), Layout((3, 4), 0)),  # batch x 3 rows
        ((5, 1, 6), 1, 1, (5, 2, 3), (5, 4, 3), Layout((5, 2, 3), 1)),  # heads beside the batch
        ((5, 1, 6), 1, 1, (5, 6), (10, 6), Layout((5, 6), 0, 5)),  # length x batch
        ((5, 6), 0, 5, (5, 1, 6), (5, 2, 6), Layout((5, 1, 6), 1, 1)),  # and apart again
        ((5, 1, 6), 1, 1, (3, 10), (6, 10), None),  # the batch would cut rows in two
        ((1, 12), 0, 1, (3, 4), (3, 8), None),  # the batch would run along the columns
        ((1, 12), 0, 1, (3, 4), (4, 6), None),
        ((1, 12), 0, 1, (12,), None, Layout((12,), None)),
    ],
)
def test_where_a_reshape_takes_the_batch(
    sizes: tuple[int, ...], batch: int, outer: int, target: tuple[int, ...], doubled: tuple[int, ...] | None, found: Layout | None
) -> None:
    assert Layout(sizes, batch, outer).reshaped(target, doubled) == found


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(("sizes", "batch", "outer"), [((1, 3, 4), 0, 1), ((5, 1, 6), 1, 1), ((6, 4), 0, 3), ((10, 6), 0, 5)])
def test_a_reshape_that_is_allowed_keeps_rows_apart(sizes: tuple[int, ...], batch: int, outer: int, count: int) -> None:
    """Every pair of factorisations: whatever the layout allows, the file's reshape of a batch is the reshape of each row."""
    total, allowed = math.prod(sizes), 0
    rows = np.arange(total * count).reshape(count, total)
    file = tensor_of(rows, sizes, batch, outer)
    for target in factorisations(total):
        for axis in range(len(target)):
            doubled = tuple(2 * size if i == axis else size for i, size in enumerate(target))
            found = Layout(sizes, batch, outer).reshaped(target, doubled)
            if found is None:
                continue
            allowed += 1
            assert found.batch is not None
            wanted = tuple(count * size if i == axis else size for i, size in enumerate(target))
            np.testing.assert_array_equal(file.reshape(wanted), tensor_of(rows, found.sizes, found.batch, found.outer))
    assert allowed


def tensor_of(rows: np.ndarray, sizes: tuple[int, ...], batch: int, outer: int) -> np.ndarray:
    """The file's tensor of several rows: each row has `sizes`, the batch lies in one axis behind `outer` values."""
    before = math.prod(sizes[:batch]) * outer
    full = rows.reshape(len(rows), before, -1).transpose(1, 0, 2)
    return full.reshape(tuple(len(rows) * size if i == batch else size for i, size in enumerate(sizes)))


def factorisations(total: int, most: int = 3) -> list[tuple[int, ...]]:
    if most == 1:
        return [(total,)]
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    return [(total,)] + [(d, *rest) for d in divisors for rest in factorisations(total // d, most - 1)]
