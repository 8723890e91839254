"""Convolution-like linear maps as one operator each, and their algebra. Their norms are in symbol.py."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from certify.lipschitz.constant import Rounding, Work

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

MAX_ENTRIES = 2**26  # values of the taps of one kernel


@dataclass(frozen=True)
class Kernel:
    """t[c', i] = sum over c and j of taps[c', c, j] * x~[c, strides * i + offsets[j]], for x of shape (C, *sizes).

    x~ is x, continued outside [0, sizes) by zeros or, on axes that wrap, periodically. t has the shape (C', *made). Without spatial
    axes it is a plain matrix.

    Args:
        taps: (groups, C' / groups, C / groups, count), float64; outputs of a group see the inputs of that group only.
        offsets: (count, axes), integers, all different.
        rounding: how far the taps may be from the map they stand for.
    """

    taps: Array
    offsets: Array
    strides: Shape
    sizes: Shape
    made: Shape
    wraps: tuple[bool, ...]
    rounding: Rounding = field(default_factory=Rounding)

    @classmethod
    def pointwise(cls, matrix: Array, sizes: Shape) -> Kernel:  # matrix: (groups, C' / groups, C / groups)
        """The same matrix at every position."""
        axes = len(sizes)
        taps = np.asarray(matrix, np.float64)[..., None]
        return cls(taps, np.zeros((1, axes), np.int64), (1,) * axes, sizes, sizes, (False,) * axes).measured()

    @classmethod
    def identity(cls, shape: Shape) -> Kernel:
        """The map that changes nothing on (C, *sizes)."""
        return cls.pointwise(np.ones((shape[0], 1, 1)), shape[1:])

    @classmethod
    def shifted(cls, shape: Shape, axis: int, start: int, step: int, made: int, *, wrap: bool = False) -> Kernel:
        """The values at start, start + step, ... along a spatial axis (counted from 0); outside there are zeros, or it wraps."""
        same = cls.identity(shape)

        def at(values: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
            return (*values[:axis], value, *values[axis + 1 :])

        offsets = same.offsets.copy()
        offsets[0, axis] = start
        made_all, strides, wraps = at(same.made, made), at(same.strides, step), at(same.wraps, wrap)
        return replace(same, offsets=offsets, strides=strides, made=made_all, wraps=wraps).measured()

    @property
    def groups(self) -> int:
        return int(self.taps.shape[0])

    @property
    def source(self) -> Shape:
        """(C, *sizes)"""
        return (self.groups * int(self.taps.shape[2]), *self.sizes)

    @property
    def target(self) -> Shape:
        """(C', *made)"""
        return (self.groups * int(self.taps.shape[1]), *self.made)

    def measured(self) -> Kernel:
        """With the magnitude of its own taps, which are exact."""
        return replace(self, rounding=Rounding(0, self.magnitude()))

    def magnitude(self) -> float:
        """At least the norm of the same map with the magnitudes of the taps: square root of row sums times column sums."""
        size = np.abs(self.taps).sum(axis=3)
        rows, columns = size.sum(axis=2).max(initial=0.0), size.sum(axis=1).max(initial=0.0)
        repeats = math.prod(repetition(self, axis) for axis in range(len(self.sizes)))
        return float(np.sqrt(rows) * np.sqrt(columns) * math.sqrt(repeats)) * (1 + 1e-12)

    def reads(self, axis: int) -> tuple[int, int]:
        """The first and the last place on an axis that is read."""
        offsets = self.offsets[:, axis]
        return int(offsets.min()), int(offsets.max()) + self.strides[axis] * (self.made[axis] - 1)

    def inside(self, axis: int) -> bool:
        """Whether it reads no place beyond the ends, so that how x is continued does not matter."""
        first, last = self.reads(axis)
        return first >= 0 and last < self.sizes[axis]

    def regrouped(self, groups: int) -> Kernel:
        """The same in fewer groups, a divisor of their number; zeros fill up."""
        have, merge = self.groups, self.groups // groups
        if merge == 1:
            return self
        _, out, into, count = self.taps.shape
        taps = np.zeros((groups, merge, out, merge, into, count))
        for k in range(merge):
            taps[:, k, :, k] = self.taps.reshape(groups, merge, out, into, count)[:, k]
        assert have == groups * merge
        return replace(self, taps=taps.reshape(groups, merge * out, merge * into, count))

    def live(self) -> Kernel:
        """Without taps that only ever read zeros, and without outputs at the ends that read nothing: the same norm."""
        kernel = self
        for axis, (size, wrap) in enumerate(zip(self.sizes, self.wraps, strict=True)):
            if wrap:
                continue
            stride, made, offsets = kernel.strides[axis], kernel.made[axis], kernel.offsets[:, axis]
            # The first output at or behind the start, and the last before the end, for each tap.
            first = np.maximum(0, -(offsets // stride))
            last = np.minimum(made - 1, (size - 1 - offsets) // stride)
            keep = first <= last
            if not keep.any():
                return replace(kernel, taps=np.zeros_like(kernel.taps[..., :1]), offsets=kernel.offsets[:1] * 0)
            start, stop = int(first[keep].min()), int(last[keep].max()) + 1
            moved = kernel.offsets[keep].copy()
            moved[:, axis] += stride * start
            sizes = (*kernel.made[:axis], stop - start, *kernel.made[axis + 1 :])
            kernel = replace(kernel, taps=kernel.taps[..., keep], offsets=moved, made=sizes)
        return kernel


def repetition(kernel: Kernel, axis: int) -> int:
    """How often the same places are read along an axis that wraps: how many outputs are copies of one another."""
    if not kernel.wraps[axis]:
        return 1
    rows = kernel.sizes[axis] // math.gcd(kernel.sizes[axis], kernel.strides[axis])
    return -(-kernel.made[axis] // rows)


def composed(first: Kernel, second: Kernel, work: Work | None = None) -> Kernel | None:
    """`second` after `first` as one kernel; null where it is not one, or one that costs too much memory or `work` to make.

    Wherever `second` reads beyond the ends of what `first` makes, it must find what `first` would have made there: that holds for
    padding of what is itself a shift of zero-padded data, and not for padding between two convolutions.
    """
    if first.target != second.source:
        return None
    wraps = []
    for axis in range(len(first.sizes)):
        found = _continued(first, second, axis)
        if found is None:
            return None
        wraps.append(found)
    taps = _multiplied(first, second, work or Work(math.inf))
    if taps is None:
        return None
    count = taps.shape[3]
    offsets = (second.offsets[:, None, :] * np.array(first.strides, np.int64) + first.offsets[None, :, :]).reshape(count, -1)
    strides = tuple(a * b for a, b in zip(first.strides, second.strides, strict=True))
    # A product of two single numbers is rounded once, a sum over channels once more for each; taps that meet are added up.
    own = Rounding(first.target[0] + 2 + count, 1.0)
    rounding = first.rounding.then(second.rounding).then(own)
    return _merged(Kernel(taps, offsets, strides, first.sizes, second.made, tuple(wraps), rounding))


def _multiplied(first: Kernel, second: Kernel, work: Work) -> Array | None:
    """The taps of `second` after `first`, for each tap of the second and each of the first; null where they cost too much."""
    groups, count = math.gcd(first.groups, second.groups), len(first.offsets) * len(second.offsets)
    if _scales(second):
        return first.taps * second.taps.reshape(first.groups, -1, 1, 1)
    if _scales(first):
        return second.taps * first.taps.reshape(second.groups, 1, -1, 1)
    entries = first.source[0] * second.target[0] // groups * count
    cost = 2.0 * entries * first.target[0] / groups
    if entries > MAX_ENTRIES or not work.affords(cost, 0.02):
        return None
    work.spend(cost)
    a, b = first.regrouped(groups).taps, second.regrouped(groups).taps
    made: Array = np.einsum("gomt,gmiu->goitu", b, a, optimize=True).reshape(groups, b.shape[1], a.shape[2], count)
    return made


def _scales(kernel: Kernel) -> bool:
    """Whether every channel is multiplied by a number of its own, and perhaps shifted."""
    return tuple(kernel.taps.shape[1:]) == (1, 1, 1)


def _continued(first: Kernel, second: Kernel, axis: int) -> bool | None:
    """Whether the composition wraps on an axis; null where it is no kernel."""
    if second.inside(axis):
        return first.wraps[axis]
    free = first.inside(axis)
    if second.wraps[axis]:
        whole = first.strides[axis] * first.made[axis] == first.sizes[axis]
        return True if whole and (free or first.wraps[axis]) else None
    if first.wraps[axis] and not free:
        return None
    low, high = second.reads(axis)
    beyond = np.concatenate([np.arange(low, 0), np.arange(max(low, first.made[axis]), high + 1)])
    if len(beyond) > 2**20:
        return None
    places = first.strides[axis] * beyond[:, None] + first.offsets[None, :, axis]
    return None if np.any((places >= 0) & (places < first.sizes[axis])) else False


def summed(a: Kernel, b: Kernel) -> Kernel | None:
    """The sum of two kernels on the same data as one; null where their geometry differs."""
    wraps = _agreed(a, b)
    if a.target != b.target or a.strides != b.strides or wraps is None:
        return None
    groups = math.gcd(a.groups, b.groups)
    if a.source[0] * a.target[0] // groups * (len(a.offsets) + len(b.offsets)) > MAX_ENTRIES:
        return None
    taps = np.concatenate([a.regrouped(groups).taps, b.regrouped(groups).taps], axis=3)
    both = replace(a, taps=taps, offsets=np.concatenate([a.offsets, b.offsets]), wraps=wraps, rounding=a.rounding.plus(b.rounding))
    return _merged(both)


def stacked(kernels: list[Kernel]) -> Kernel | None:
    """The outputs of several kernels on the same data one after another along the channels, as one kernel; null where geometry differs."""
    joined = kernels[0].regrouped(1)
    for other in kernels[1:]:
        wraps = _agreed(joined, other)
        if joined.made != other.made or joined.strides != other.strides or wraps is None:
            return None
        outs, count = (joined.target[0], other.target[0]), len(joined.offsets) + len(other.offsets)
        if sum(outs) * joined.source[0] * count > MAX_ENTRIES:
            return None
        taps = np.zeros((1, sum(outs), joined.source[0], count))
        taps[:, : outs[0], :, : len(joined.offsets)] = joined.taps
        taps[:, outs[0] :, :, len(joined.offsets) :] = other.regrouped(1).taps
        offsets, rounding = np.concatenate([joined.offsets, other.offsets]), joined.rounding.plus(other.rounding)
        joined = _merged(replace(joined, taps=taps, offsets=offsets, wraps=wraps, rounding=rounding))
    return joined


def _agreed(a: Kernel, b: Kernel) -> tuple[bool, ...] | None:
    """How both continue their data; null where they do so differently."""
    if a.source != b.source:
        return None
    found = []
    for axis in range(len(a.sizes)):
        if a.wraps[axis] != b.wraps[axis] and not a.inside(axis) and not b.inside(axis):
            return None
        found.append(b.wraps[axis] if a.inside(axis) else a.wraps[axis])
    return tuple(found)


def _merged(kernel: Kernel) -> Kernel:
    """Taps at the same offset added up; on axes that wrap, offsets that differ by a whole turn are kept apart."""
    offsets, places = np.unique(kernel.offsets, axis=0, return_inverse=True)
    if len(offsets) == len(kernel.offsets):
        return kernel
    taps = np.zeros((*kernel.taps.shape[:3], len(offsets)))
    for tap, place in enumerate(places.reshape(-1)):
        taps[..., place] += kernel.taps[..., tap]
    return replace(kernel, taps=taps, offsets=offsets)


def grid_offsets(lengths: Shape, steps: Shape, starts: Shape) -> Array:
    """Every combination of start + step * k along each axis, in the order of a flattened array; (count, axes)."""
    axes = ([start + step * k for k in range(length)] for length, step, start in zip(lengths, steps, starts, strict=True))
    return np.array(list(itertools.product(*axes)), np.int64).reshape(math.prod(lengths), len(lengths))
