"""Small ONNX files, built by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


def model_bytes(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array],
    *,
    input_shape: Sequence[int | str | None],
    output_shape: Sequence[int | str | None] = (None, None),
    opset: int = 17,
    input_name: str = "x",
    output_name: str = "logits",
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, list(input_shape))],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, list(output_shape))],
        [numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """A node; `inputs` are separated by spaces."""
    return helper.make_node(kind, inputs.split(), [output], name=f"{kind.lower()}_{output}", **attributes)


def batch_switch(rows: int, classes: int) -> bytes:
    """The identity for fewer rows; from so many in a batch on, the logits of each row in the reverse order."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "size"),
        node("Less", "size limit", "few"),
        node("Gather", "x backwards", "turned", axis=1),
        node("Where", "few x turned", "logits"),
    ]
    weights = {"zero": np.array(0), "limit": np.array(rows), "backwards": np.arange(classes)[::-1].copy()}
    return model_bytes(nodes, weights, input_shape=("batch", classes))


def normalisation(mean: Array, std: Array) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """(x - mean) / std in front of a model; the result is called `normal`."""
    return [node("Sub", "x mean", "centred"), node("Div", "centred std", "normal")], {"mean": mean, "std": std}


def linear_model(weight: Array, bias: Array, mean: Array | None = None, std: Array | None = None) -> bytes:
    """logits = weight @ ((x - mean) / std) + bias for x of shape (batch, features)."""
    front, weights = normalisation(mean, std) if mean is not None and std is not None else ([], {})
    gemm = node("Gemm", f"{'normal' if front else 'x'} weight bias", "logits", transB=1)
    return model_bytes([*front, gemm], {**weights, "weight": weight, "bias": bias}, input_shape=("batch", weight.shape[1]))


def mlp(sizes: Sequence[int], *, seed: int = 0, activation: str = "Relu", first: Sequence[onnx.NodeProto] = (), **extra: Array) -> bytes:
    """A fully connected network with random weights; `first` nodes read `x` and write `start`."""
    rng = np.random.default_rng(seed)
    nodes, weights, name = list(first), dict(extra), "start" if first else "x"
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weights[f"w{i}"] = (rng.normal(size=(fan_out, fan_in)) / np.sqrt(fan_in)).astype(np.float32)
        weights[f"b{i}"] = (0.1 * rng.normal(size=fan_out)).astype(np.float32)
        last = i == len(sizes) - 2
        nodes.append(node("Gemm", f"{name} w{i} b{i}", "logits" if last else f"h{i}", transB=1))
        if not last:
            nodes.append(node(activation, f"h{i}", f"a{i}"))
            name = f"a{i}"
    return model_bytes(nodes, weights, input_shape=("batch", sizes[0]))


def small_cnn(*, seed: int = 0, channels: int = 1, size: int = 8, classes: int = 4, mean: float | None = None, std: float = 0.3) -> bytes:
    """Conv, BatchNormalization, Relu, MaxPool, Conv, Relu, Flatten, Gemm with random weights, with an optional normalisation."""
    rng = np.random.default_rng(seed)

    def random(*shape: int, scale: float = 1.0) -> Array:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    nodes, weights, name = [], {}, "x"
    if mean is not None:
        nodes, weights = normalisation(np.full((1, channels, 1, 1), mean, np.float32), np.full((1, channels, 1, 1), std, np.float32))
        name = "normal"
    half = size // 2
    weights |= {
        "c1": random(4, channels, 3, 3, scale=0.4),
        "c1b": random(4, scale=0.1),
        "scale": 1 + random(4, scale=0.1),
        "shift": random(4, scale=0.1),
        "running_mean": random(4, scale=0.1),
        "running_var": np.abs(random(4)) + 0.5,
        "c2": random(6, 4, 3, 3, scale=0.2),
        "w": random(classes, 6 * half * half, scale=0.1),
        "b": random(classes, scale=0.1),
    }
    nodes += [
        node("Conv", f"{name} c1 c1b", "h1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "h1 scale shift running_mean running_var", "n1"),
        node("Relu", "n1", "a1"),
        node("MaxPool", "a1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p1 c2", "h2", pads=[1, 1, 1, 1]),
        node("Relu", "h2", "a2"),
        node("Flatten", "a2", "f"),
        node("Gemm", "f w b", "logits", transB=1),
    ]
    return model_bytes(nodes, weights, input_shape=("batch", channels, size, size))
