"""What each node of shape arithmetic makes of constants that depend on the batch size; anything not known for certain is unknown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from certify.graph.batch_arithmetic import ELEMENTWISE, Rule, Unknown, alike, axis_together, integers, of
from certify.graph.batch_arithmetic import RULES as ARITHMETIC
from certify.graph.batch_size import LARGEST_NUMBER, BatchConstant, resolved, shape_of, size_of
from certify.graph.layout import Layout

Array = np.ndarray[Any, Any]

_END = 2**31 - 1  # from here on an end of a slice means "to the end"


def follow(kind: str, attributes: Mapping[str, Any], given: Sequence[BatchConstant | None], made: Array) -> BatchConstant | None:
    """What a node of constants makes at every batch size; null when that is not known for certain.

    Args:
        given: its inputs in order; null for one that is left out.
        made: its output at batch size one.
    """
    operands = [value for value in given if value is not None]
    try:
        if kind in ELEMENTWISE and all(value.alike for value in operands):
            return alike(made, axis_together(operands, made.ndim))
        if kind not in _RULES or len(operands) != len(given):
            return None
        found = _RULES[kind](attributes, operands, made)
    except Unknown:
        return None
    return found if found.exact and np.array_equal(found.at(1), made) else None


# Where values go to other places


def _plain(value: BatchConstant) -> Array:
    if not value.free:
        raise Unknown
    return value.fixed


def _listed(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], name: str) -> list[int] | None:
    """A list of integers that is the second input in later opsets and an attribute in earlier ones."""
    if len(operands) > 1:
        return [int(v) for v in _plain(operands[1]).reshape(-1)]
    return [int(v) for v in attributes[name]] if name in attributes else None


def _each(value: BatchConstant, move: Callable[[Array], Array], axis: int | None) -> BatchConstant:
    return BatchConstant(move(value.fixed), move(value.times), move(value.rows), axis)


def _viewed(value: BatchConstant, shape: tuple[int, ...], axis: int | None) -> BatchConstant:
    return _each(value, lambda part: part.reshape(shape), axis)


def _unsqueeze(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    value, axes = operands[0], _listed(attributes, operands, "axes") or []
    new = {axis % made.ndim for axis in axes}
    kept = [axis for axis in range(made.ndim) if axis not in new]
    return _viewed(value, made.shape, None if value.axis is None else kept[value.axis])


def _squeeze(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    value, axes = operands[0], _listed(attributes, operands, "axes")
    if value.axis is None:
        return _viewed(value, made.shape, None)
    gone = {axis % value.fixed.ndim for axis in axes or []}
    if not gone or value.axis in gone:  # without axes the batch would go at batch size one alone
        raise Unknown
    return _viewed(value, made.shape, value.axis - sum(axis < value.axis for axis in gone))


def _reshape(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    value, target = operands
    sizes = value.fixed.shape
    if value.axis is None:
        _plain(target)
        return _viewed(value, made.shape, None)
    layout = Layout(sizes, value.axis)
    after = resolved(layout, target, zero_copies=not attributes.get("allowzero", 0)) if target.multiples.all() else None
    if after is None or target.axis is not None or after.free:
        raise Unknown
    found = layout.reshaped(made.shape, tuple(int(size) for size in after.at(2)))
    if found is None or found.batch is None or found.merged:
        raise Unknown
    return _viewed(value, made.shape, found.batch)


def _transpose(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    (value,) = operands
    order = [int(v) for v in attributes.get("perm") or reversed(range(value.fixed.ndim))]
    axis = None if value.axis is None else order.index(value.axis)
    return _each(value, lambda part: part.transpose(order), axis)


def _slice(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    value, given = operands[0], [_plain(operand).reshape(-1) for operand in operands[1:]]
    if not given:
        given = [np.asarray(attributes[name]) for name in ("starts", "ends", "axes") if name in attributes]
    starts, ends = given[0], given[1]
    axes = given[2] if len(given) > 2 else np.arange(len(starts))
    steps = given[3] if len(given) > 3 else np.ones(len(starts), np.int64)
    window = [slice(None)] * value.fixed.ndim
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        place = axis % value.fixed.ndim
        if place == value.axis:
            if start != 0 or end < _END or step != 1:
                raise Unknown
            continue
        window[place] = slice(start, end, step)
    return _each(value, lambda part: part[tuple(window)], value.axis)


def _gather(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    table, indices = operands
    axis = int(attributes.get("axis", 0)) % table.fixed.ndim
    if not indices.alike or axis == table.axis or (indices.axis is not None and table.axis is not None):
        raise Unknown
    place = None if indices.axis is None else axis + indices.axis
    if table.axis is not None:
        place = table.axis if table.axis < axis else table.axis - 1 + indices.fixed.ndim
    return _each(table, lambda part: np.take(part, indices.fixed, axis), place)


def _concat(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    axis = int(attributes.get("axis", 0)) % made.ndim
    if len({operand.axis for operand in operands}) != 1 or operands[0].axis == axis:
        raise Unknown
    return BatchConstant(
        np.concatenate([operand.fixed for operand in operands], axis),
        np.concatenate([operand.times for operand in operands], axis),
        np.concatenate([operand.rows for operand in operands], axis),
        operands[0].axis,
    )


# Where the batch size becomes a shape, and a shape numbers


def _shape(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    sizes = BatchConstant.shape_of(Layout(operands[0].fixed.shape, operands[0].axis))
    return shape_of(attributes, sizes)


def _size(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    return size_of(BatchConstant.shape_of(Layout(operands[0].fixed.shape, operands[0].axis)))


def _batch_place(target: BatchConstant, made: Array) -> int | None:
    """The axis of the result whose length is the batch size, which every other length must be free of."""
    places = np.flatnonzero(target.depends)
    if target.axis is not None or target.fixed.ndim != 1 or len(places) > 1:
        raise Unknown
    if not len(places):
        return None
    (place,) = (int(v) for v in places)
    if (target.fixed[place], target.times[place], target.rows[place]) != (0, 1, 0):
        raise Unknown
    return made.ndim - len(target.fixed) + place


def _filled(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    return alike(made, _batch_place(operands[0], made))


def _expand(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    value, target = operands
    place = _batch_place(target, made)
    own = None if value.axis is None else made.ndim - value.fixed.ndim + value.axis
    axis = own if place is None else place
    if axis is None or (own is not None and own != axis) or made.shape[axis] != 1:
        raise Unknown
    return of(made, value.fixed, value.times, value.rows, axis)


def _tile(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    value, repeats = operands
    place = _batch_place(repeats, made)
    if not value.free or place is None or made.shape[place] != 1:
        raise Unknown
    return alike(made, place)


def _range(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    """One number for each row of the batch."""
    if any(operand.axis is not None or operand.rows.any() for operand in operands):
        raise Unknown
    start, limit, step = (integers(operand)[0].reshape(-1) for operand in operands)
    exact = all(integers(operand)[1].all() for operand in operands)
    begin, end, delta = (operand.times.reshape(-1) for operand in operands)
    if not exact or delta[0] or limit[0] != start[0] or end[0] - begin[0] != step[0] or not step[0]:
        raise Unknown
    return of(made, start, begin, step, 0)


def _product(attributes: Mapping[str, Any], operands: Sequence[BatchConstant], made: Array) -> BatchConstant:
    """Of all values, at most one of which depends on the batch size."""
    value = operands[0]
    (numbers, whole), depends = integers(value), value.depends.reshape(-1)
    if value.axis is not None or made.size != 1 or not whole.all() or depends.sum() != 1:
        raise Unknown
    others = math.prod(int(v) for v in numbers.reshape(-1)[~depends])
    if abs(others) > LARGEST_NUMBER:
        raise Unknown
    fixed, times, rows = (part.reshape(-1)[depends] * others for part in (numbers, value.times, value.rows))
    return of(made, fixed.reshape(made.shape), times.reshape(made.shape), rows.reshape(made.shape), None)


_RULES: dict[str, Rule] = {
    **ARITHMETIC,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Gather": _gather,
    "Range": _range,
    "ReduceProd": _product,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
