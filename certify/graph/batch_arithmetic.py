"""Arithmetic, comparison and choice of constants that depend on the batch size: known at every batch size, or unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from certify.graph.batch_size import LARGEST_NUMBER, BatchConstant

Array = np.ndarray[Any, Any]
Rule = Callable[[Mapping[str, Any], Sequence[BatchConstant], Array], BatchConstant]


class Unknown(Exception):
    """What the node makes is not known at every batch size."""


def alike(made: Array, axis: int | None) -> BatchConstant:
    """The same values at every batch size, along `axis` the same for each row."""
    nothing = np.zeros(made.shape, np.int64)
    return BatchConstant(made, nothing, nothing, axis)


def of(made: Array, fixed: Array, times: Array, rows: Array, axis: int | None) -> BatchConstant:
    """The result with these summands; values that do not depend on the batch size are those at batch size one."""
    shape = made.shape
    times, rows = (np.array(np.broadcast_to(part, shape)) for part in (times, rows))
    depends = (times != 0) | (rows != 0)
    return BatchConstant(np.where(depends, fixed, made).astype(made.dtype), times, rows, axis)


def axis_together(operands: Sequence[BatchConstant], rank: int) -> int | None:
    """The axis of the rows after broadcasting. All that have one must have it there, and nothing else may be long there."""
    axes = {rank - value.fixed.ndim + value.axis for value in operands if value.axis is not None}
    if not axes:
        return None
    axis = axes.pop()
    places = [(value.fixed.shape, axis - rank + value.fixed.ndim) for value in operands]
    if axes or any(place >= 0 and shape[place] != 1 for shape, place in places):
        raise Unknown
    return axis


def integers(value: BatchConstant) -> tuple[Array, Array]:
    """The summand as integers, and where it is one of a harmless size."""
    if value.fixed.dtype.kind not in "if":
        raise Unknown
    whole = np.abs(value.fixed) <= LARGEST_NUMBER
    whole &= value.fixed == np.floor(value.fixed)
    return np.where(whole, value.fixed, 0).astype(np.int64), whole


def _narrow(operands: Sequence[BatchConstant]) -> Array | bool:
    """Where a number depends on the batch size in a type that a large enough batch leaves: what it cancels to is then not known."""
    found: Array | bool = False
    for value in operands:
        if value.fixed.dtype != np.int64:
            found = found | value.depends
    return found


def _sum(sign: int) -> Rule:
    def rule(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
        a, b = operands
        (first, whole_a), (second, whole_b) = integers(a), integers(b)
        times, rows = a.times + sign * b.times, a.rows + sign * b.rows
        if np.any((a.depends | b.depends) & ~(whole_a & whole_b)):
            raise Unknown
        if np.any(_narrow(operands) & (times == 0) & (rows == 0)):
            raise Unknown
        return of(made, first + sign * second, times, rows, axis_together(operands, made.ndim))

    return rule


def _mul(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    a, b = operands
    (first, whole_a), (second, whole_b) = integers(a), integers(b)
    if np.any(a.depends & b.depends) or np.any((a.depends | b.depends) & ~(whole_a & whole_b)):
        raise Unknown
    times, rows = first * b.times + a.times * second, first * b.rows + a.rows * second
    return of(made, first * second, times, rows, axis_together(operands, made.ndim))


def _div(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    """A division without remainder at every batch size; or of two numbers one of which is a fixed multiple of the other."""
    a, b = operands
    (first, whole_a), (second, whole_b) = integers(a), integers(b)
    shape = made.shape
    above = [np.broadcast_to(part, shape) for part in (first, a.times, a.rows)]
    below = [np.broadcast_to(part, shape) for part in (second, b.times, b.rows)]
    depends = np.broadcast_to(a.depends | b.depends, shape)
    # What does not depend on the batch size is divided as it is; it has no part below.
    divisor = np.where(depends & (below[0] != 0), below[0], 1)
    by_number = (below[1] == 0) & (below[2] == 0) & (below[0] != 0)
    for part in above:
        by_number = by_number & (part % divisor == 0)
    ratio = above[1] // np.where(below[1] > 0, below[1], 1)
    by_multiple = (below[1] > 0) & (below[0] == 0) & (below[2] == 0)
    for over, under in zip(above, below, strict=True):
        by_multiple = by_multiple & (over == ratio * under)
    whole = np.broadcast_to(whole_a & whole_b, shape)
    if np.any(depends & ~(whole & (by_number | by_multiple))):
        raise Unknown
    fixed, times, rows = (np.where(depends & by_number, part // divisor, 0) for part in above)
    return of(made, fixed, times, rows, axis_together(operands, made.ndim))


def _neg(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    (a,) = operands
    return of(made, -integers(a)[0], -a.times, -a.rows, a.axis)


def _kept(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    """Functions that leave integers alone, and casts between types that hold them."""
    (a,) = operands
    if made.dtype == np.bool_:
        return _equal(attributes, (a, BatchConstant.plain(np.zeros((), np.int64))), made)
    if made.dtype.kind not in "if":
        raise Unknown
    return of(made, integers(a)[0], a.times, a.rows, a.axis)


def _difference(a: BatchConstant, b: BatchConstant) -> tuple[Array, Array]:
    """a - b as a summand and a factor of the batch size."""
    (first, whole_a), (second, whole_b) = integers(a), integers(b)
    depends = a.depends | b.depends
    if np.any(a.rows) or np.any(b.rows) or np.any(depends & ~(whole_a & whole_b)) or np.any(_narrow((a, b))):
        raise Unknown
    return np.where(depends, first - second, 0), np.broadcast_to(a.times - b.times, depends.shape)


def _equal(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    """Known where the two are equal at no batch size from 1 on, or at all."""
    fixed, times = _difference(*operands)
    divisor = np.where(times != 0, times, 1)
    meet = (times != 0) & (-fixed % divisor == 0) & (-fixed // divisor >= 1)
    # Two values that depend on the batch size alike differ by a fixed number, and batch size one tells.
    if np.any(meet):
        raise Unknown
    return alike(made, axis_together(operands, made.ndim))


def _order(*, greater: bool, equal: bool) -> Rule:
    def rule(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
        """Known where the larger is the larger from batch size one on."""
        fixed, times = _difference(*operands)
        first = fixed + times
        # Where they are equal at batch size one, and part from there on, >= and < of a growing difference stay as they are.
        grows = times > 0 if greater == equal else times < 0
        stays = (times == 0) | (first * np.sign(times) > 0) | ((first == 0) & grows)
        if not np.all(stays):
            raise Unknown
        return alike(made, axis_together(operands, made.ndim))

    return rule


def _extreme(sign: int) -> Rule:
    def rule(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
        """Known where one of two is the extreme from batch size one on."""
        if len(operands) == 1:
            return operands[0]
        a, b = operands
        fixed, times = (sign * part for part in _difference(a, b))
        first = fixed + times
        left, right = (first >= 0) & (times >= 0), (first <= 0) & (times <= 0)
        if not np.all(left | right):
            raise Unknown
        return _picked(made, left, a, b, axis_together(operands, made.ndim))

    return rule


def _picked(made: Array, left: Array, a: BatchConstant, b: BatchConstant, axis: int | None) -> BatchConstant:
    fixed = np.where(left, integers(a)[0], integers(b)[0])
    return of(made, fixed, np.where(left, a.times, b.times), np.where(left, a.rows, b.rows), axis)


def _where(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    condition, a, b = operands
    if not condition.alike:
        raise Unknown
    return _picked(made, condition.fixed != 0, a, b, axis_together(operands, made.ndim))


_NUMBERS = "Abs Add Ceil Cos Div Erf Exp Floor Log Max Mean Min Mod Mul Neg Pow Reciprocal Relu Round Sigmoid Sign Sin Sqrt Sub Sum Tanh"
_TRUTHS = "And Equal Greater GreaterOrEqual Less LessOrEqual Not Or Xor"
# Each value of the result depends on one value of each input only, and in the same way at every place.
ELEMENTWISE = frozenset([*_NUMBERS.split(), *_TRUTHS.split(), "Cast", "Clip", "Identity", "Where"])
RULES: dict[str, Rule] = {
    "Add": _sum(1),
    "Cast": _kept,
    "Ceil": _kept,
    "Div": _div,
    "Equal": _equal,
    "Floor": _kept,
    "Greater": _order(greater=True, equal=False),
    "GreaterOrEqual": _order(greater=True, equal=True),
    "Identity": _kept,
    "Less": _order(greater=False, equal=False),
    "LessOrEqual": _order(greater=False, equal=True),
    "Max": _extreme(1),
    "Min": _extreme(-1),
    "Mul": _mul,
    "Neg": _neg,
    "Round": _kept,
    "Sub": _sum(-1),
    "Where": _where,
}
