"""Gaussian noise for 8-bit inputs, exact in floating point: the classifier rounds to the 1/255 grid, the sampler draws integers."""

from __future__ import annotations

import math
from functools import lru_cache

import mpmath
import numpy as np
import torch
from scipy import special
from torch import Tensor

from certify.errors import InputError
from certify.norms import Norm
from certify.sampling.noise.base import Array, Noise
from certify.sampling.noise.gaussian import l2_radius
from certify.sampling.streams import Lane, Stream

LEVELS = 255
_BITS, _CELL_BITS = 63, 16
_LOW_BITS = _BITS - _CELL_BITS
# Every usual way to divide by 255 in float32 stays within 2^-24.
_OFF_GRID = 2.0**-23


class DiscreteGaussian(Noise):
    """Gaussian smoothing of f after rounding: f'(y) = f(clip(Q(y), -k, k + 1)), Q to the nearest multiple of 1/255.

    For an input x on that grid Q(x + e) = x + Q(e), so integers drawn by the law of 255 Q(e) are exact samples, whatever float32 does
    to sums: no low-order bit of a noisy copy tells where x was. f' sees the float32 nearest to a multiple of 1/255 and nothing else.
    The law is sampled from 63-bit words; `slack` bounds what the rounding of its thresholds can change in a probability.

    Source: Voracek & Hein 2023, "Sound randomized smoothing in floating-point arithmetics"; docs/decisions/0012.
    """

    norm = Norm.L2
    grid = True
    bytes_each = 2

    def __init__(self, sigma: float, shape: tuple[int, ...], device: str) -> None:
        super().__init__(sigma, shape, device)
        self._extreme = extreme(sigma)
        self._thresholds = thresholds(sigma)
        self._table = _table(sigma)
        # Each threshold is off by at most one unit, and so is each of the two cells beside it; the ends are never drawn beyond.
        self.slack = math.prod(shape) * (len(self._thresholds) + 2) * 2.0**-_BITS
        # A tensor: a GPU divides by a plain number as a product with its rounded reciprocal.
        self._levels = torch.tensor(float(LEVELS), device=device)
        self._values = np.empty((self.ahead, self.elements), dtype=np.float32)

    def prepare(
        self,
        x: Tensor,  # (*input), float32, raw input units
    ) -> Tensor:
        """The input in units of 1/255.

        Raises:
            InputError: it is not on the grid.
        """
        return grid_levels(x).to(self.device)

    def draw(self, stream: Stream, first: int, count: int = 1) -> Tensor:
        cells, values = self._random(stream, first, count).view(np.uint16), self._values[:count]
        np.take(self._table, cells, out=values, mode="clip")
        for row in range(count):
            self._refine(stream, first + row, cells[row], values[row])
        return self._shaped(torch.from_numpy(values).to(self.device))

    def _refine(self, stream: Stream, block: int, cells: Array, values: Array) -> None:
        """More bits for the cells in which a threshold lies; `values` is NaN there."""
        cut = np.flatnonzero(np.isnan(values))
        if not len(cut):
            return
        low = np.empty(len(cut) * 8, dtype=np.uint8)
        stream.fill(block, low, Lane.REFINE)
        word = (cells[cut].astype(np.int64) << _LOW_BITS) | (low.view(np.int64) & ((1 << _LOW_BITS) - 1))
        values[cut] = np.searchsorted(self._thresholds, word, side="right") - self._extreme

    def apply(
        self,
        x: Tensor,  # (*input), in units of 1/255
        noise: Tensor,  # (samples, *input), in units of 1/255
        out: Tensor,  # (samples, *input), float32
    ) -> None:
        torch.add(noise, x, out=out)
        out.clamp_(LEVELS - self._extreme, self._extreme).div_(self._levels)

    def radius(self, pA_lower: float, pB_upper: float) -> float:
        return l2_radius(self.sigma, pA_lower, pB_upper)

    def reach(self, pA: Array, pB: Array) -> Array:
        reached: Array = self.sigma / 2 * (special.ndtri(pA) - special.ndtri(pB))
        return reached


def on_grid(
    x: Tensor,  # (*any), float32
) -> bool:
    """Whether all values are k / 255, k from 0 to 255, as far as float32 can say."""
    levels = (x * LEVELS).round()
    return bool(((levels / LEVELS - x).abs() <= _OFF_GRID).all()) and bool(((levels >= 0) & (levels <= LEVELS)).all())


def grid_levels(
    x: Tensor,  # (*any), float32
) -> Tensor:
    """The values in units of 1/255, float32.

    Raises:
        InputError: one is not on the grid.
    """
    if not on_grid(x):
        raise InputError.at("x", "is not on the 1/255 grid in [0, 1]", "send 8-bit values divided by 255, or use gaussian noise")
    return (x * LEVELS).round()


def extreme(sigma: float) -> int:
    """The largest value that the classifier ever sees, in units of 1/255: k + 1 with k = max(1, floor(6 sigma)); the lowest is -k."""
    return LEVELS * (max(1, int(6 * sigma)) + 1)


@lru_cache(maxsize=16)
def thresholds(sigma: float) -> Array:
    """T_i = 2^63 Phi((2 i + 1) / (510 sigma)) to the nearest integer, i from -extreme to extreme - 1, int64, ascending.

    A uniform 63-bit word U gives J = -extreme + #{i : T_i <= U}, distributed as the nearest integer to 255 sigma z, up to the rounding.
    """
    half = []
    with mpmath.workprec(2 * _BITS):
        scale = 1 / (2 * LEVELS * mpmath.mpf(sigma))
        for i in range(extreme(sigma)):
            z = (2 * i + 1) * scale
            # Beyond 10 nothing is left of 2^63, and mpmath gives up far beyond.
            half.append(int(mpmath.nint(mpmath.ncdf(-z) * 2**_BITS)) if z < 10 else 0)
            if half[-1] == 0:
                break
    half += [0] * (extreme(sigma) - len(half))
    top = (1 << _BITS) - np.array(half, dtype=object)
    both = np.concatenate([np.array(half[::-1], dtype=object), top])
    whole: Array = np.minimum(both, (1 << _BITS) - 1).astype(np.int64)
    return whole


@lru_cache(maxsize=16)
def _table(sigma: float) -> Array:
    """J for each value of the first 16 bits of a word, float32; NaN where a threshold lies inside the cell."""
    starts = np.arange(1 << _CELL_BITS, dtype=np.int64) << _LOW_BITS
    first = np.searchsorted(thresholds(sigma), starts, side="right")
    last = np.searchsorted(thresholds(sigma), starts + ((1 << _LOW_BITS) - 1), side="right")
    return np.where(first == last, first - extreme(sigma), np.nan).astype(np.float32)
