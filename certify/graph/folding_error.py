"""How far constants that nodes on constants make can be from real arithmetic, and from what float32 runtimes make of them.

A node on constants is folded twice: in the types of the file, which gives the weights that run, and here in float64, which gives the
weights that are certified. Each number comes with two bounds, made of what the inputs' own errors become (carried) and of what the node
rounds itself: gamma_n of the sum of the magnitudes for sums of n terms, in any order, with or without fused operations.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.3 (running error analysis).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from certify.errors import ModelRejected
from certify.graph.folding_rules import ELEMENTWISE, RULES, UP

Array = np.ndarray[Any, Any]

# What only puts numbers at other places, so that their bounds go with them; operands that are no floats say where.
MOVES = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape", "ScatterElements"}
    | {"ScatterND", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where"}
)
# Their results depend on no value of a float.
_SHAPES = frozenset({"ConstantOfShape", "Shape", "Size"})
_LEAST = 2.0**-120
_AT_ONCE = 2**20
_Runner = Callable[[onnx.NodeProto, Sequence[Array]], list[Array]]


@dataclass(frozen=True)
class Folded:
    """A constant that nodes on constants made.

    Args:
        value: in float64; integers and truth values as they are.
        error: at least the distance of each number from real arithmetic; infinite where nothing is known.
        spread: at least its distance from what any float32 runtime makes, in any order of summation; infinite where nothing is known.
    """

    value: Array
    error: Array  # float32 or float64, in the shape of `value`, as is `spread`
    spread: Array

    @classmethod
    def exactly(cls, value: Array) -> Folded:
        """A constant as it stands in the file."""
        nothing = np.broadcast_to(np.float32(0.0), value.shape)
        return cls(value.astype(np.float64) if value.dtype.kind == "f" else value, nothing, nothing)

    @property
    def real(self) -> bool:
        return bool(self.value.dtype.kind == "f")

    @property
    def exact(self) -> bool:
        return not (np.any(self.error) or np.any(self.spread))

    def at_most(self) -> Folded:
        """With bounds in float32, rounded up. Of integers one that is in doubt puts all in doubt; NaN stands for nothing known."""
        error, spread = _stored(self.error), _stored(self.spread)
        if not self.real:
            error, spread = (np.broadcast_to(bound.max(initial=0), bound.shape) for bound in (error, spread))
        return Folded(self.value, error, spread)


def _stored(bound: Array) -> Array:
    """In half the memory, rounded up; as it is where float32 would lose some of it."""
    if bound.dtype != np.float32 and not np.any((bound > 0) & (bound < _LEAST)):
        with np.errstate(over="ignore"):
            bound = np.asarray(bound * (1 + 2.0**-22), np.float32)
    return np.where(np.isnan(bound), bound.dtype.type(np.inf), bound)


def computes(kind: str, inputs: Sequence[Array], outputs: Sequence[Array]) -> bool:
    """Whether a node on constants that are exact does more than move them: whether it handles floats at all."""
    floats = any(value.dtype.kind == "f" for value in (*inputs, *outputs))
    return floats and kind not in MOVES and kind not in _SHAPES


def approximated(
    node: onnx.NodeProto,
    operands: Sequence[Folded],
    run: _Runner,
    deployed: Sequence[Array],
) -> list[Folded]:
    """The outputs of a node on constants with their bounds.

    Args:
        operands: its inputs, in order, without those left out.
        run: a node in ONNX's reference, for operands of the same shapes.
        deployed: its outputs in the types of the file; integers and truth values stay so.
    """
    if node.op_type in ("Shape", "Size"):
        return [Folded.exactly(value) for value in deployed]
    if any(not operand.real and not operand.exact for operand in operands):
        return [_unknown(value) for value in deployed]
    try:
        with np.errstate(all="ignore"):
            return _followed(node, operands, run, deployed)
    except ModelRejected:
        return [_unknown(value) for value in deployed]  # the reference computes it in the types of the file alone


def _followed(node: onnx.NodeProto, operands: Sequence[Folded], run: _Runner, deployed: Sequence[Array]) -> list[Folded]:
    """The outputs of a node whose operands decide nothing that is in doubt."""
    found = _values(node, operands, run, deployed)
    if node.op_type in MOVES and not any(a.name == "reduction" and a.s not in (b"", b"none") for a in node.attribute):
        parts = [run(node, [_part(o, name) for o in operands]) for name in ("error", "spread")]
        made = [Folded(*each) if each[0].dtype.kind == "f" else Folded.exactly(each[0]) for each in zip(found, *parts, strict=True)]
    elif found[0].dtype.kind == "f":
        made = [_computed(node, operands, run, found[0])]
    else:
        made = [_decided(node, operands, run, found[0])]
    return [_beside(each, kept).at_most() for each, kept in zip(made, deployed, strict=True)]


def _part(operand: Folded, name: str) -> Array:
    part: Array = getattr(operand, name)
    return part if operand.real else operand.value


def _values(node: onnx.NodeProto, operands: Sequence[Folded], run: _Runner, deployed: Sequence[Array]) -> list[Array]:
    """In float64; in real arithmetic a conversion between floats changes nothing."""
    if node.op_type == "Cast" and deployed[0].dtype.kind == "f":
        return [operands[0].value.astype(np.float64)]
    if node.op_type == "Erf":  # the reference rounds it to float32, whatever the type
        return [np.vectorize(math.erf, otypes=[np.float64])(operands[0].value)]
    return run(node, [operand.value for operand in operands])


def _unknown(value: Array) -> Folded:
    nothing_known = np.broadcast_to(np.float32(np.inf), value.shape)
    return Folded(value, nothing_known, nothing_known)


def _beside(made: Folded, deployed: Array) -> Folded:
    """Beside the constant that runs: it is one of those that a float32 runtime makes, and decisions are the same as there."""
    if not made.real:
        same = made.value == deployed
        return Folded(deployed, np.where(same, made.error, np.inf), np.where(same, made.spread, np.inf))
    apart = np.abs(made.value - deployed.astype(np.float64))
    return Folded(made.value, made.error, np.maximum(made.spread, apart))


def _computed(
    node: onnx.NodeProto,
    operands: Sequence[Folded],
    run: _Runner,
    value: Array,
) -> Folded:
    """A node that makes floats."""
    if node.op_type in _JUMPING:
        return _decided(node, operands, run, value)

    def again(*given: Array, kind: str = "", **attributes: float) -> Array:
        return run(_like(node, kind, attributes), [each if o.real else o.value for each, o in zip(given, operands, strict=True)])[0]

    made = RULES.get(node.op_type)
    if made is None or value.dtype != np.float64:
        return _unknown(value)
    error, spread = np.empty(value.shape), np.empty(value.shape)
    for part in _parts(node.op_type, value.shape):
        rule = made(node, value[part], [_at(o.value, value, part) for o in operands], again)
        if rule is None:
            return _unknown(value)
        errors, spreads = ([_at(bound, value, part).astype(np.float64) for bound in bounds] for bounds in _both(operands))
        found = rule.bounds(value[part], errors, spreads)
        error[part], spread[part] = found
    return Folded(value, error, spread)


def _both(operands: Sequence[Folded]) -> tuple[list[Array], list[Array]]:
    return [o.error for o in operands], [o.spread for o in operands]


def _parts(kind: str, shape: tuple[int, ...]) -> list[Any]:
    """Slices of the first axis, a million numbers at most, of what is computed number by number; everything at once of anything else."""
    if kind not in ELEMENTWISE or math.prod(shape) <= _AT_ONCE:
        return [...]
    rows = max(1, _AT_ONCE * shape[0] // math.prod(shape))
    return [slice(start, start + rows) for start in range(0, shape[0], rows)]


def _at(operand: Array, value: Array, part: Any) -> Array:
    """The part of an operand that makes this part of the result."""
    return operand if part is ... else np.broadcast_to(operand, value.shape)[part]


def _like(node: onnx.NodeProto, kind: str, attributes: dict[str, float]) -> onnx.NodeProto:
    """The node as another type, with some attributes of its own replaced."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.op_type = kind or node.op_type
    for attribute in made.attribute:
        if attribute.name in attributes:
            attribute.f = attributes[attribute.name]
    return made


