"""The steps that linear operators are made of: each can be applied in float64, has a norm, and is a kernel where it can be one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from certify.lipschitz.constant import NoConstant, Rounding, Work, finite
from certify.lipschitz.kernel import Kernel, Shape, grid_offsets
from certify.lipschitz.spectral import magnitude_norm, matrix_norm
from certify.lipschitz.symbol import Found, kernel_norm

Array = np.ndarray[Any, Any]

MAX_MATRIX = 2**24  # entries of a matrix that is made up


class Part(ABC):
    """A linear map of the values of one example; shapes are those in which it counts them, in row-major order."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:  # (batch, any shape), float64
        """The map of every row, in float64 or with gradients."""

    @abstractmethod
    def rounding(self) -> Rounding:
        """Of `apply` and of its transpose."""

    @abstractmethod
    def norm(self, work: Work) -> Found:
        """At least its l2 operator norm.

        Raises:
            NoConstant: a weight is not finite, or the matrix is too large.
        """

    def kernel(self, source: Shape) -> Kernel | None:
        """The same as a kernel on examples of the shape `source`; null where it is none."""
        return None


Chain = tuple[Part, ...]  # one after another


@dataclass(frozen=True)
class Moved(Part):
    """Every value once, at another place."""

    function: Callable[[Tensor], Tensor]

    def apply(self, x: Tensor) -> Tensor:  # (batch, any shape)
        return self.function(x)

    def rounding(self) -> Rounding:
        return Rounding()

    def norm(self, work: Work) -> Found:
        return Found(1.0, "moves values")


