"""A row's answer never depends on how many rows are asked together: smuggled batch sizes are refused, honest uses are exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from certify.errors import ModelRejected
from certify.graph.reader import read_onnx
from tests.support.onnx_models import Array, model_bytes, node
from tests.support.onnx_reference import assert_agrees, reference

NUMBERS: Mapping[str, Any] = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "hundred": 100,
    "zeros": [0],
    "ones": [1],
    "last": [-1],
    "rest": [-1, 3],
}


def numbered(values: Mapping[str, Any]) -> dict[str, Array]:
    """Integers as int64, all others as float32."""
    found = {name: np.asarray(value) for name, value in values.items()}
    return {name: value.astype(np.int64 if value.dtype.kind == "i" else np.float32) for name, value in found.items()}


def network(*nodes: onnx.NodeProto, features: tuple[int, ...] = (6,), opset: int = 17, **more: Any) -> bytes:
    """`n` is the batch size, a scalar, and `n1` a list of it; the nodes make `y` of `x`, flattened to logits."""
    count = [node("Shape", "x", "shape"), node("Gather", "shape zero", "n"), node("Unsqueeze", "n zeros", "n1")]
    weights = numbered({**NUMBERS, **more})
    return model_bytes([*count, *nodes, node("Flatten", "y", "logits")], weights, input_shape=("batch", *features), opset=opset)


def valued(*nodes: onnx.NodeProto, **more: Any) -> bytes:
    """The nodes make `v` of the batch size, which is a factor of every value."""
    return network(*nodes, node("Cast", "v", "factor", to=1), node("Mul", "x factor", "y"), **more)


def of_type(value: Any) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array([value], np.float32))


FAR = {"far": 2**31 - 1}
SMUGGLED: dict[str, bytes] = {
    "compared and chosen by": network(node("Less", "n hundred", "c"), node("Neg", "x", "m"), node("Where", "c x m", "y")),
    "compared and cast": valued(node("Less", "n hundred", "v")),
    "equal to one batch size": valued(node("Equal", "n hundred", "v")),
    "itself": valued(node("Identity", "n", "v")),
    "the smaller of it and a number": valued(node("Min", "n hundred", "v")),
    "the larger of it and a number": valued(node("Max", "n hundred", "m"), node("Sub", "m hundred", "v")),
    "its remainder": valued(node("Mod", "n three", "v")),
    "divided with a remainder": valued(node("Div", "n hundred", "v")),
    "the number of values": valued(node("Size", "x", "v")),
    "the sum of as many ones": valued(
        node("ConstantOfShape", "n1", "c", value=of_type(1.0)), node("ReduceSum", "c", "v", keepdims=0)
    ),
    "the shape of a constant": valued(
        node("ConstantOfShape", "n1", "c", value=of_type(1.0)), node("Shape", "c", "s"), node("ReduceMax", "s", "v")
    ),
    "the end of a running sum": valued(
        node("ConstantOfShape", "n1", "c", value=of_type(1.0)), node("CumSum", "c zero", "s"), node("Gather", "s last", "v")
    ),
    "the row's number": network(
        node("Range", "zero n one", "r"), node("Unsqueeze", "r ones", "r1"), node("Cast", "r1", "f", to=1), node("Mul", "x f", "y")
    ),
    "the end of a slice": network(
        node("Add", "n1 ones", "e"),
        node("Slice", "x zeros e ones", "s"),
        node("ReduceSum", "s ones", "y"),
    ),
    "the start of a slice": network(
        node("Sub", "n1 ones", "b"), node("Slice", "x b seven ones", "s"), node("ReduceSum", "s ones", "y"), seven=[7], features=(9,)
    ),
    "which value is taken": network(node("Less", "n1 hundred", "c"), node("Cast", "c", "i", to=7), node("Gather", "x i", "y", axis=1)),
    "copies along an example": network(
        node("Concat", "ones n1", "t", axis=0), node("Tile", "x t", "c"), node("ReduceSum", "c ones", "y")
    ),
    "copies along an axis of length one": network(
        node("Concat", "n1 n1", "t", axis=0), node("Expand", "x t", "c"), node("ReduceSum", "c ones", "y"), features=(1,)
    ),
    "another order of values": network(
        node("Less", "n1 hundred", "c"),
        node("Where", "c wide high", "target"),
        node("Reshape", "x target", "r"),
        node("ReduceSum", "r last", "y"),
        wide=[-1, 2, 3],
        high=[-1, 3, 2],
    ),
    "a shape with the batch twice": network(
        node("Concat", "n1 n1 last", "t", axis=0), node("Reshape", "x t", "r"), node("ReduceSum", "r ones", "y"), features=(36,)
    ),
    "padding that is nothing for one row": network(
        node("Sub", "n1 ones", "p"),
        node("Concat", "zeros p zeros zeros", "pads", axis=0),
        node("Pad", "x pads", "q"),
        node("Slice", "q zeros six ones", "y"),
        six=[6],
    ),
    "the value of the padding": network(
        node("Cast", "n", "f", to=1), node("Pad", "x pads f", "y"), pads=[0, 1, 0, 0]
    ),
    "the end of a clip": network(node("Cast", "n", "f", to=1), node("Div", "f big", "g"), node("Clip", "x low g", "y"), low=-9.0, big=4.0),
    "the size of an image": network(
        node("Concat", "n1 ones two1 n1", "s", axis=0),
        onnx.helper.make_node("Resize", ["x", "", "", "s"], ["r"], name="resize", mode="nearest"),
        node("ReduceSum", "r axes", "y", keepdims=0),
        features=(1, 2, 1),
        two1=[2],
        axes=[2, 3],
    ),
    "rows in reverse": network(
        node("Sub", "n one", "b"),
        node("Neg", "one", "m"),
        node("Range", "b m m", "r"),
        node("Gather", "x r", "y"),
    ),
    "rows in reverse, counted from the end": network(
        node("Mul", "n six", "all"),
        node("Range", "zero n one", "r"),
        node("Mul", "r six", "s"),
        node("Unsqueeze", "s ones", "s1"),
        node("Add", "s1 from", "i"),
        node("Reshape", "x last", "line"),
        node("Gather", "line i", "y"),
        six=6,
        **{"from": [[-1, -2]]},
    ),
    "one copy for each row, along an example": network(
        node("ConstantOfShape", "n1", "c", value=of_type(1.0)),
        node("Add", "x c", "s"),
        node("ReduceSum", "s ones", "y"),
        features=(1,),
    ),
    "which axes are summed": network(
        node("Less", "n1 hundred", "c"),
        node("Cast", "c", "i", to=7),
        node("Add", "i ones", "a"),
        node("ReduceSum", "x a", "y"),
        features=(3, 3),
    ),
    "where a weight is": network(
        node("Less", "n hundred", "c"), node("Where", "c w v", "u"), node("MatMul", "x u", "y"), w=np.eye(6), v=-np.eye(6)
    ),
    "beside the values": network(
        node("Cast", "n1", "f", to=1),
        node("Concat", "n1 ones", "t", axis=0),
        node("Expand", "f t", "e"),
        node("Concat", "x e", "y", axis=1),
    ),
    "a triangle": network(
        node("Concat", "n1 n1", "t", axis=0),
        node("ConstantOfShape", "t", "c", value=of_type(1.0)),
        node("ReduceSum", "c ones", "s"),
        node("Mul", "x s", "y"),
    ),
    "a number too large for its type": valued(
        node("Mul", "n huge", "h"), node("Cast", "h", "i", to=6), node("Cast", "i", "f", to=1), node("Less", "f nought", "v"),
        huge=2**30, nought=0.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_batch_size_that_could_change_an_answer_is_refused_by_the_name_of_a_node(name: str) -> None:
    with pytest.raises(ModelRejected) as caught:
        read_onnx(SMUGGLED[name])
    (problem,) = caught.value.problems
    nodes = [made.name for made in onnx.load_model_from_string(SMUGGLED[name]).graph.node]
    assert problem.field.removeprefix("model.") in nodes
    assert "batch" in problem.detail, problem.detail
    assert problem.mend


@pytest.mark.parametrize("name", SMUGGLED)
def test_the_smuggled_batch_size_does_change_an_answer_or_the_file_stops_working(name: str) -> None:
    """Negative control: in onnxruntime the first row alone is answered otherwise than beside others."""
    data = SMUGGLED[name]
    shape = [d.dim_value for d in onnx.load_model_from_string(data).graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(2).uniform(0.5, 2.0, (120, *shape)).astype(np.float32)
    alone, different = [reference(data, row[None])[0] for row in x], False
    for count in (2, 3, 6, 100, 120):
        try:
            beside = reference(data, x[:count])
        except Exception:
            continue  # onnxruntime cannot run it on so many rows: no wrong answer
        different |= beside.shape != (count, *alone[0].shape) or not np.array_equal(beside, alone[:count])
    assert different


HONEST: dict[str, bytes] = {
    "as a target": network(node("Concat", "n1 two1 last", "t", axis=0), node("Reshape", "x t", "y"), two1=[2]),
    "times a number": network(
        node("Mul", "n1 two1", "m"),
        node("Concat", "m three1", "t", axis=0),
        node("Reshape", "x t", "r"),
        node("Relu", "r", "h"),
        node("Concat", "n1 last", "b", axis=0),
        node("Reshape", "h b", "y"),
        two1=[2],
        three1=[3],
    ),
    "divided back, through floats": network(
        node("Reshape", "x rest", "r"),
        node("Shape", "r", "s"),
        node("Gather", "s zeros", "m"),
        node("Cast", "m", "f", to=1),
        node("Div", "f half", "d"),
        node("Floor", "d", "e"),
        node("Cast", "e", "i", to=7),
        node("Concat", "i last", "t", axis=0),
        node("Reshape", "r t", "y"),
        half=[2.0],
    ),
    "the whole number of values": network(
        node("Size", "x", "s"), node("Div", "s six", "m"), node("Unsqueeze", "m zeros", "m1"), node("Concat", "m1 last", "t", axis=0),
        node("Reshape", "x t", "y"), six=6,
    ),
    "the product of a shape": network(
        node("ReduceProd", "shape", "s"), node("Div", "s six1", "m"), node("Concat", "m last", "t", axis=0), node("Reshape", "x t", "y"),
        six1=[6],
    ),
    "all rows of a slice": network(
        node("Concat", "n1 two1", "e", axis=0), node("Slice", "x begins e", "y"), begins=[0, 0], two1=[4]
    ),
    "an expansion that keeps it": network(
        node("Concat", "n1 four1", "t", axis=0), node("Expand", "x t", "y"), four1=[4], features=(1,)
    ),
    "never minus one": network(
        node("Concat", "n1 last", "t", axis=0),
        node("Equal", "t minus", "c"),
        node("Where", "c sixes t", "s"),
        node("Reshape", "x s", "y"),
        minus=[-1, -1],
        sixes=[1, 6],
    ),
    "at least one": network(node("Max", "n1 ones", "m"), node("Concat", "m last", "t", axis=0), node("Reshape", "x t", "y")),
    "a mask for each row": network(
        node("Concat", "n1 six", "t", axis=0),
        node("ConstantOfShape", "t", "c", value=of_type(0.5)),
        node("Sub", "c whole", "d"),
        node("Mul", "x d", "y"),
        six=[6],
        whole=1.0,
    ),
    "a mask picked for each row": network(
        node("Concat", "n1 three1", "t", axis=0),
        node("Expand", "picks t", "i"),
        node("Gather", "table i", "g"),
        node("Reshape", "g s", "h"),
        node("Add", "x h", "y"),
        picks=[[0, 2, 1]],
        three1=[3],
        table=np.arange(6.0).reshape(3, 2),
        s=[-1, 6],
    ),
    "tokens by tiling": network(
        node("Concat", "n1 ones ones", "t", axis=0), node("Tile", "token t", "c"), node("Concat", "c x", "y", axis=1),
        token=np.full((1, 1, 3), 0.25), features=(2, 3),
    ),
    "sizes of an image": network(
        node("Concat", "n1 ones four1 four1", "s", axis=0),
        onnx.helper.make_node("Resize", ["x", "", "", "s"], ["y"], name="resize", mode="nearest"),
        features=(1, 2, 3), four1=[4],
    ),
    "a division by itself": network(
        node("Concat", "n1 ones four1 four1", "s", axis=0),
        node("Cast", "shape", "f", to=1),
        node("Cast", "s", "g", to=1),
        node("Div", "g f", "scales"),
        onnx.helper.make_node("Resize", ["x", "", "scales"], ["y"], name="resize", mode="nearest"),
        features=(1, 2, 4), four1=[4],
    ),
    "in dead code": network(node("Cast", "n", "f", to=1), node("Exp", "f", "e"), node("Relu", "x", "y")),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_honest_uses_of_the_batch_size_are_read_and_exact_at_every_batch_size(name: str) -> None:
    assert_agrees(HONEST[name], batches=(1, 2, 5, 101, 130))


def test_a_file_for_a_batch_of_one_may_use_it_anywhere() -> None:
    data = model_bytes(
        [node("Shape", "x", "s"), node("Cast", "s", "f", to=1), node("Mul", "x f", "logits")], {}, input_shape=(1, 2), output_shape=(1, 2)
    )
    assert_agrees(data)


def test_dropout_that_trains_on_large_batches_is_refused() -> None:
    data = network(node("Greater", "n hundred", "c"), node("Dropout", "x ratio c", "y"), ratio=0.5)
    with pytest.raises(ModelRejected, match="training mode"):
        read_onnx(data)
