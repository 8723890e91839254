"""Weights that lie about their size, live in another file, or hold numbers that no network has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.hostile import Hostile, changed, floats, graph_of, ints, traps
from tests.support.onnx_models import node

_EXTERNAL = "certify/graph/proto.py refuses external data wherever a tensor can stand, and opens no path."
_SIZES = "certify/graph/proto.py counts the stored values in Python integers before NumPy sees the sizes."
_TYPES = "certify/graph/proto.py lists the element types that a constant may have."
_FINITE = "certify/graph/proto.py and Node.weight refuse NaN, infinity and weights that are all subnormal."
_ONCE = "certify/graph/proto.py and reader.py let every name be defined once."


def external(tensor: TensorProto, location: str, length: int | None = None) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if length is not None:
        tensor.external_data.add(key="length", value=str(length))


def _outside(location: Callable[[], str], length: int | None = None) -> Callable[[], bytes]:
    return lambda: changed(lambda m: external(m.graph.initializer[0], location(), length))


def _unflagged() -> bytes:
    """External data, and a data_location that denies it."""

    def change(model: onnx.ModelProto) -> None:
        external(model.graph.initializer[0], "weights.bin")
        model.graph.initializer[0].data_location = TensorProto.DEFAULT

    return changed(change)


def _in_constant() -> bytes:
    value = TensorProto(name="inner", data_type=TensorProto.FLOAT, dims=[12, 2])
    external(value, "weights.bin")
    return graph_of(helper.make_node("Constant", [], ["w"], value=value), node("Flatten", "x", "f"), node("MatMul", "f w", "logits"))


def _in_shape_value() -> bytes:
    value = TensorProto(name="inner", data_type=TensorProto.FLOAT, dims=[1])
    external(value, "weights.bin")
    made = node("ConstantOfShape", "s", "w", value=value)
    return graph_of(made, node("Flatten", "x", "f"), node("MatMul", "f w", "logits"), s=ints(12, 2))


def _in_sparse(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[5, 4])
    sparse.values.CopyFrom(TensorProto(name="w9", data_type=TensorProto.FLOAT, dims=[1]))
    sparse.indices.CopyFrom(TensorProto(data_type=TensorProto.INT64, dims=[1]))
    external(sparse.values, "weights.bin")


def _sparse_constant() -> bytes:
    values, indices = numpy_helper.from_array(np.ones(1, np.float32)), numpy_helper.from_array(ints(2**40))
    made = helper.make_node("Constant", [], ["w"], sparse_value=helper.make_sparse_tensor(values, indices, [2**21, 2**21]))
    return graph_of(made, node("Flatten", "x", "f"), node("MatMul", "f w", "logits"))


def _in_unused(model: onnx.ModelProto) -> None:
    """A weight that no node reads."""
    external(model.graph.initializer.add(name="spare", data_type=TensorProto.FLOAT, dims=[2**20]), str(traps() / "weights.bin"))


def _dims(*sizes: int) -> Callable[[], bytes]:
    return lambda: changed(lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), sizes))


def _array(value: Any) -> Callable[[], bytes]:
    """The first weights replaced, whatever their type."""
    return lambda: changed(lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(value, "w0")))


def _holding(value: float, everywhere: bool = False) -> Callable[[], bytes]:
    weight = np.zeros((5, 4), np.float32)
    weight[2, 3] = value
    return _array(np.full_like(weight, value) if everywhere else weight)


def _typed(data_type: int, **fields: Any) -> Callable[[], bytes]:
    tensor = TensorProto(name="w0", data_type=data_type, dims=[5, 4], **fields)
    return lambda: changed(lambda m: m.graph.initializer[0].CopyFrom(tensor))


def _both(model: onnx.ModelProto) -> None:
    """Values as raw bytes and as numbers, which do not agree."""
    model.graph.initializer[0].float_data.extend([1e9] * 20)


def _overflowing() -> bytes:
    """Finite weights whose product is not."""
    weights = {"a": np.full((12, 8), 3e38, np.float32), "b": np.full((8, 3), 3e38, np.float32)}
    return graph_of(node("Flatten", "x", "f"), node("MatMul", "f a", "h"), node("MatMul", "h b", "logits"), **weights)


def _folded_nan() -> bytes:
    made = [node("Sub", "huge huge", "zero"), node("Div", "zero zero", "nan")]
    return graph_of(*made, node("Flatten", "x", "f"), node("Mul", "f nan", "logits"), huge=floats(12))


def _negative_variance() -> bytes:
    nodes = [node("BatchNormalization", "x s b m v", "n"), node("Flatten", "n", "logits")]
    return graph_of(*nodes, shape=(2, 6), s=floats(2), b=floats(2), m=floats(2), v=np.array([-1.0, 1.0], np.float32))


def _negative_epsilon() -> bytes:
    """So small that the sum with the variance is the variance."""
    nodes = [node("BatchNormalization", "x s b m v", "n", epsilon=-1e-38), node("Flatten", "n", "logits")]
    return graph_of(*nodes, shape=(2, 6), s=floats(2), b=floats(2), m=floats(2), v=np.ones(2, np.float32))


def _shadowing(model: onnx.ModelProto) -> None:
    """A weight with the name of the input: the input would be a constant."""
    model.graph.initializer.append(numpy_helper.from_array(floats(1, 4), "x"))


OUTSIDE = [
    Hostile("weights by a relative path", "model", _EXTERNAL, "another file", _outside(lambda: "weights.bin")),
    Hostile("weights by an absolute path", "model", _EXTERNAL, "another file", _outside(lambda: str(traps() / "weights.bin"))),
    Hostile("weights by a path that climbs", "model", _EXTERNAL, "another file", _outside(lambda: "../" * 9 + "etc/passwd"), slow=True),
    Hostile("weights through a symbolic link", "model", _EXTERNAL, "another file", _outside(lambda: str(traps() / "symbolic"))),
    Hostile("weights through a hard link", "model", _EXTERNAL, "another file", _outside(lambda: str(traps() / "hard"), 80)),
    Hostile("weights from a device", "model", _EXTERNAL, "another file", _outside(lambda: "/dev/zero", 2**40), slow=True),
    Hostile("weights elsewhere that say they are here", "model", _EXTERNAL, "another file", _unflagged),
    Hostile("external data in a Constant", "model", _EXTERNAL, "another file", _in_constant),
    Hostile("external data in the value of ConstantOfShape", "model", _EXTERNAL, "another file", _in_shape_value),
    Hostile("external data in a sparse weight", "model", _EXTERNAL, "sparse weights", lambda: changed(_in_sparse)),
    Hostile("external data that no node reads", "model", _EXTERNAL, "another file", lambda: changed(_in_unused), slow=True),
]

SIZES = [
    Hostile("a sparse constant of a trillion values", "model", _SIZES, "sparse|unusual attribute", _sparse_constant),
    Hostile("weights that say they are a terabyte", "model", _SIZES, "another number of values", _dims(2**20, 2**20)),
    Hostile("weights whose size wraps int64 to the truth", "model", _SIZES, "another number of values", _dims(2**32, 2**32, 20)),
    Hostile("weights of negative sizes", "model", _SIZES, "another number of values", _dims(-5, -4)),
    Hostile("weights of a hundred thousand sizes", "model", _SIZES, "says its shape is", _dims(*[2**62] * 100_000)),
    Hostile("weights of rank 60", "model", _SIZES, "another number of values", _dims(*[1] * 58, 5, 4)),
    Hostile("weights of two million sizes", "model", _SIZES, "more than 1,000,000", _dims(*[1] * 2_000_000), slow=True),
    Hostile("weights twice, raw and as numbers", "model", _SIZES, "w0", lambda: changed(_both)),
    Hostile("raw weights of 79 bytes", "model", _SIZES, "another number", _typed(1, raw_data=bytes(79)), slow=True),
]

TYPES = [
    Hostile("weights that are texts", "model", _TYPES, "element type string", _typed(8, string_data=[b"w"] * 20)),
    Hostile("weights in float16", "model", _TYPES, "element type float16", _array(floats(5, 4).astype(np.float16))),
    Hostile("weights in float64", "model", _TYPES, "float64|double", _array(floats(5, 4).astype(np.float64)), slow=True),
    Hostile("weights that are complex", "model", _TYPES, "element type complex64", _array(floats(5, 4).astype(np.complex64))),
    Hostile("weights in float8", "model", _TYPES, "element type float8", _typed(17, raw_data=bytes(20)), slow=True),
    Hostile("weights in int8", "model", _TYPES, "element type int8", _array(np.zeros((5, 4), np.int8))),
    Hostile("weights of an unknown type", "model", _TYPES, "element type number 99", _typed(99, raw_data=bytes(80))),
]

NUMBERS = [
    Hostile("a weight that is NaN", "model", _FINITE, "w0: contains NaN", _holding(np.nan)),
    Hostile("a weight that is infinite", "model", _FINITE, "w0: contains infinity", _holding(np.inf)),
    Hostile("weights that are all subnormal", "model", _FINITE, "subnormal", _holding(1e-40, everywhere=True)),
    Hostile("weights whose product overflows", "model", _FINITE, "NaN or infinity", _overflowing),
    Hostile("constants that become NaN", "model", _FINITE, "NaN|cannot be computed", _folded_nan),
    Hostile("a negative epsilon", "model", _FINITE, "epsilon", _negative_epsilon),
    Hostile("a negative variance", "model", _FINITE, "variance|NaN", _negative_variance),
]

NAMES = [
    Hostile(
        "two weights of one name",
        "model",
        _ONCE,
        "two weights",
        lambda: changed(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
    ),
    Hostile(
        "a weight without a name",
        "model",
        _ONCE,
        "without a name",
        lambda: changed(lambda m: setattr(m.graph.initializer[0], "name", "")),
        slow=True,
    ),
    Hostile("a weight that shadows the input", "model", _ONCE, "has 0 inputs|defined twice", lambda: changed(_shadowing)),
]

HOSTILE = OUTSIDE + SIZES + TYPES + NUMBERS + NAMES
