"""Every operator of the allow-list computes what onnxruntime computes, at batch 1 and 5, in float32 and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from certify.errors import ModelRejected
from certify.graph.module import GraphModule, bounds_module
from certify.graph.operators import OPERATORS
from certify.graph.reader import read_onnx
from tests.certify.graph.wide_cases import WIDE
from tests.support.onnx_models import Array, model_bytes, node
from tests.support.onnx_reference import assert_agrees

RNG = np.random.default_rng(7)
COVERED: set[str] = set()


def random(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def one(
    kind: str, shape: tuple[int, ...], weights: dict[str, Array] | None = None, *, order: str = "", opset: int = 17, **attributes: Any
) -> bytes:
    """A file of one operator on `x`, flattened to logits."""
    weights = weights or {}
    nodes = [node(kind, order or " ".join(["x", *weights]), "y", **attributes), node("Flatten", "y", "logits")]
    COVERED.add(kind)
    return model_bytes(nodes, weights, input_shape=("batch", *shape), opset=opset)


IMAGE = (4, 7, 6)

CASES: dict[str, bytes] = {
    "relu": one("Relu", IMAGE),
    "sigmoid": one("Sigmoid", IMAGE),
    "tanh": one("Tanh", IMAGE),
    "neg": one("Neg", IMAGE),
    "leaky-relu default": one("LeakyRelu", IMAGE),
    "leaky-relu 0.3": one("LeakyRelu", IMAGE, alpha=0.3),
    "leaky-relu negative": one("LeakyRelu", IMAGE, alpha=-0.5),
    "gemm": one("Gemm", (6,), {"w": random(6, 3)}),
    "gemm transB bias": one("Gemm", (6,), {"w": random(3, 6), "b": random(3)}, transB=1),
    "gemm alpha beta": one("Gemm", (6,), {"w": random(6, 3), "b": random(1, 3)}, alpha=0.5, beta=-2.0),
    "gemm alpha without bias": one("Gemm", (6,), {"w": random(6, 3)}, alpha=3.0),
    "gemm scalar bias": one("Gemm", (6,), {"w": random(6, 3), "b": random(1)}),
    "gemm opset 7": one("Gemm", (6,), {"w": random(6, 3), "b": random(3)}, opset=7),
    "matmul": one("MatMul", (6,), {"w": random(6, 3)}),
    "matmul rows": one("MatMul", (2, 6), {"w": random(6, 3)}),
    "matmul left": one("MatMul", (6, 3), {"w": random(2, 6)}, order="w x"),
    "matmul left of images": one("MatMul", (4, 6, 3), {"w": random(2, 6)}, order="w x"),
    "conv": one("Conv", IMAGE, {"w": random(5, 4, 3, 3), "b": random(5)}),
    "conv strides pads": one("Conv", IMAGE, {"w": random(5, 4, 3, 3)}, strides=[2, 1], pads=[1, 1, 1, 1]),
    "conv asymmetric pads": one("Conv", IMAGE, {"w": random(5, 4, 3, 2)}, strides=[2, 2], pads=[0, 2, 1, 0]),
    "conv dilations": one("Conv", IMAGE, {"w": random(5, 4, 3, 3)}, dilations=[2, 1], pads=[2, 1, 2, 1]),
    "conv groups": one("Conv", IMAGE, {"w": random(6, 2, 3, 3), "b": random(6)}, group=2),
    "conv depthwise": one("Conv", IMAGE, {"w": random(4, 1, 3, 3)}, group=4, pads=[1, 1, 1, 1]),
    "conv same upper": one("Conv", IMAGE, {"w": random(5, 4, 3, 2)}, auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": one("Conv", IMAGE, {"w": random(5, 4, 2, 3)}, auto_pad="SAME_LOWER", strides=[2, 1]),
    "conv valid": one("Conv", IMAGE, {"w": random(5, 4, 3, 3)}, auto_pad="VALID", kernel_shape=[3, 3]),
    "conv one axis": one("Conv", (4, 9), {"w": random(5, 4, 3), "b": random(5)}, pads=[2, 0], strides=[2]),
    "maxpool": one("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "maxpool overlapping padded": one("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "maxpool asymmetric": one("MaxPool", IMAGE, kernel_shape=[3, 2], pads=[0, 1, 2, 0]),
    "maxpool default strides": one("MaxPool", IMAGE, kernel_shape=[2, 3]),
    "maxpool dilations": one("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    "maxpool ceil that divides": one("MaxPool", (4, 8, 6), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "maxpool same upper": one("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "maxpool one axis": one("MaxPool", (4, 9), kernel_shape=[3], strides=[2], pads=[1, 0]),
    "averagepool": one("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "averagepool padded, padding left out": one("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "averagepool padded, padding counted": one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "conv 1x1 with pads": one("Conv", IMAGE, {"w": random(2, 4, 1, 1), "b": random(2)}, pads=[1, 1, 1, 1]),
    "averagepool one axis": one("AveragePool", (4, 9), kernel_shape=[3], strides=[2], pads=[1, 1]),
    "globalaveragepool": one("GlobalAveragePool", IMAGE),
    "batchnorm": one(
        "BatchNormalization", IMAGE, {"s": random(4), "b": random(4), "m": random(4), "v": np.abs(random(4)) + 0.1}, epsilon=1e-2
    ),
    "batchnorm of features": one(
        "BatchNormalization", (4,), {"s": random(4), "b": random(4), "m": random(4), "v": np.abs(random(4))}, epsilon=1e-1
    ),
    "batchnorm opset 9": one(
        "BatchNormalization", (4, 5), {"s": random(4), "b": random(4), "m": random(4), "v": np.abs(random(4))}, epsilon=1e-1, opset=9
    ),
    "transpose": one("Transpose", IMAGE, perm=[0, 3, 1, 2]),
    "flatten": one("Flatten", IMAGE, axis=1),
    "flatten negative axis": one("Flatten", IMAGE, axis=-3),
    "flatten after axes of length 1": one("Flatten", (1, 1, 6), axis=3),
    "reshape": one("Reshape", IMAGE, {"s": ints(-1, 6, 28)}),
    "reshape zero": one("Reshape", IMAGE, {"s": ints(0, 0, -1)}),
    "squeeze": one("Squeeze", (1, 4, 1), {"a": ints(1, -1)}),
    "squeeze opset 11": one("Squeeze", (1, 4, 1), opset=11, axes=[1]),
    "unsqueeze": one("Unsqueeze", (4, 3), {"a": ints(1, -1)}),
    "unsqueeze opset 11": one("Unsqueeze", (4, 3), opset=11, axes=[2]),
    **{
        f"{kind.lower()} {name}": one(kind, IMAGE, {"c": constant}, order=order)
        for kind in ("Add", "Sub", "Mul", "Div")
        for order in ("x c", "c x")
        for name, constant in {
            f"{order} scalar": np.float32(0.7),
            f"{order} length 1": random(1),
            f"{order} channels": random(4, 1, 1),
            f"{order} batched channels": random(1, 4, 1, 1),
            f"{order} last axis": random(6),
            f"{order} full": random(*IMAGE),
        }.items()
    },
    "add widens": one("Add", (4, 1, 6), {"c": random(3, 1)}),
    "mul widens batched": one("Mul", (1, 6), {"c": random(1, 3, 1)}),
    **WIDE,
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnxruntime(name: str) -> None:
    assert_agrees(CASES[name])


def test_every_operator_of_the_allow_list_is_covered() -> None:
    used = {node.op_type for data in WIDE.values() for node in onnx.load_model_from_string(data).graph.node}
    assert set(OPERATORS) == COVERED | (used & set(OPERATORS))


# Shown sound in tests/soundness/test_bounds_matrix.py and test_bounds_operators.py, each in the form that for_bounds gives it.
BOUNDED = {
    "Abs",
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "CumSum",
    "DepthToSpace",
    "Div",
    "Einsum",
    "Expand",
    "Flatten",
    "Gather",
    "GatherND",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "LeakyRelu",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Upsample",
    "Where",
}


def test_only_what_was_shown_sound_is_bounded() -> None:
    graphs = [read_onnx(data) for data in CASES.values()]
    assert {operator.type for graph in graphs for operator in graph.operators if not operator.unbounded} == BOUNDED


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("order", ["r s", "s r"])
def test_two_data_tensors(kind: str, order: str) -> None:
    nodes = [node("Relu", "x", "r"), node("Sigmoid", "x", "s0"), node("Add", "s0 one", "s"), node("Add", "r one", "r1")]
    nodes += [node(kind, order.replace("r", "r1"), "y"), node("Flatten", "y", "logits")]
    assert_agrees(model_bytes(nodes, {"one": np.ones(1, np.float32)}, input_shape=("batch", 3, 2)))


def test_two_data_tensors_of_different_sizes() -> None:
    nodes = [node("GlobalAveragePool", "x", "g"), node("Mul", "x g", "y"), node("Flatten", "y", "logits")]
    assert_agrees(model_bytes(nodes, {}, input_shape=("batch", *IMAGE)))


@pytest.mark.parametrize("opset", [9, 12, 17])
def test_identity_and_dropout_vanish(opset: int) -> None:
    nodes = [node("Identity", "x", "i"), node("Dropout", "i", "d"), node("Relu", "d", "logits")]
    graph = assert_agrees(model_bytes(nodes, {}, input_shape=("batch", 3), opset=opset))
    assert [operator.type for operator in graph.operators] == ["Relu"]


def test_dropout_that_says_it_is_not_training() -> None:
    nodes = [node("Dropout", "x ratio training", "d"), node("Relu", "d", "logits")]
    weights = {"ratio": np.float32(0.5), "training": np.bool_(False)}
    assert_agrees(model_bytes(nodes, {k: np.asarray(v) for k, v in weights.items()}, input_shape=("batch", 3)))


def test_constants_as_nodes_and_folded_weights() -> None:
    weight = onnx.numpy_helper.from_array(random(3, 6))
    nodes = [
        node("Constant", "", "w", value=weight),
        node("Transpose", "w", "wt", perm=[1, 0]),
        node("Identity", "wt", "wi"),
        node("MatMul", "x wi", "y"),
        node("Constant", "", "b", value_floats=[0.1, 0.2, 0.3]),
        node("Add", "y b", "z"),
        node("Constant", "", "two", value_float=2.0),
        node("Mul", "two z", "logits"),
    ]
    assert_agrees(model_bytes(nodes, {}, input_shape=("batch", 6)))


def test_shape_arithmetic_keeps_the_batch() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "n", axis=0),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 rest", "target", axis=0),
        node("Reshape", "x target", "logits"),
    ]
    weights = {"zero": np.array(0), "axes": ints(0), "rest": ints(-1)}
    assert_agrees(model_bytes(nodes, weights, input_shape=("batch", 2, 3)))


@pytest.mark.parametrize("target", [(1, -1), (1, 6), (-1, 6), (0, -1)])
def test_a_file_of_batch_one_is_free_in_the_batch(target: tuple[int, int]) -> None:
    nodes = [node("Relu", "x", "r"), node("Reshape", "r target", "f"), node("Gemm", "f w", "logits")]
    data = model_bytes(nodes, {"target": ints(*target), "w": random(6, 3)}, input_shape=(1, 1, 2, 3), output_shape=(1, 3))
    assert assert_agrees(data).input_shape == (1, 2, 3)


def test_weights_that_are_also_listed_as_inputs() -> None:
    model = onnx.load_model_from_string(CASES["gemm transB bias"])
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model.opset_import[0].version = 8
    assert assert_agrees(model.SerializeToString()).input == "x"


def test_what_the_logits_do_not_need_is_dropped() -> None:
    nodes = [node("Sigmoid", "x", "unused"), node("Relu", "x", "logits")]
    graph = assert_agrees(model_bytes(nodes, {}, input_shape=("batch", 3)))
    assert [operator.output for operator in graph.operators] == ["logits"]
    assert set(graph.shapes) == {"x", "logits"}


def test_pad_by_nothing_vanishes() -> None:
    nodes = [node("Pad", "x", "p", mode="constant", pads=[0] * 8), node("Flatten", "p", "logits")]
    assert_agrees(model_bytes(nodes, {}, input_shape=("batch", 2, 3, 3), opset=9))


@pytest.mark.parametrize("name", CASES)
def test_the_rewrite_for_bounds_is_the_same_function(name: str) -> None:
    """In float64, to 1e-9: BatchNormalization and scaled Gemm are folded, everything else is as it was."""
    graph = read_onnx(CASES[name])
    reasons = [operator.unbounded for operator in graph.operators if operator.unbounded]
    if reasons:
        with pytest.raises(ModelRejected, match="bound propagation does not support") as caught:
            bounds_module(graph)
        assert reasons[0] in str(caught.value)
        return
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(5, *graph.input_shape)))
    torch.testing.assert_close(bounds_module(graph)(x), GraphModule(graph, torch.float64)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traced_once_it_serves_any_batch() -> None:
    for name in ("conv", "reshape", "flatten", "batchnorm", "maxpool", "globalaveragepool", "gemm alpha beta", "transpose"):
        module = GraphModule(read_onnx(CASES[name])).eval()
        shape = module.graph.input_shape
        traced = torch.jit.trace(module, torch.zeros(2, *shape))
        x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(traced(x), module(x))
