"""Constants that depend on the batch size, followed exactly: what shape arithmetic makes of the number of rows, at every batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from certify.graph.layout import Layout

Array = np.ndarray[Any, Any]

LARGEST_BATCH = 2**14  # up to here the numbers of every element type are exact, float32 and int32 among them
LARGEST_NUMBER = 2**31  # of a factor or a summand; a product of two fits into 64 bits
_EXACT = {"int64": 2**62, "int32": 2**31 - 1, "float64": 2**53, "float32": 2**24}


@dataclass(frozen=True)
class BatchConstant:
    """A constant at every batch size n from 1 to LARGEST_BATCH: fixed + times * n, and in row r of n also + rows * r, exactly.

    Args:
        fixed: has the shape and the element type of the constant at batch size one.
        times: integers of that shape.
        rows: integers of that shape; zero where no axis has the rows.
        axis: the axis that has one place for each row of the batch; null when the shape does not depend on the batch size.
    """

    fixed: Array
    times: Array
    rows: Array
    axis: int | None = None

    @classmethod
    def plain(cls, value: Array) -> BatchConstant:
        """What does not depend on the batch size."""
        nothing = np.zeros(value.shape, np.int64)
        return cls(value, nothing, nothing)

    @classmethod
    def shape_of(cls, layout: Layout) -> BatchConstant:
        """The shape of a data tensor, as ONNX counts its axes."""
        sizes = np.array(layout.sizes, np.int64)
        times = np.zeros_like(sizes)
        if layout.batch is not None:
            times[layout.batch] = sizes[layout.batch]
        return cls(sizes - times, times, np.zeros_like(sizes))

    @property
    def depends(self) -> Array:
        """Which values depend on the batch size or on the row."""
        found: Array = (self.times != 0) | (self.rows != 0)
        return found

    @property
    def alike(self) -> bool:
        """Every row is the same at every batch size."""
        return not self.depends.any()

    @property
    def free(self) -> bool:
        """It does not depend on the batch size at all."""
        return self.axis is None and self.alike

    @property
    def exact(self) -> bool:
        """Whether no number leaves the integers that its element type holds exactly, up to the largest batch."""
        where = self.depends
        if not where.any():
            return True
        size = np.abs(self.fixed[where].astype(np.float64))
        size += LARGEST_BATCH * (np.abs(self.times[where]) + np.abs(self.rows[where])).astype(np.float64)
        factors = (np.abs(self.times).max(), np.abs(self.rows).max(), np.abs(self.fixed[where]).max())
        return max(factors) <= LARGEST_NUMBER and float(size.max()) <= _EXACT.get(self.fixed.dtype.name, 0)

    @property
    def multiples(self) -> Array:
        """Which values are a number that does not depend on the batch size, or a positive multiple of it and nothing else."""
        found: Array = ~self.depends | ((self.rows == 0) & (self.times > 0) & (self.fixed == 0))
        return found

    def is_length(self, place: int, layout: Layout) -> bool:
        """Whether the value there is, at every batch size, how long the axis with the batch of a data tensor is."""
        if layout.batch is None or self.axis is not None:
            return False
        found = (part.reshape(-1)[place] for part in (self.fixed, self.times, self.rows))
        return tuple(found) == (0, layout.sizes[layout.batch], 0)

    def at(self, batch: int) -> Array:
        """The value at a batch size."""
        value = self.fixed + (self.times * batch).astype(self.fixed.dtype) if self.times.any() else self.fixed
        if self.axis is None:
            return value
        value, step = value.repeat(batch, self.axis), self.rows.repeat(batch, self.axis)
        place = np.arange(batch).reshape(-1, *(1,) * (value.ndim - self.axis - 1))
        return value + (step * place).astype(value.dtype) if step.any() else value


def shape_of(attributes: Mapping[str, Any], value: BatchConstant) -> BatchConstant:
    """What the operator Shape makes of a constant, or of the shape of data."""
    part = slice(attributes.get("start"), attributes.get("end"))
    return BatchConstant(value.fixed[part], value.times[part], value.rows[part])


def size_of(sizes: BatchConstant) -> BatchConstant:
    """The product of a shape, at most one size of which is a multiple of the batch size."""
    times = np.where(sizes.times != 0, sizes.times, sizes.fixed).astype(np.int64)
    product, scales = np.asarray(times.prod()), bool(sizes.times.any())
    nothing = np.zeros((), np.int64)
    return BatchConstant(nothing, product, nothing) if scales else BatchConstant(product, nothing, nothing)


def resolved(layout: Layout, target: BatchConstant, *, zero_copies: bool) -> BatchConstant | None:
    """The sizes that a Reshape makes of a tensor, with 0 and -1 filled in; null where they do not fit at batch size one.

    Sizes without any trace of the batch fit at batch size one alone, and so do those with the batch in several places.

    Args:
        target: sizes that are, each, a fixed number or a multiple of the batch size (`multiples`).
    """
    before = BatchConstant.shape_of(layout)
    sizes: list[int] = []
    scales: list[bool] = []
    for place, (entry, factor) in enumerate(zip(target.fixed.tolist(), target.times.tolist(), strict=True)):
        copied = not factor and entry == 0 and zero_copies and place < layout.rank
        sizes.append(layout.sizes[place] if copied else int(entry + factor))
        scales.append(bool(before.times[place]) if copied else bool(factor))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        return None
    total, known = math.prod(layout.sizes), math.prod(size for size in sizes if size != -1)
    if total % known or (-1 not in sizes and total != known):
        return None
    if -1 in sizes:
        place = sizes.index(-1)
        sizes[place] = total // known
        # What is left takes the rows along where nothing else does.
        scales[place] = layout.batch is not None and not any(scales)
    times = np.where(scales, sizes, 0).astype(np.int64)
    return BatchConstant(np.array(sizes, np.int64) - times, times, np.zeros_like(times))