@dataclass(frozen=True)
class Repeated(Part):
    """Values of the shape `view` repeated along axes of length 1 to the shape `made`, which has as many axes or more."""

    view: Shape
    made: Shape

    def apply(self, x: Tensor) -> Tensor:  # (batch, *view)
        return x.reshape(-1, *(1,) * (len(self.made) - len(self.view)), *self.view).expand(-1, *self.made)

    @property
    def _times(self) -> float:
        return math.sqrt(math.prod(self.made) / math.prod(self.view)) * (1 + 1e-12)

    def rounding(self) -> Rounding:
        # Forward it copies; its transpose adds the copies up.
        return Rounding(math.prod(self.made) // math.prod(self.view), self._times)

    def norm(self, work: Work) -> Found:
        return Found(self._times, "copies values")


@dataclass(frozen=True)
class Scaled(Part):
    """Each value times a constant, which broadcasts to `shape`. `terms`: roundings in the making of the constants."""

    factor: Array
    shape: Shape
    terms: int = 0

    def apply(self, x: Tensor) -> Tensor:  # (batch, *shape)
        return x.reshape(-1, *self.shape) * torch.from_numpy(np.array(self.factor, np.float64))

    def rounding(self) -> Rounding:
        return Rounding(self.terms + 1, self._largest)

    @property
    def _largest(self) -> float:
        return finite(float(np.abs(np.asarray(self.factor, np.float64)).max(initial=0.0))) * (1 + 1e-15)

    def norm(self, work: Work) -> Found:
        return Found(self._largest * (1 + 1e-12), "elementwise")

    def kernel(self, source: Shape) -> Kernel | None:
        """Where the constants are the same at every position of a channel."""
        if self.shape != source or not source:
            return None
        full = np.broadcast_to(np.asarray(self.factor, np.float64), source).reshape(source[0], -1)
        if not np.all(full == full[:, :1]):
            return None
        made = Kernel.pointwise(full[:, :1, None], source[1:])
        return _inexact(made, self.terms)


def _inexact(kernel: Kernel, terms: int) -> Kernel:
    return replace(kernel, rounding=Rounding(terms, kernel.rounding.magnitude))


@dataclass(frozen=True)
class Picks:
    """The matrix along an axis that takes the value at each place, or none where the place is below zero."""

    places: Array
    length: int

    def __call__(self) -> Array:
        """(places, length)"""
        matrix = np.zeros((len(self.places), self.length))
        rows = np.flatnonzero(self.places >= 0)
        matrix[rows, self.places[rows]] = 1.0
        return matrix

    def most(self) -> int:
        """How often the place that is taken most often is taken."""
        taken = self.places[self.places >= 0]
        return int(np.bincount(taken).max()) if taken.size else 0


@dataclass(frozen=True)
class Spread(Part):
    """A matrix, (made, length), along the middle axis of (before, length, after) values.

    Args:
        terms: how often its entries have been rounded.
        given: it stands in the file, so that it may have any size; one that is made up may not.
    """

    before: int
    length: int
    after: int
    made: int
    make: Callable[[], Array]
    terms: int = 2
    given: bool = False

    @cached_property
    def matrix(self) -> Array:
        if self.made * self.length > MAX_MATRIX and not self.given:
            raise NoConstant("", f"as a matrix of {self.made * self.length} weights it is too large")
        return np.ascontiguousarray(self.make(), np.float64)

    def apply(self, x: Tensor) -> Tensor:  # (batch, before * length * after in any shape)
        values = x.reshape(-1, self.before, self.length, self.after)
        if isinstance(self.make, Picks):
            places = torch.from_numpy(np.array(self.make.places))
            taken = values.index_select(2, places.clamp(min=0))
            return taken if bool((places >= 0).all()) else taken * (places >= 0).to(values.dtype)[:, None]
        return torch.from_numpy(self.matrix) @ values

    def rounding(self) -> Rounding:
        if isinstance(self.make, Picks):
            return Rounding(self.make.most(), math.sqrt(self.make.most()) * (1 + 1e-12))
        return Rounding(max(self.length, self.made) + self.terms, magnitude_norm(self.matrix))

    def norm(self, work: Work) -> Found:
        if isinstance(self.make, Picks):
            return Found(math.sqrt(self.make.most()) * (1 + 1e-12), "picks values")
        rounded = Rounding(self.terms, magnitude_norm(self.matrix)).error
        return Found(matrix_norm(self.matrix, work) + rounded, f"SVD {self.made} x {self.length}")

    def kernel(self, source: Shape) -> Kernel | None:
        """On the channels any matrix; along a spatial axis what picks places in even steps, zeros beyond the ends or periodically."""
        axis = self._axis(source)
        if axis == 0 and (self.given or self.made * self.length <= MAX_MATRIX):
            return _inexact(Kernel.pointwise(self.matrix[None], source[1:]), 0 if isinstance(self.make, Picks) else self.terms)
        if axis is None or not isinstance(self.make, Picks):
            return None
        line = _line(self.make)
        if line is None:
            return None
        start, step, wrap = line
        return Kernel.shifted(source, axis - 1, start, step, self.made, wrap=wrap)

    def _axis(self, source: Shape) -> int | None:
        """Which axis of `source` the matrix works along; null where that is not one alone."""
        fits = [
            axis
            for axis, size in enumerate(source)
            if size == self.length and math.prod(source[:axis]) == self.before and math.prod(source[axis + 1 :]) == self.after
        ]
        return fits[0] if len(fits) == 1 else None


def _line(picks: Picks) -> tuple[int, int, bool] | None:
    """Start and step of the places, and whether they wrap; null when they are not start + step * i in that sense."""
    places = np.asarray(picks.places, np.int64)
    inside = np.flatnonzero(places >= 0)
    if not inside.size:
        return None
    first, rows = int(inside[0]), np.arange(len(places))
    step = int(places[first + 1] - places[first]) if first + 1 < len(places) and places[first + 1] >= 0 else 1
    step = step if step > 0 else 1
    line = places[first] + step * (rows - first)
    if np.array_equal(places, np.where((line >= 0) & (line < picks.length), line, -1)):
        return int(line[0]), step, False
    line = places[0] + rows
    return (int(line[0]), 1, True) if np.array_equal(places, np.mod(line, picks.length)) else None


@dataclass(frozen=True)
class Filtered(Part):
    """A convolution (without its bias): weight (C', C / groups, *kernel) on (C, *sizes), padded by zeros."""

    weight: Array
    sizes: Shape
    made: Shape
    strides: Shape
    dilations: Shape
    begins: Shape
    ends: Shape
    groups: int

    def apply(self, x: Tensor) -> Tensor:  # (batch, channels, *sizes) in any shape
        axes = len(self.sizes)
        value = x.reshape(-1, self.weight.shape[1] * self.groups, *self.sizes)
        pads = [pad for axis in reversed(range(axes)) for pad in (self.begins[axis], self.ends[axis])]
        convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
        return convolve(F.pad(value, pads), self._tensor, None, self.strides, 0, self.dilations, self.groups)

    @property
    def _tensor(self) -> Tensor:
        return torch.from_numpy(np.array(self.weight, np.float64))

    def rounding(self) -> Rounding:
        taps = math.prod(self.weight.shape[2:])
        terms = taps * max(self.weight.shape[1], self.weight.shape[0] // self.groups)
        return Rounding(terms + 1, self._kernel.magnitude())

    def norm(self, work: Work) -> Found:
        return kernel_norm(self._kernel, work)

    def kernel(self, source: Shape) -> Kernel | None:
        return self._kernel if self._kernel.source == source else None

    @property
    def _kernel(self) -> Kernel:
        made, per_group, *lengths = self.weight.shape
        taps = np.array(self.weight, np.float64).reshape(self.groups, made // self.groups, per_group, math.prod(lengths))
        offsets = grid_offsets(tuple(lengths), self.dilations, tuple(-begin for begin in self.begins))
        kernel = Kernel(taps, offsets, self.strides, self.sizes, self.made, (False,) * len(self.sizes))
        return kernel.measured()


@dataclass(frozen=True)
class Transposed(Part):
    """The transpose of a convolution: of (C', *made) values it makes (C, *sizes), with the fields of the convolution."""

    forward: Filtered

    def apply(self, x: Tensor) -> Tensor:  # (batch, channels, *made) in any shape
        conv = self.forward
        axes = len(conv.sizes)
        spread = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        full = spread(x.reshape(-1, conv.weight.shape[0], *conv.made), conv._tensor, None, conv.strides, 0, 0, conv.groups, conv.dilations)
        # What lies beyond the crops is cut off, and what the spread never reached is zero.
        crops = [
            -crop
            for axis in reversed(range(axes))
            for crop in (conv.begins[axis], full.shape[2 + axis] - conv.begins[axis] - conv.sizes[axis])
        ]
        return F.pad(F.pad(full, [max(0, crop) for crop in crops]), [min(0, crop) for crop in crops])

    def rounding(self) -> Rounding:
        return self.forward.rounding()

    def norm(self, work: Work) -> Found:
        return self.forward.norm(work)


@dataclass(frozen=True)
class Loosened(Part):
    """A part whose constants are off: by at most gamma(UNITS) times those of another part, which is at least as large everywhere.

    Args:
        part: as it is applied.
        sizes: the same with sizes in place of weights.
    """

    part: Part
    sizes: Part

    UNITS: ClassVar[int] = 9  # 8 of the sizes, and what rounding them does

    def apply(self, x: Tensor) -> Tensor:  # (batch, any shape)
        return self.part.apply(x)

    def rounding(self) -> Rounding:
        known = self.sizes.rounding()
        return Rounding(known.terms + self.UNITS, known.magnitude)

    def norm(self, work: Work) -> Found:
        found = self.part.norm(work)
        return replace(found, norm=finite(found.norm + Rounding(self.UNITS, self.sizes.rounding().magnitude).error))

    def kernel(self, source: Shape) -> Kernel | None:
        kernel, sizes = self.part.kernel(source), self.sizes.kernel(source)
        if kernel is None or sizes is None:
            return None
        return replace(kernel, rounding=Rounding(kernel.rounding.terms + self.UNITS, sizes.magnitude()))


def loosened(chains: tuple[Chain, ...], sizes: tuple[Chain, ...]) -> tuple[Chain, ...]:
    """Chains of weights that are off, with those of the sizes that say by how much."""
    return tuple(
        tuple(Loosened(part, size) if isinstance(part, Weighted) else part for part, size in zip(chain, of_chain, strict=True))
        for chain, of_chain in zip(chains, sizes, strict=True)
    )


# What has weights; all other parts move or copy values.
Weighted = (Scaled, Spread, Filtered, Transposed)
