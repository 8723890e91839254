"""Small networks around every operator that bound propagation accepts in a rewritten form: it comes first, in the middle or last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import onnx

from certify.graph.reader import read_onnx
from tests.support.onnx_models import Array, model_bytes, node

SHAPE = (2, 6, 6)


def random(*shape: int, scale: float = 0.5) -> Array:
    return (scale * np.random.default_rng(sum(shape)).normal(size=shape)).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """Nodes from `x`, of shape (2, 6, 6), to `s`; `linear` when CROWN must be exact on them."""

    nodes: Sequence[onnx.NodeProto]
    weights: dict[str, Array] = field(default_factory=dict)
    linear: bool = True
    opset: int = 17


def one(kind: str, weights: dict[str, Array] | None = None, *, order: str = "", linear: bool = True, opset: int = 17, **a: Any) -> Case:
    weights = weights or {}
    return Case([node(kind, order or " ".join(["x", *weights]), "s", **a)], weights, linear, opset)


def pool(kind: str = "AveragePool", *, linear: bool = True, **attributes: Any) -> Case:
    return one(kind, linear=linear, **attributes)


def rows(case: Case, *shape: int) -> Case:
    """The same on examples of another shape."""
    first = node("Reshape", "x rows", "xr")
    nodes = [first]
    for old in case.nodes:
        new = onnx.NodeProto()
        new.CopyFrom(old)
        new.input[:] = ["xr" if name == "x" else name for name in old.input]
        nodes.append(new)
    return replace(case, nodes=nodes, weights={**case.weights, "rows": ints(0, *shape)})


AVERAGES = {
    "AveragePool": pool(kernel_shape=[2, 2], strides=[2, 2]),
    "AveragePool overlapping": pool(kernel_shape=[3, 2], strides=[1, 2]),
    "AveragePool padded, padding left out": pool(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "AveragePool padded, padding counted": pool(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    "AveragePool padded unevenly": pool(kernel_shape=[3, 2], strides=[2, 1], pads=[0, 1, 2, 0]),
    "AveragePool ceil": pool(kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "AveragePool one axis": rows(pool(kernel_shape=[3], strides=[2], pads=[1, 0]), 4, 18),
    "GlobalAveragePool one axis": rows(pool("GlobalAveragePool"), 4, 18),
    "ReduceMean": one("ReduceMean", axes=[2, 3]),
    "ReduceMean without axes": one("ReduceMean", axes=[1, 3], keepdims=0),
    "ReduceSum": one("ReduceSum", {"axes": ints(3)}),
    "CumSum": one("CumSum", {"axis": ints(2)}),
}

MOVEMENTS = {
    "Pad": one("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}),
    "Pad by a value": one("Pad", {"p": ints(0, 1, 1, 0, 0, 0, 2, 1), "v": np.array(0.7, np.float32)}),
    "Pad that crops": one("Pad", {"p": ints(0, 0, -1, 1, 0, 0, 1, -2), "v": np.array(-0.3, np.float32)}),
    "Pad reflect": one("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)}, mode="reflect"),
    "Pad edge": one("Pad", {"p": ints(0, 0, 0, 2, 0, 0, 2, 1)}, mode="edge"),
    "Slice": one("Slice", {"b": ints(1, 0), "e": ints(5, 6), "a": ints(2, 3), "t": ints(1, 2)}),
    "Slice backwards": one("Slice", {"b": ints(-1), "e": ints(-7), "a": ints(3), "t": ints(-1)}),
    "Slice of a channel": one("Slice", {"b": ints(1), "e": ints(2), "a": ints(1)}),
    "Split": Case(
        [
            onnx.helper.make_node("Split", ["x", "n"], ["one", "two"], name="split", axis=2),
            node("Concat", "two one two", "s", axis=2),
        ],
        {"n": ints(2, 4)},
    ),
    "Gather": one("Gather", {"i": ints(3, 0, 3)}, axis=2),
    "Gather one": one("Gather", {"i": np.array(1)}, axis=1),
    "GatherND": Case(
        [node("Transpose", "x", "t", perm=[1, 2, 0, 3]), node("GatherND", "t i", "g"), node("Transpose", "g", "s", perm=[1, 0, 2])],
        {"i": np.array([[0, 1], [1, 5], [0, 1]])},
    ),
    "Tile": one("Tile", {"r": ints(1, 2, 1, 2)}),
    "Expand": Case([node("GlobalAveragePool", "x", "g"), node("Expand", "g to", "s")], {"to": ints(1, 2, 3, 2)}),
    "DepthToSpace": rows(one("DepthToSpace", blocksize=2), 8, 3, 3),
    "SpaceToDepth": one("SpaceToDepth", blocksize=3),
    "Resize": one("Resize", {"": np.zeros(0, np.float32), "sc": np.array([1, 1, 1.5, 0.5], np.float32)}, order="x  sc", mode="linear"),
    "Resize nearest": one("Resize", {"sc": np.array([1, 1, 2, 2], np.float32)}, order="x  sc", mode="nearest"),
    "Squeeze and Unsqueeze": Case(
        [node("Gather", "x i", "g", axis=1), node("Squeeze", "g a", "q"), node("Unsqueeze", "q b", "s")],
        {"i": ints(1), "a": ints(1), "b": ints(1, -1)},
    ),
}
MOVEMENTS["Resize"] = replace(MOVEMENTS["Resize"], nodes=[onnx.helper.make_node("Resize", ["x", "", "sc"], ["s"], mode="linear")])
MOVEMENTS["Resize"].weights.pop("")
MOVEMENTS["Resize nearest"] = replace(
    MOVEMENTS["Resize nearest"], nodes=[onnx.helper.make_node("Resize", ["x", "", "sc"], ["s"], mode="nearest")]
)

JOINS = {
    "Concat with itself": Case([node("Concat", "x x", "s", axis=1)]),
    "Concat of a ReLU and the input": Case([node("Relu", "x", "r"), node("Concat", "r x", "s", axis=2)], linear=False),
    "Concat with a constant": Case([node("Neg", "x", "n"), node("Concat", "c x c n", "s", axis=3)], {"c": random(1, 2, 6, 1)}),
    "Neg": one("Neg"),
    "Sub of two": Case([node("Sigmoid", "x", "r"), node("Sub", "x r", "s")], linear=False),
    "Sub from a constant": one("Sub", {"c": random(2, 1, 1)}, order="c x"),
    "Add of two": Case([node("Neg", "x", "n"), node("Relu", "n", "r"), node("Add", "r x", "s")], linear=False),
    "Sum": Case([node("Relu", "x", "r"), node("Sum", "r x c x", "s")], {"c": random(2, 1, 1)}, linear=False),
    "Mean": Case([node("Neg", "x", "n"), node("Mean", "x x n c", "s")], {"c": random(2, 1, 1)}),
    "Where with a constant condition": Case(
        [node("Neg", "x", "n"), node("Where", "m x n", "t"), node("Where", "m t c", "s")],
        {"m": random(6, 6) > 0, "c": random(2, 1, 1)},
    ),
}

PRODUCTS = {
    "MatMul of rows": rows(one("MatMul", {"w": random(8, 5)}), 3, 3, 8),
    "MatMul on the left": one("MatMul", {"w": random(4, 6)}, order="w x"),
    "MatMul with a stack": one("MatMul", {"w": random(2, 6, 3)}),
    "Einsum": one("Einsum", {"w": random(2, 6, 3)}, equation="bchw,cwk->bkh"),
    "Conv one axis": rows(one("Conv", {"w": random(3, 4, 3), "b": random(3)}, pads=[2, 0], strides=[2], dilations=[2]), 4, 18),
    "Conv padded unevenly": one("Conv", {"w": random(3, 2, 3, 2), "b": random(3)}, pads=[0, 2, 1, 0], strides=[2, 2]),
    "Conv dilated unevenly": one("Conv", {"w": random(3, 2, 3, 2)}, pads=[2, 1, 2, 1], dilations=[2, 1]),
    "Conv in groups": one("Conv", {"w": random(4, 1, 3, 3)}, group=2, pads=[0, 1, 1, 0]),
    "Conv three axes": rows(one("Conv", {"w": random(2, 2, 2, 2, 2), "b": random(2)}, pads=[1, 0, 0, 0, 0, 1]), 2, 3, 3, 4),
    "ConvTranspose": one("ConvTranspose", {"w": random(2, 2, 3, 3), "b": random(2)}, strides=[2, 2], pads=[1, 1, 1, 0]),
    "BatchNormalization of features": rows(
        one("BatchNormalization", {"g": random(72), "h": random(72), "m": random(72), "v": np.abs(random(72)) + 0.1}), 72
    ),
    "Gemm with alpha and beta": rows(one("Gemm", {"w": random(72, 5), "b": random(5)}, alpha=0.5, beta=-2.0), 72),
}

BENT = {
    "Clip": one("Clip", {"low": np.array(0.25, np.float32), "high": np.array(0.7, np.float32)}, linear=False),
    "Clip low": one("Clip", {"low": np.array(0.4, np.float32)}, linear=False),
    "Clip far ends": one("Clip", {"low": np.array(-3e38, np.float32), "high": np.array(3e38, np.float32)}, linear=False),
    "Clip below 0.6 and far": one("Clip", opset=10, linear=False, min=-3e38, max=0.6),
    "ReLU6": Case([node("Mul", "x c", "t"), node("Clip", "t low high", "s")],
                  {"c": np.full(1, 12, np.float32), "low": np.array(0, np.float32), "high": np.array(6, np.float32)}, linear=False),
    "Abs": Case([node("Sub", "x c", "t"), node("Abs", "t", "s")], {"c": np.full(1, 0.5, np.float32)}, linear=False),
    "PRelu": Case([node("Sub", "x c", "t"), node("PRelu", "t a", "s")],
                  {"c": np.full(1, 0.5, np.float32), "a": np.array([0.3, -1.5], np.float32).reshape(2, 1, 1)}, linear=False),
    "LeakyRelu beyond 1": Case([node("Sub", "x c", "t"), node("LeakyRelu", "t", "s", alpha=1.7)],
                               {"c": np.full(1, 0.5, np.float32)}, linear=False),
    "LeakyRelu below 0": Case([node("Sub", "x c", "t"), node("LeakyRelu", "t", "s", alpha=-0.4)],
                              {"c": np.full(1, 0.5, np.float32)}, linear=False),
    "HardSigmoid": one("HardSigmoid", linear=False, alpha=1.5, beta=-0.3),
    "Max with a constant": one("Max", {"c": random(6, 6)}, linear=False),
    "Max with a far constant": one("Max", {"c": random(6, 6, scale=3000.0)}, linear=False),
    "Max of three": Case([node("Neg", "x", "n"), node("Sigmoid", "x", "r"), node("Max", "n x r", "s")], linear=False),
    "Min with a constant": one("Min", {"c": random(6, 6)}, linear=False),
    "Min of three": Case([node("Sigmoid", "x", "r"), node("Neg", "r", "n"), node("Min", "x n r", "s")], linear=False),
}  # fmt: skip

MAXIMA = {
    "MaxPool overlapping and padded": pool("MaxPool", linear=False, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool padded unevenly": pool("MaxPool", linear=False, kernel_shape=[3, 2], strides=[1, 2], pads=[0, 1, 2, 0]),
    "MaxPool with a remainder": pool("MaxPool", linear=False, kernel_shape=[4, 2], strides=[4, 2]),
    "MaxPool dilated": pool("MaxPool", linear=False, kernel_shape=[2, 2], dilations=[2, 3]),
    "MaxPool ceil": pool("MaxPool", linear=False, kernel_shape=[4, 4], strides=[4, 4], ceil_mode=1),
    "MaxPool one axis": rows(pool("MaxPool", linear=False, kernel_shape=[3], strides=[2], pads=[1, 0]), 4, 18),
    "GlobalMaxPool": pool("GlobalMaxPool", linear=False),
    "GlobalMaxPool one axis": rows(pool("GlobalMaxPool", linear=False), 4, 18),
}

CASES = MAXIMA | AVERAGES | MOVEMENTS | JOINS | PRODUCTS | BENT
POSITIONS = ("first", "middle", "last")


@cache
def made(name: str) -> int:
    """How many values the case makes."""
    case = CASES[name]
    flat = [*case.nodes, node("Flatten", "s", "logits")]
    return read_onnx(model_bytes(flat, case.weights, input_shape=("batch", *SHAPE), opset=case.opset)).classes


def network(name: str, position: str) -> bytes:
    """The case first, in the middle or last before the logits."""
    case, width = CASES[name], made(name)
    nodes, weights = list(case.nodes), dict(case.weights)
    if position != "first":
        weights["start"] = random(2, 2, 3, 3)
        front = [node("Conv", "x start", "h0", pads=[1, 1, 1, 1]), node("Relu", "h0", "a0")]
        for i, old in enumerate(nodes):
            nodes[i] = onnx.NodeProto()
            nodes[i].CopyFrom(old)
            nodes[i].input[:] = ["a0" if input_name == "x" else input_name for input_name in old.input]
        nodes = [*front, *nodes]
    nodes.append(node("Flatten", "s", "flat"))
    last, length = "flat", width
    if position != "last":
        weights |= {"w1": random(8, width, scale=1.5 / np.sqrt(width)), "b1": random(8)}
        nodes += [node("Gemm", "flat w1 b1", "h1", transB=1), node("Relu", "h1", "a1")]
        last, length = "a1", 8
    weights |= {"w2": random(4, length, scale=1.0 / np.sqrt(length)), "b2": random(4, scale=0.1)}
    nodes.append(node("Gemm", f"{last} w2 b2", "logits", transB=1))
    return model_bytes(nodes, weights, input_shape=("batch", *SHAPE), opset=case.opset)