# Decisions


_JUMPING = frozenset({"Ceil", "Floor", "Round", "Sign"})
_COMPARING = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


def _decided(
    node: onnx.NodeProto,
    operands: Sequence[Folded],
    run: _Runner,
    value: Array,
) -> Folded:
    """What jumps: the same at both ends of what its operand can be, or nothing is known."""

    def sure(name: str) -> Array:
        parts = [_part(o, name).astype(np.float64) if o.real else np.zeros(()) for o in operands]
        if not any(np.any(part) for part in parts):
            return np.asarray(True)
        if node.op_type in _COMPARING:
            a, b = (o.value.astype(np.float64) for o in operands)
            differ: Array = np.abs(a - b) > (parts[0] + parts[1]) * UP
            return differ
        if node.op_type not in _JUMPING and node.op_type != "Cast":
            return np.asarray(False)
        x, part = operands[0].value, parts[0] * UP
        ends = [run(node, [end, *(o.value for o in operands[1:])])[0] for end in (x - part, x + part)]
        # A truth value is another where zero lies between two ends that are not.
        same: Array = (ends[0] == value) & (ends[1] == value) & ((part == 0) | (np.abs(x) > part) | (value.dtype != np.bool_))
        return same

    bounds = [np.where(np.broadcast_to(sure(name), value.shape), 0.0, np.inf) for name in ("error", "spread")]
    return Folded(value, *bounds)
