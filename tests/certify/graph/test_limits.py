"""What a network may cost, and what a file may hold, before anything is computed or even parsed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from certify.graph.reader import read_onnx
from tests.certify.graph.test_refusals import problem
from tests.support.onnx_models import Array, model_bytes, node


def chain(kind: str, count: int, shape: tuple[int, ...], **weights: Array) -> bytes:
    steps = [node(kind, " ".join([f"t{i}" if i else "x", *weights]), f"t{i + 1}") for i in range(count)]
    return model_bytes(
        [*steps, node("ReduceMean", f"t{count}", "logits", axes=[2], keepdims=0)], weights, input_shape=("batch", *shape), opset=13
    )


def test_networks_that_cost_too_much() -> None:
    wide = [node("Relu", "x", f"r{i}") for i in range(20)]
    end = [node("Sum", " ".join(f"r{i}" for i in range(20)), "y"), node("ReduceMean", "y", "logits", axes=[2], keepdims=0)]
    held = model_bytes([*wide, *end], {}, input_shape=("batch", 2**11, 2**11), opset=13)
    assert "values at once" in problem(held).detail
    assert "values for one example" in problem(chain("Relu", 600, (2**10, 2**10))).detail
    assert "floating-point operations" in problem(chain("MatMul", 130, (2**10, 2**10), w=np.eye(2**10, dtype=np.float32))).detail
    for data in (chain("Relu", 6, (2**10, 2**10)), chain("MatMul", 3, (2**10, 2**10), w=np.eye(2**10, dtype=np.float32))):
        read_onnx(data)


def test_a_file_of_empty_nodes_is_counted_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes each in the file, a hundred and fifty in memory."""
    graph = b"\x0a\x00" * 1_100_000
    size, number = b"", len(graph)
    while number:
        size += bytes([number & 127 | (128 if number > 127 else 0)])
        number >>= 7
    monkeypatch.setattr(onnx.ModelProto, "ParseFromString", None)  # nothing may come to it
    found = problem(b"\x08\x08\x3a" + size + graph)
    assert "holds more than 1,000,000" in found.detail


def test_nesting_is_limited_before_it_is_parsed() -> None:
    inner = helper.make_graph([node("Relu", "x", "y")], "g", [], [])
    for _ in range(20):
        inner = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=onnx.GraphProto())], "g", [], [])
    assert "nested more than 32 deep" in problem(helper.make_model(inner).SerializeToString()).detail
