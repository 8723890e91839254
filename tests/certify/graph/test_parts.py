"""The encoder and the head on either side of a tensor: together they are the network, and each says what it costs itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from tests.certify.graph.test_graph import random_graph
from tests.support.onnx_models import model_bytes, node, small_cnn
from tests.support.zoo import NAMED, export

NETWORKS: list[Callable[[], Graph]] = [lambda seed=seed: random_graph(seed) for seed in range(25)]
NETWORKS += [
    lambda: read_onnx(small_cnn()),
    lambda: read_onnx(export(NAMED["resnet-basic"], exporter="torchscript", opset=17, batch="fixed")),
]


def run(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return GraphModule(graph, torch.float64)(x)


def inputs(graph: Graph, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *graph.input_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("make", NETWORKS)
def test_the_network_is_the_head_of_the_encoder(make: Callable[[], Graph]) -> None:
    graph = make()
    x = inputs(graph)
    whole = run(graph, x)
    for tensor in graph.cuts():
        encoder, head = graph.until(tensor), graph.after(tensor)
        middle = run(encoder, x)
        assert tuple(middle.shape[1:]) == graph.shapes[tensor] == head.input_shape
        assert bool((run(head, middle) == whole).all())
        assert (*encoder.operators, *head.operators) == graph.operators
        assert encoder.flops() + head.flops() == graph.flops()
        assert encoder.parameters() + head.parameters() == graph.parameters()


@pytest.mark.parametrize("make", NETWORKS)
def test_an_encoder_of_any_tensor_is_what_the_network_makes_there(make: Callable[[], Graph]) -> None:
    graph = make()
    x = inputs(graph)
    with torch.no_grad():
        made = {operator.output: value for operator, value in GraphModule(graph, torch.float64).steps(x)}
    for operator in graph.operators:
        encoder = graph.until(operator.output)
        assert bool((run(encoder, x) == made[operator.output]).all())
        assert encoder.operators[-1] == operator
        # Nothing is kept that is not read: the output is reached from every operator.
        read = {name for one in encoder.operators for name in one.inputs}
        assert all(one.output in read for one in encoder.operators[:-1])


def test_each_part_has_its_own_sizes() -> None:
    nodes = [node("Relu", "x", "a"), node("GlobalAveragePool", "a", "b"), node("Flatten", "b", "c"), node("Relu", "c", "logits")]
    graph = read_onnx(model_bytes(nodes, {}, input_shape=("batch", 3, 5, 5)))
    encoder, head = graph.until("b"), graph.after("b")
    assert (encoder.input_shape, encoder.classes, encoder.largest_tensor(), encoder.output) == ((3, 5, 5), 3, 75, "b")
    assert (head.input_shape, head.classes, head.largest_tensor(), head.input) == ((3, 1, 1), 3, 3, "b")
    assert set(head.shapes) == {"b", "c", "logits"}
    assert head.live_elements() == 6
    assert head.cuts() == ("c",)
    assert encoder.cuts() == ("a",)
    assert graph.until("a").classes == math.prod(graph.shapes["a"]) == 75


def test_what_is_no_cut_or_no_tensor_is_refused() -> None:
    nodes = [node("Relu", "x", "a"), node("Sigmoid", "a", "b"), node("Add", "a b", "c"), node("Relu", "c", "logits")]
    graph = read_onnx(model_bytes(nodes, {}, input_shape=("batch", 3)))
    for name in ("b", "x", "logits", "none"):
        with pytest.raises(ValueError, match=f"'{name}' alone: choose one of the tensors a, c"):
            graph.after(name)
    for name in ("x", "none"):
        with pytest.raises(ValueError, match="no operator"):
            graph.until(name)
