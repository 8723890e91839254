"""What is outside the allow-list is refused with a sentence that names it and the mend."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from certify.errors import ModelRejected, Problem
from certify.graph import proto
from certify.graph.reader import read_onnx
from tests.support.onnx_models import Array, linear_model, mlp, model_bytes, node, small_cnn
from tests.support.onnx_reference import assert_agrees

RNG = np.random.default_rng(3)


def random(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def problem(data: bytes) -> Problem:
    with pytest.raises(ModelRejected) as caught:
        read_onnx(data)
    (found,) = caught.value.problems
    assert found.mend, f"no mend in {found}"
    return found


def graph_of(*nodes: onnx.NodeProto, shape: tuple[int, ...] = (2, 6), opset: int = 17, **weights: Array) -> bytes:
    return model_bytes(nodes, weights, input_shape=("batch", *shape), opset=opset)


def changed(change: Callable[[onnx.ModelProto], object], data: bytes | None = None) -> bytes:
    model = onnx.load_model_from_string(data or mlp((4, 5, 3)))
    change(model)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file is empty"),
        (b"no model", "is not an ONNX file"),
        (b"\x00" * 64, "is not an ONNX file"),
        (pickle.dumps({"weights": [1.0]}), "pickle"),
        (b"PK\x03\x04" + b"\x00" * 40, "zip archive"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "its graph is empty"),
        (mlp((4, 5, 3))[:-40], "is not an ONNX file"),
    ],
)
def test_what_is_no_onnx_file(data: bytes, says: str) -> None:
    found = problem(data)
    assert found.field == "model"
    assert says in found.detail
    assert "torch.onnx.export" in found.mend


def _external(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")


def _constant_external(model: onnx.ModelProto) -> None:
    value = TensorProto(name="inner", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], name="sneaky", value=value))


def _weight(value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
        weight.flat[0] = value
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w0"))

    return change


def _element_type(dtype: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(dtype)
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w0"))

    return change


def _subnormal(model: onnx.ModelProto) -> None:
    weight = np.full((5, 4), 1e-40, np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w0"))


def _lying_dims(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def _many_dims(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims.extend([2**62] * 200_000)


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        (_external, "model.w0", "keeps its data in another file"),
        (_constant_external, "model.sneaky", "keeps its data in another file"),
        (_weight(float("nan")), "model.w0", "contains NaN"),
        (_weight(float("inf")), "model.w0", "contains infinity"),
        (_subnormal, "model.w0", "only subnormal numbers"),
        (_element_type(np.float64), "model.gemm_h0", "weights of type float64"),
        (_element_type(np.float16), "model.w0", "element type float16"),
        (_element_type(np.int64), "model.gemm_h0", "weights of type int64"),
        (_lying_dims, "model.w0", "holds another number of values"),
        (_many_dims, "model.w0", "says its shape is [5, 4, 4611686018427387904"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "model", "two weights named 'w0'"),
        (lambda m: m.functions.add(name="f", domain="here"), "model", "functions"),
        (lambda m: m.graph.sparse_initializer.add(), "model", "sparse weights"),
        (lambda m: setattr(m.graph.node[0], "domain", "com.microsoft"), "model", "domain 'com.microsoft'"),
        (lambda m: setattr(m.opset_import[0], "version", 6), "model", "opset 6"),
        (lambda m: setattr(m.opset_import[0], "version", 9999), "model", "opset 9999"),
        (lambda m: m.opset_import.add(domain="ai.onnx", version=13), "model", "twice"),
        (lambda m: m.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])), "model", "2 inputs"),
        (lambda m: m.graph.output.append(helper.make_tensor_value_info("h0", TensorProto.FLOAT, [1, 5])), "model", "2 outputs"),
        (lambda m: m.graph.output.pop(), "model", "0 outputs"),
        (lambda m: setattr(m.graph.output[0], "name", "nowhere"), "model", "does not depend on the input"),
        (lambda m: setattr(m.graph.output[0], "name", "x"), "model", "does not depend on the input"),
        (lambda m: m.graph.node.insert(0, m.graph.node.pop()), "model.gemm_logits", "nothing before it defines"),
        (lambda m: m.graph.node.append(m.graph.node[0]), "model.gemm_h0", "'h0' is defined twice"),
        (lambda m: m.graph.node.insert(0, node("Relu", "x", "w0")), "model.relu_w0", "'w0' is defined twice"),
        (lambda m: m.graph.node.insert(0, node("Relu", "x", "x")), "model.relu_x", "'x' is defined twice"),
        (lambda m: m.graph.node[0].attribute.add(name="surprise", type=2, i=1), "model.gemm_h0", "attribute 'surprise'"),
        (lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0]), "model.gemm_h0", "attribute 'transB'"),
        (lambda m: m.graph.node[0].attribute.add(name="alpha", type=1, f=float("nan")), "model.gemm_h0", "'alpha' is NaN"),
        (lambda m: m.graph.node[0].attribute.add(name="alpha", type=2, i=3), "model.gemm_h0", "attribute 'alpha'"),
        (lambda m: m.graph.node[0].attribute.add(name="alpha", type=1, ref_attr_name="a"), "model.gemm_h0", "attribute 'alpha'"),
        (lambda m: m.graph.node[1].input.append("b0"), "model.relu_a0", "has 2 inputs"),
        (lambda m: m.graph.node.extend([node("Relu", "a0", f"r{i}") for i in range(20_001)]), "model", "more than 20000"),
    ],
)
def test_files_that_break_a_rule(change: Callable[[onnx.ModelProto], object], field: str, says: str) -> None:
    found = problem(changed(change))
    assert found.field == field
    assert says in found.detail


def test_a_mask_is_no_output_of_dropout() -> None:
    dropout = helper.make_node("Dropout", ["x"], ["", "mask"], name="drop")
    assert "0 outputs" not in problem(graph_of(dropout, node("Flatten", "mask", "logits"))).detail


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((3, 4), "the batch axis is fixed to 3"),
        (("batch",), "has shape [0]"),
        ((), "has shape []"),
        (("batch", "width"), "has shape [0, 0]"),
        (("batch", 2**20, 2**20), "has shape"),
        (("batch", *([1] * 20)), "has shape"),
    ],
)
def test_inputs_without_a_free_batch_and_fixed_examples(shape: tuple[Any, ...], says: str) -> None:
    found = problem(model_bytes([node("Flatten", "x", "logits")], {}, input_shape=shape))
    assert found.field == "model.x"
    assert says in found.detail


def test_inputs_of_another_type() -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE

    assert problem(changed(change)).detail == "the input is not float32"


@pytest.mark.parametrize(
    ("data", "shape"),
    [(linear_model(random(1, 4), random(1)), [1]), (graph_of(node("Relu", "x", "logits")), [2, 6])],
)
def test_outputs_that_are_no_logits(data: bytes, shape: list[int]) -> None:
    found = problem(data)
    assert found.detail == f"the output of one example has shape {shape}"
    assert "at least 2 classes" in found.mend


FLAT = node("Flatten", "y", "logits")
RESIZE = helper.make_node("Resize", ["x", "", "s"], ["y"], name="resize")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        # the batch axis
        (graph_of(node("Transpose", "x", "y", perm=[1, 0, 2]), FLAT), "the output of one example"),
        (graph_of(node("Transpose", "x", "t", perm=[1, 0, 2]), node("Softmax", "t", "y", axis=1), FLAT), "across the batch"),
        (graph_of(node("Transpose", "x", "t", perm=[1, 2, 0]), node("MatMul", "t w", "y"), FLAT, w=random(1, 3)), "across the batch"),
        (graph_of(node("Flatten", "x", "y", axis=0), FLAT), "the output of one example"),
        (graph_of(node("Flatten", "x", "f", axis=0), node("Gemm", "f w", "logits"), w=random(12, 3)), "across the batch"),
        (graph_of(node("Flatten", "x", "f", axis=2), node("ReduceMean", "f", "logits", axes=[0]), opset=13), "across the batch"),
        (graph_of(node("Flatten", "x", "y", axis=9), FLAT, shape=(1, 1)), "the axis 9 for 3 axes"),
        (graph_of(node("Reshape", "x s", "y"), FLAT, s=ints(1, -1)), "the output of one example"),
        (graph_of(node("Reshape", "x s", "f"), node("Gemm", "f w", "logits"), s=ints(1, -1), w=random(12, 3)), "across the batch"),
        (graph_of(node("Reshape", "x s", "y"), FLAT, s=ints(4, -1)), "mixes the batch with other axes"),
        (graph_of(node("Reshape", "x s", "y"), FLAT, s=ints(-1, -1)), "cannot turn examples"),
        (graph_of(node("Reshape", "x s", "y"), FLAT, s=ints(5, -1)), "cannot turn examples"),
        (graph_of(node("Reshape", "x s", "y", allowzero=1), FLAT, s=ints(0, -1)), "cannot turn examples"),
        (graph_of(node("Reshape", "x s", "y"), FLAT, s=ints(2**62, 4, -1)), "cannot turn examples"),
        (graph_of(node("Reshape", "x s", "y"), FLAT, s=ints(*[1] * 40)), "a target of shape [40]"),
        (graph_of(node("Squeeze", "x a", "y"), FLAT, a=ints(0)), "across the batch"),
        (graph_of(node("Squeeze", "x a", "y"), FLAT, shape=(1, 4), a=ints(4)), "has the axis 4"),
        (graph_of(node("Squeeze", "x a", "y"), FLAT, shape=(1, 4), a=ints(2)), "must name axes of length 1"),
        (graph_of(node("Squeeze", "x", "y"), FLAT, shape=(1, 4)), "must name axes"),
        (graph_of(node("Unsqueeze", "x a", "y"), FLAT, a=ints(0)), "the output of one example"),
        (graph_of(node("Unsqueeze", "x a", "y"), FLAT, a=ints(1, 1)), "each once"),
        (graph_of(node("Add", "x c", "y"), FLAT, c=random(3, 2, 6)), "along the batch axis"),
        (graph_of(node("PRelu", "x c", "y"), FLAT, c=random(3, 2, 6)), "along the batch axis"),
        (graph_of(node("Gemm", "x w", "y", transA=1), FLAT, shape=(6,), w=random(6, 3)), "mixes the examples"),
        (graph_of(node("MatMul", "w x", "y"), FLAT, shape=(6,), w=random(4, 5)), "cannot multiply"),
        (graph_of(node("MatMul", "w x", "y"), FLAT, shape=(6,), w=random(4, 1)), "across the batch"),
        (graph_of(node("MatMul", "x w", "y"), FLAT, w=random(3, 6, 2)), "cannot multiply shapes"),
        (graph_of(node("MatMul", "x w", "y"), FLAT, w=random(5, 2)), "cannot multiply"),
        (graph_of(node("Transpose", "x", "t"), node("MatMul", "t x", "y"), FLAT, shape=(6,)), "across the batch"),
        (graph_of(node("Concat", "x x", "y", axis=0), FLAT), "across the batch"),
        (graph_of(node("Gather", "x i", "y", axis=0), FLAT, i=ints(0)), "across the batch"),
        (graph_of(node("Slice", "x a b c", "y"), FLAT, a=ints(0), b=ints(1), c=ints(0)), "across the batch"),
        (graph_of(node("Slice", "x a b c d", "y"), FLAT, a=ints(-1), b=ints(-(2**62)), c=ints(0), d=ints(-1)), "across the batch"),
        (graph_of(node("Split", "x", "y", axis=0), FLAT, opset=11), "across the batch"),
        (graph_of(node("Tile", "x r", "y"), FLAT, r=ints(2, 1, 1)), "across the batch"),
        (graph_of(node("Expand", "x s", "y"), FLAT, s=ints(2, 2, 6)), "across the batch"),
        (graph_of(node("Pad", "x p", "y"), FLAT, p=ints(1, 0, 0, 0, 0, 0)), "across the batch"),
        (graph_of(RESIZE, FLAT, s=np.array([2, 1, 1], np.float32)), "across the batch"),
        (graph_of(node("CumSum", "x a", "y"), FLAT, a=np.array(0)), "across the batch"),
        (graph_of(node("ReduceMean", "x", "y", axes=[0]), FLAT), "across the batch"),
        (graph_of(node("ReduceMean", "x", "y"), FLAT), "across the batch"),
        (graph_of(node("Softmax", "x", "y", axis=0), FLAT), "across the batch"),
        (graph_of(node("Softmax", "x", "y", axis=0), FLAT, opset=11), "across the batch"),
        (graph_of(node("Transpose", "x", "t", perm=[1, 0, 2]), node("Softmax", "t", "y", axis=0), FLAT, opset=11), "across the batch"),
        (graph_of(node("LayerNormalization", "x s", "y", axis=0), FLAT, s=random(6)), "across the batch"),
        (graph_of(node("LpNormalization", "x", "y", axis=0), FLAT), "across the batch"),
        (graph_of(node("Einsum", "x", "y", equation="bij->ij"), FLAT), "across the batch"),
        (graph_of(node("Einsum", "x x", "y", equation="bij,cij->bci"), FLAT), "across the batch"),
        (graph_of(node("Einsum", "x w", "y", equation="bij,bi->bij"), FLAT, w=random(1, 2)), "across the batch"),
        (
            graph_of(
                node("GlobalAveragePool", "x", "g"),
                node("Reshape", "g s", "v"),
                node("Add", "v x", "y"),
                FLAT,
                shape=(3, 4, 4),
                s=ints(-1, 3),
            ),
            "align the batch axis",
        ),
        # training, chance, control flow
        (
            graph_of(node("BatchNormalization", "x s s s v", "y", training_mode=1), FLAT, s=random(2), v=np.ones(2, np.float32)),
            "training mode",
        ),
        (
            graph_of(node("Dropout", "x r t", "y"), FLAT, r=np.asarray(np.float32(0.5)), t=np.asarray(True)),
            "training mode",
        ),
        (graph_of(node("RandomNormalLike", "x", "y"), FLAT), "is random"),
        (graph_of(node("Bernoulli", "x", "y"), FLAT), "is random"),
        (graph_of(helper.make_node("Loop", ["", "", "x"], ["y"], name="l"), FLAT), "control flow"),
        (graph_of(node("NoSuchOperator", "x", "y"), FLAT), "NoSuchOperator is not supported"),
        (graph_of(node("Gelu", "x", "y"), FLAT), "Gelu does not exist in opset 17"),
        (graph_of(node("TopK", "x k", "y"), FLAT, k=ints(1)), "TopK is not supported"),
        (graph_of(node("Range", "x a b", "y"), FLAT, a=np.array(1), b=np.array(1)), "Range on data is not supported"),
        # parameters outside what is supported
        (graph_of(node("Cast", "x", "y", to=11), FLAT), "Cast of data to the element type number 11"),
        (graph_of(node("Clip", "x a b", "y"), FLAT, a=np.float32(1), b=np.float32(0)), "min = 1 above max = 0"),
        (graph_of(node("Pad", "x p", "y", mode="reflect"), FLAT, p=ints(0, 0, 6, 0, 0, 0)), "mode 'reflect'"),
        (graph_of(node("Gather", "x i", "y", axis=1), FLAT, i=ints(2)), "places outside an axis of 2"),
        (graph_of(node("Slice", "x a b", "y"), FLAT, a=ints(0, 2), b=ints(2**62, 2)), "leaves nothing"),
        (graph_of(node("Expand", "x s", "y"), FLAT, s=ints(1, 2, 7)), "cannot expand"),
        (graph_of(node("CumSum", "x a", "y", reverse=1), FLAT, a=np.array(1)), "exclusive or reverse"),
        (graph_of(node("Einsum", "x", "y", equation="...ij->...ji"), FLAT), "has the equation"),
        (graph_of(node("GroupNormalization", "x s s", "y", num_groups=3), FLAT, s=random(3), opset=18), "3 groups"),
        (graph_of(node("DepthToSpace", "x", "y", blocksize=2), FLAT, shape=(3, 4, 4)), "blocksize 2"),
        (graph_of(node("Tile", "x r", "y"), FLAT, r=ints(1, 2**40, 1)), "makes a tensor of shape"),
        (graph_of(node("Expand", "x s", "y"), FLAT, s=ints(2**40, 1, 2, 6)), "makes a tensor of shape"),
        (graph_of(node("Pad", "x p", "y"), FLAT, p=ints(0, 0, 2**40, 0, 0, 0)), "pads that are too large"),
        (graph_of(node("Conv", "x w", "y"), FLAT, shape=(3, 4, 4, 4, 4), w=random(2, 3, 1, 1, 1, 1)), "on examples of shape"),
        # windows
        (graph_of(node("Conv", "x w", "y"), FLAT, shape=(3, 8, 8), w=random(2, 4, 3, 3)), "in 1 groups on 3 channels"),
        (graph_of(node("Conv", "x w", "y"), FLAT, shape=(3, 2, 2), w=random(2, 3, 3, 3)), "window larger than its input"),
        (graph_of(node("Conv", "x w", "y", auto_pad="ODD"), FLAT, shape=(3, 8, 8), w=random(2, 3, 3, 3)), "auto_pad 'ODD'"),
        (graph_of(node("Conv", "x w", "y", kernel_shape=[5, 5]), FLAT, shape=(3, 8, 8), w=random(2, 3, 3, 3)), "contradicts"),
        (
            graph_of(node("Conv", "x w", "y", pads=[2**40, 0, 0, 0], strides=[2**20, 1]), FLAT, shape=(3, 8, 8), w=random(2, 3, 3, 3)),
            "pads its input",
        ),
        (graph_of(node("MaxPool", "x", "y", kernel_shape=[2**40] * 2, auto_pad="SAME_UPPER"), FLAT, shape=(3, 8, 8)), "pads its input"),
        (graph_of(node("MaxPool", "x", "y", kernel_shape=[2, 2], pads=[2, 0, 0, 0]), FLAT, shape=(3, 8, 8)), "as large as its kernel"),
        (
            graph_of(node("MaxPool", "x", "y", kernel_shape=[2, 2], dilations=[3, 3], pads=[1, 1, 1, 1]), FLAT, shape=(3, 2, 2)),
            "windows without any value",
        ),
        (graph_of(node("AveragePool", "x", "y", kernel_shape=[2, 2], dilations=[2, 2]), FLAT, shape=(3, 8, 8), opset=19), "dilations"),
        # arithmetic
        (graph_of(node("Div", "x c", "y"), FLAT, c=np.zeros(6, np.float32)), "divides by zero"),
        (graph_of(node("Add", "x c", "y"), FLAT, c=random(5)), "cannot combine"),
        (graph_of(node("Mul", "x c", "y"), FLAT, c=np.array([2])), "weights of type int64"),
        (graph_of(node("BatchNormalization", "x s s s v", "y"), FLAT, s=random(2), v=-np.ones(2, np.float32)), "negative variance"),
        (graph_of(node("Add", "x c", "y"), FLAT, shape=(1, 2**14), c=np.ones((2**13, 1), np.float32)), "makes a tensor of shape"),
    ],
)
def test_operators_outside_the_allow_list(data: bytes, says: str) -> None:
    found = problem(data)
    assert found.field.startswith("model.") or says == "the output of one example"
    assert says in found.detail


def test_the_field_is_the_node_and_a_long_name_is_cut() -> None:
    long = helper.make_node("TopK", ["x", "x"], ["y", "z"], name="n" * 10_000_000)
    found = problem(graph_of(long, FLAT))
    assert found.field.startswith("model.nnn")
    assert len(found.sentence()) < 1000


def test_a_short_file_cannot_ask_for_much_memory() -> None:
    """Concat of a constant with itself, 60 times over, would be 2^60 values."""
    nodes = [node("Constant", "", "c0", value_ints=[1, 1])]
    nodes += [node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(60)]
    assert "constants that are too large" in problem(graph_of(*nodes, node("Reshape", "x c60", "logits"))).detail


def test_a_file_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proto.MAX_BYTES == 512 * 2**20
    monkeypatch.setattr(proto, "MAX_BYTES", 100)
    assert "bytes, more than 100" in problem(mlp((4, 5, 3))).detail


def test_the_small_networks_of_the_tests_are_read() -> None:
    """The negative control: nothing above is refused because everything is."""
    for data in (mlp((4, 5, 3)), small_cnn(mean=0.5), linear_model(random(3, 4), random(3))):
        read_onnx(data)


def rows(step: int) -> bytes:
    """All rows one after another; then each row of the batch takes the places from `step` times its number on."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "count"),
        node("Range", "zero count one", "numbers"),
        node("Mul", "numbers step", "starts"),
        node("Unsqueeze", "starts last", "column"),
        node("Add", "column places", "index"),
        node("Reshape", "x all", "line"),
        node("Gather", "line index", "logits"),
    ]
    weights = {"zero": 0, "one": 1, "step": step, "last": [1], "places": [[0, 2, 4, 3]], "all": [-1]}
    return model_bytes(nodes, {k: np.array(v, dtype=np.int64) for k, v in weights.items()}, input_shape=("batch", 6))


def test_places_that_follow_the_rows_are_read_and_others_refused() -> None:
    """What torch writes for a strided view; were every row sent to the first one's places, examples would answer for one another."""
    assert_agrees(rows(6))
    for step in (0, 5, 7):
        assert "depends on the batch size" in problem(rows(step)).detail
