"""Whatever the bytes, `read_onnx` answers with a graph or with ModelRejected, and a graph can be evaluated."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certify.errors import ModelRejected
from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from tests.support.onnx_models import mlp, model_bytes, node, small_cnn

SHAPES = model_bytes(
    [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "n", axis=0),
        node("Concat", "n rest", "target", axis=0),
        node("Transpose", "x", "t", perm=[0, 2, 1]),
        node("Reshape", "t target", "f"),
        node("LeakyRelu", "f", "l", alpha=0.1),
        node("Gemm", "l w", "g", alpha=0.5),
        node("Squeeze", "axis one", "folded"),
        node("AveragePool", "x", "p", kernel_shape=[2], strides=[2]),
        node("Unsqueeze", "p folded", "u"),
        node("Sub", "g two", "logits"),
    ],
    {
        "zero": np.array([0]),
        "rest": np.array([-1]),
        "axis": np.array([[[1]]]),
        "one": np.array([0]),
        "w": np.ones((6, 3), np.float32),
        "two": np.asarray(np.float32(2)),
    },
    input_shape=("batch", 2, 3),
)
FILES = [mlp((4, 3, 2)), small_cnn(channels=1, size=4, mean=0.5), SHAPES]


def test_the_files_are_valid_before_they_are_changed() -> None:
    for file in FILES:
        assert read_onnx(file).classes >= 2


def read(data: bytes) -> Graph | None:
    try:
        graph = read_onnx(data)
    except ModelRejected:
        return None
    assert len(graph.shapes[graph.output]) == 1
    return graph


def check(data: bytes) -> None:
    graph = read(data)
    if graph and graph.largest_tensor() < 10_000:
        with torch.no_grad():
            logits = GraphModule(graph)(torch.zeros(2, *graph.input_shape))
        assert logits.shape == (2, graph.classes)


edits = st.lists(
    st.tuples(st.integers(0, 2**31), st.integers(0, 255), st.sampled_from(["set", "insert", "delete", "flip"])), min_size=1, max_size=6
)
CALM = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@CALM
@given(file=st.sampled_from(FILES), changes=edits)
def test_changed_bytes(file: bytes, changes: list[tuple[int, int, str]]) -> None:
    data = bytearray(file)
    for position, value, kind in changes:
        at = position % len(data)
        if kind == "insert":
            data.insert(at, value)
        elif kind == "delete":
            del data[at]
        else:
            data[at] = value if kind == "set" else data[at] ^ (1 << value % 8)
    check(bytes(data))


@CALM
@given(file=st.sampled_from(FILES), seed=st.integers(0, 2**32 - 1))
def test_changed_structure(file: bytes, seed: int) -> None:
    """Well-formed files that contradict themselves get past the parser: names, attributes and sizes are swapped."""
    model, rng = onnx.load_model_from_string(file), np.random.default_rng(seed)
    graph = model.graph
    names = [tensor.name for tensor in graph.initializer] + [output for n in graph.node for output in n.output] + ["x", "", "nobody"]
    for _ in range(int(rng.integers(1, 4))):
        chosen = graph.node[int(rng.integers(len(graph.node)))]
        action = int(rng.integers(7))
        if action == 0 and chosen.input:
            chosen.input[int(rng.integers(len(chosen.input)))] = str(rng.choice(names))
        elif action == 1:
            chosen.op_type = graph.node[int(rng.integers(len(graph.node)))].op_type
        elif action == 2 and chosen.attribute:
            attribute = chosen.attribute[int(rng.integers(len(chosen.attribute)))]
            attribute.type = int(rng.integers(0, 9))
        elif action == 3 and chosen.attribute:
            attribute = chosen.attribute[int(rng.integers(len(chosen.attribute)))]
            value = int(rng.choice([-(2**63), -1, 0, 1, 2, 5, 2**31, 2**63 - 1]))
            attribute.i = value
            for i in range(len(attribute.ints)):
                attribute.ints[i] = value
        elif action == 4 and graph.initializer:
            tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
            tensor.dims[:] = [int(v) for v in rng.integers(0, 6, size=int(rng.integers(0, 5)))]
        elif action == 5 and graph.initializer:
            tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
            shape = tuple(int(v) for v in rng.integers(0, 5, size=int(rng.integers(0, 4))))
            dtype = [np.float32, np.int64, np.int32, np.float64][int(rng.integers(4))]
            tensor.CopyFrom(onnx.numpy_helper.from_array(rng.integers(-3, 6, size=shape).astype(dtype), tensor.name))
        else:
            chosen.output[0] = str(rng.choice(names))
    check(model.SerializeToString())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert read(data) is None


@pytest.mark.parametrize("file", FILES[:2])
def test_every_truncation(file: bytes) -> None:
    for end in range(0, len(file), 7):
        check(file[:end])
