"""The norm of a convolution-like map: the largest norm of its symbol over the frequencies of a torus that is large enough."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from certify.lipschitz.constant import UNIT, NoConstant, Work, finite
from certify.lipschitz.kernel import Kernel, repetition
from certify.lipschitz.spectral import EXACT_SIDE, eigenvalue_cost, largest_norm, matrix_norm

Array = np.ndarray[Any, Any]

_CHUNK = 2**21  # complex numbers made at once
_GRIDS = (32, 24, 16, 12, 8, 6, 4, 3, 2)  # points for each degree, from fine to coarse


@dataclass(frozen=True)
class Found:
    """A norm, and in short words how it was found."""

    norm: float
    how: str


def kernel_norm(kernel: Kernel, work: Work | None = None) -> Found:
    """At least the operator norm of the kernel, rounding included.

    Data continued by zeros lie on a torus so large that no read wraps onto data: the map is then a crop of a circular one, whose norm
    is the largest norm of its symbol. On axes that wrap the torus is the data. Strides become channels. Where the torus is
    too large for `work`, a coarser grid bounds the symbol at every frequency; where that is too large too, row and column sums.

    Raises:
        NoConstant: a tap is not finite.

    Source: Sedghi, Gupta, Long 2019 for the circular case; docs/lipschitz.md has the proofs of the rest.
    """
    work = work or Work(math.inf)
    kernel = kernel.live()
    largest = finite(float(np.abs(kernel.taps).max(initial=0.0)))
    if largest == 0.0:
        return Found(0.0, "nothing passes")
    scale = 2.0 ** math.frexp(largest)[1]
    symbol = Symbol.of(kernel, scale)
    repeated = math.sqrt(math.prod(repetition(kernel, axis) for axis in range(len(kernel.sizes))))
    found = symbol.norm(work)
    if found is None:
        return Found(finite(kernel.magnitude() + kernel.rounding.error), "row and column sums")
    norm = found.norm * scale * repeated * (1 + 1e-12) + kernel.rounding.error
    if not math.isfinite(norm):
        raise NoConstant("", "its norm is beyond float64: check the weights")
    return Found(norm, found.how)


@dataclass(frozen=True)
class Symbol:
    """H(w) = sum over j of blocks[j] * exp(i w . steps[j]), one matrix for each group.

    Args:
        blocks: (count, groups, C' / groups, C / groups * phases).
        steps: (count, axes).
        turns: frequencies on each axis that are enough: w = 2 pi k / turns.
    """

    blocks: Array
    steps: Array
    turns: tuple[int, ...]

    @classmethod
    def of(cls, kernel: Kernel, scale: float) -> Symbol:
        strides = tuple(
            1 if wrap and size % stride else stride for wrap, size, stride in zip(kernel.wraps, kernel.sizes, kernel.strides, strict=True)
        )
        sizes = tuple(_torus(kernel, axis) for axis in range(len(strides)))
        turns = tuple(size // stride for size, stride in zip(sizes, strides, strict=True))
        step = np.array(strides, np.int64)
        quotients, rests = np.floor_divide(kernel.offsets, step), np.mod(kernel.offsets, step)
        phases = np.zeros(len(rests), np.int64)
        for axis, stride in enumerate(strides):
            phases = phases * stride + rests[:, axis]
        used, phases = np.unique(phases, return_inverse=True)  # a phase nobody reads is a column of zeros
        steps, places = np.unique(quotients, axis=0, return_inverse=True)
        groups, out, into, _ = kernel.taps.shape
        blocks = np.zeros((len(steps), groups, out, into, len(used)))
        for tap, (place, phase) in enumerate(zip(places.reshape(-1), phases.reshape(-1), strict=True)):
            blocks[place, ..., phase] += kernel.taps[..., tap] / scale
        return cls(blocks.reshape(len(steps), groups, out, into * len(used)), steps, turns)

    @property
    def degrees(self) -> tuple[int, ...]:
        """Of |H(w) v|^2 as a trigonometric polynomial on each axis."""
        return tuple(int(v) for v in np.ptp(self.steps, axis=0)) if self.steps.shape[1] else ()

    def norm(self, work: Work) -> Found | None:
        """At least the largest norm over the torus; null where `work` does not suffice."""
        if not any(self.degrees):
            return self._constant(work)
        if min(self.blocks.shape[2:]) > EXACT_SIDE:
            return self._side_by_side(work)
        for fine in (0, *_GRIDS):
            turns = tuple(self._points(axis, fine) for axis in range(len(self.turns)))
            sure, likely = self._cost(turns)
            if not work.affords(sure + likely):
                continue
            work.spend(sure)
            factor = 1.0
            for points, turn, degree in zip(turns, self.turns, self.degrees, strict=True):
                if points != turn and degree:
                    factor /= math.cos(math.pi * degree / (2 * points))
            size = " x ".join(str(turn) for turn in turns)
            how = f"FFT on a torus of {size}" if factor == 1.0 else f"FFT on a grid of {size}, times {factor:.4f}"
            return Found(self._largest(turns, work) * factor * (1 + 1e-12), how)
        return self._side_by_side(work)

    def _side_by_side(self, work: Work) -> Found | None:
        """The taps in one row or in one column, times the square root of their number: the exponentials are that long."""
        count, groups, out, into = self.blocks.shape
        side, length = min(out, into), max(out, into) * count
        if not work.affords(2 * groups * (2.0 * side * side * length + 20.0 * side**3)):
            return None
        rows = self.blocks.transpose(1, 2, 0, 3).reshape(groups, out, count * into)
        columns = self.blocks.transpose(1, 0, 2, 3).reshape(groups, count * out, into)
        norm = min(max(matrix_norm(matrix, work) for matrix in either) for either in (rows, columns))
        return Found(norm * math.sqrt(count) * (1 + 1e-12), f"SVD {out} x {count * into}, times {math.sqrt(count):.4f}")

    def _points(self, axis: int, fine: int) -> int:
        """How many frequencies on an axis: one where the symbol does not depend on it; all, or a grid that is coarser."""
        degree = self.degrees[axis]
        if degree == 0:
            return 1
        return min(self.turns[axis], fine * degree) if fine else self.turns[axis]

    def _constant(self, work: Work) -> Found:
        """The same matrix at every frequency."""
        total = self.blocks.sum(axis=0)
        norm = max(matrix_norm(matrix, work) for matrix in total)
        return Found(norm, f"SVD {total.shape[1]} x {total.shape[2]}")

    def _cost(self, turns: tuple[int, ...]) -> tuple[float, float]:
        """What the symbols and the bounds of their norms cost, and what the eigenvalues may cost at most."""
        count, groups, out, into = self.blocks.shape
        frequencies, side, length = math.prod(turns) / 2 + 1, min(out, into), max(out, into)
        symbols = 8.0 * count * out * into + (8.0 * side * side * length + 16.0 * side**3 if side > 1 else 4.0 * length)
        return frequencies * groups * symbols, frequencies * groups * eigenvalue_cost(side, length) if side > 1 else 0.0

    def _largest(self, turns: tuple[int, ...], work: Work | None = None) -> float:
        out, into = self.blocks.shape[2:]
        flat = self.blocks.reshape(len(self.blocks), -1)
        best = 0.0
        for phases in self._phases(turns, max(1, _CHUNK // flat.shape[1])):
            best = largest_norm((phases @ flat).reshape(-1, out, into), best, work)
        # |e| <= 64 count u for the error of each exponential and of the sum, against the magnitudes of all taps.
        error = 64 * len(flat) * UNIT * np.sqrt(np.square(np.abs(self.blocks).sum(axis=0)).sum(axis=(-1, -2))).max()
        return finite(best + float(error))

    def _phases(self, turns: tuple[int, ...], rows: int) -> Iterator[Array]:
        """exp(i w . steps) for half of the frequencies, (rows, count) at a time: the taps are real, so -w has the same norm."""
        whole = itertools.product(*(range(turn) for turn in turns[:-1]), range(turns[-1] // 2 + 1))
        while chosen := list(itertools.islice(whole, rows)):
            places = np.array(chosen, np.int64)
            total = np.ones((len(places), len(self.steps)), np.complex128)
            for axis, turn in enumerate(turns):
                angle = 2 * np.pi * (np.outer(places[:, axis], self.steps[:, axis]) % turn) / turn
                total *= np.cos(angle) + 1j * np.sin(angle)
            yield total


def _torus(kernel: Kernel, axis: int) -> int:
    """The length of a torus on which no read of the kernel wraps onto data; the data itself on an axis that wraps."""
    size, stride = kernel.sizes[axis], kernel.strides[axis]
    if kernel.wraps[axis]:
        return size
    first, last = kernel.reads(axis)
    needed = max(size, size - first, last + 1, stride * kernel.made[axis])
    return -(-needed // stride) * stride
