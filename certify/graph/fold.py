"""Nodes whose inputs are all constants: computed once, by ONNX's own reference, after their size is known to be harmless."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from certify.errors import ModelRejected

Array = np.ndarray[Any, Any]

_MEND = "export with constant folding"


def _names(*lines: str) -> tuple[str, ...]:
    return tuple(" ".join(lines).split())


_ELEMENTWISE = _names(
    "Abs Add And Cast Ceil Clip Cos Div Equal Erf Exp Floor Greater GreaterOrEqual Identity Less LessOrEqual Log Max Mean Min Mod Mul",
    "Neg Not Or Pow Reciprocal Relu Round Sigmoid Sign Sin Sqrt Sub Sum Tanh Where Xor",
)
_REARRANGING = _names("CumSum Flatten Reshape ScatterElements ScatterND Shape Size Slice Split Squeeze Transpose Trilu Unsqueeze")
_REDUCING = _names("ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax LpNormalization")
_GROWING = _names("Concat ConstantOfShape Expand Gather GatherElements GatherND Gemm MatMul Pad Range Tile")
FOLDED = frozenset([*_ELEMENTWISE, *_REARRANGING, *_REDUCING, *_GROWING])

_KEPT_TYPES = (np.float32, np.float64, np.int64, np.int32, np.bool_)
_MAX_PRODUCT = 2**30


def fold(node: onnx.NodeProto, name: str, opset: int, values: Mapping[str, Array], budget: int) -> list[Array]:
    """The outputs of one node.

    Args:
        values: its inputs by name.
        budget: the largest number of values that may be made.

    Raises:
        ModelRejected: an operator outside the list, too large a result, or one that ONNX's reference cannot compute.
    """
    where = f"model.{name}"
    if node.op_type not in FOLDED:
        raise ModelRejected.at(where, f"the operator {node.op_type} on constants is not supported", _MEND)
    inputs = [values[i] for i in node.input if i]
    if not 0 <= _size(node, inputs) <= budget:
        raise ModelRejected.at(where, "makes constants that are too large", _MEND)
    return [_checked(where, node.op_type, value) for value in evaluated(node, where, opset, values)]


def evaluated(node: onnx.NodeProto, where: str, opset: int, values: Mapping[str, Array]) -> list[Array]:
    """The outputs of one node whose size is known to be harmless, whatever they are.

    Raises:
        ModelRejected: ONNX's reference cannot compute it.
    """
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    plain.domain = ""
    graph = onnx.GraphProto(name="one", node=[plain])
    graph.input.extend(onnx.ValueInfoProto(name=i) for i in dict.fromkeys(filter(None, node.input)))
    graph.output.extend(onnx.ValueInfoProto(name=o) for o in filter(None, node.output))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = ReferenceEvaluator(graph, opsets={"": opset}).run(None, dict(values))
    except Exception as error:
        # The reference raises whatever NumPy raises; a node it cannot compute has no value.
        raise ModelRejected.at(where, f"{node.op_type} cannot be computed ({type(error).__name__})", "export the model again") from None
    return [np.asarray(value) for value in found]


def _checked(where: str, kind: str, value: Array) -> Array:
    if value.dtype not in _KEPT_TYPES:
        raise ModelRejected.at(where, f"{kind} makes a constant of type {value.dtype}", "export the model in float32")
    if value.dtype.kind == "f" and np.any(np.isnan(value)):
        raise ModelRejected.at(where, f"{kind} makes a constant that is NaN", "export finite constants")
    return value


def _size(node: onnx.NodeProto, values: Sequence[Array]) -> int:
    """An upper bound of the number of values in the result."""
    kind = node.op_type
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.type in (a.INT, a.INTS)}
    if kind in ("ConstantOfShape", "Expand", "Tile"):
        return _grown(kind, values)
    if kind == "Range":
        start, stop, step = (float(v.reshape(-1)[0]) for v in values)
        return int(max(0.0, math.ceil((stop - start) / step))) if step and math.isfinite((stop - start) / step) else -1
    if kind == "Gather":
        axis = int(attributes.get("axis", 0))
        return values[1].size * values[0].size // max(1, values[0].shape[axis]) if -values[0].ndim <= axis < values[0].ndim else -1
    if kind in ("MatMul", "Gemm"):
        return _product(values)
    if kind == "Pad":
        pads = values[1] if len(values) > 1 else np.asarray(attributes.get("pads", ()))
        longest = values[0].size + sum(abs(int(p)) for p in pads.reshape(-1)) * max(1, values[0].size)
        return longest if np.count_nonzero(pads) <= 2 else -1
    if kind in ("Concat", *_REARRANGING, *_REDUCING):
        return sum(v.size for v in values)
    if kind in ("GatherElements", "GatherND"):
        return values[0].size * max(1, values[1].size)
    try:
        return math.prod(np.broadcast_shapes(*(v.shape for v in values)))
    except ValueError:
        return -1


def _grown(kind: str, values: Sequence[Array]) -> int:
    target = [int(v) for v in values[-1].reshape(-1)]
    if len(target) > 16 or any(v < 0 for v in target):
        return -1
    if kind == "ConstantOfShape":
        return math.prod(target)
    return values[0].size * math.prod(max(1, v) for v in target)


def _product(values: Sequence[Array]) -> int:
    left, right = values[0], values[1]
    work = left.size * right.size  # at least the multiplications
    return left.size // max(1, min(left.shape, default=1)) * right.size if work <= _MAX_PRODUCT else -1
