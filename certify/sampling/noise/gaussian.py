"""Gaussian noise: an l2 radius."""

from __future__ import annotations

import math
from copy import copy
from typing import Any, Self

import numpy as np
import torch
from scipy import special
from torch import Tensor

from certify.norms import Norm
from certify.rounding import step_down, step_up
from certify.sampling.noise.base import Array, Noise
from certify.sampling.streams import Stream
from certify.statistics.binomial import normal_quantile_lower

_WORD = 2.0**-31
# The probability of two normal values to lie beyond the longest pair that is drawn, exp(-length^2 / 2) with length^2 = 64 ln 2. The
# factor is for the float32 of that length.
_BEYOND = 1.0001 * 2.0**-32


class Gaussian(Noise):
    """x + N(0, sigma^2 I), by Box and Muller's transform of 32-bit words, in float32.

    The radius is Cohen, Rosenfeld & Kolter 2019, Theorem 1: sigma / 2 * (Phi^-1(pA_lower) - Phi^-1(pB_upper)).

    No value beyond 6.66 sigma is ever drawn: two values share a length, whose smallest uniform number is 2^-32. `slack` pays for what is
    missing, 2^-32 for each pair of a copy (docs/statistics.md). Both values of a pair lie in one copy, so that copies stay independent.
    What is left out is float32 and the finite number of words inside (see `DiscreteGaussian` for an exact law).

    Source: Box & Muller 1958.
    """

    norm = Norm.L2

    def __init__(self, sigma: float, shape: tuple[int, ...], device: str) -> None:
        self._pairs = -(-math.prod(shape) // 2)  # of one copy; of an odd number of elements the last pair is cut
        super().__init__(sigma, shape, device)
        self.slack = self._pairs * _BEYOND
        # NumPy on the CPU: its functions give the same bits whatever the thread count and, from x86-64-v3 on, the processor.
        self._xp: Any = np if device == "cpu" else torch
        self._length, self._angle = self._empty(self.elements // 2), self._empty(self.elements // 2)
        self._values = self._empty(self.elements)

    def at(self, sigma: float) -> Self:
        # The buffers say nothing about the level, and a search goes through hundreds of levels.
        other = copy(self)
        other.sigma = sigma
        return other

    def _drawn(self) -> int:
        return self.block * 2 * self._pairs

    def _empty(self, columns: int) -> Any:
        buffer = torch.empty((self.ahead, columns), device=self.device)
        return buffer.numpy() if self._xp is np else buffer

    def draw(self, stream: Stream, first: int, count: int = 1) -> Tensor:
        words: Any = self._random(stream, first, count).view(np.int32)
        if self._xp is torch:
            words = torch.from_numpy(words).to(self.device)
        half = self.elements // 2
        xp = self._xp
        length = self._length[:count]
        angle = self._angle[:count]
        values = self._values[:count]
        # The length from 31 bits in (0, 1], the angle from 32 bits in [-pi, pi].
        xp.bitwise_and(words[:, :half], 0x7FFFFFFF, out=words[:, :half])
        length[:], angle[:] = words[:, :half], words[:, half:]
        length += 0.5
        length *= _WORD
        xp.log(length, out=length)
        length *= -2.0
        xp.sqrt(length, out=length)
        length *= self.sigma
        angle *= math.pi * _WORD
        # The first half of a copy are the first values of its pairs, the second half the others.
        copies = values.reshape(count, self.block, 2, self._pairs)
        length = length.reshape(count, self.block, self._pairs)
        angle = angle.reshape(count, self.block, self._pairs)
        xp.cos(angle, out=copies[:, :, 0])
        xp.sin(angle, out=copies[:, :, 1])
        copies[:, :, 0] *= length
        copies[:, :, 1] *= length
        return self._shaped(torch.as_tensor(values))

    def _shaped(
        self,
        values: Tensor,  # (count, elements), float32
    ) -> Tensor:
        size = math.prod(self.shape)
        if size % 2:
            values = values.reshape(-1, 2 * self._pairs)[:, :size].reshape(len(values), -1)
        return super()._shaped(values)

    def paid(self, p_value: float, n: int) -> float:
        # What is drawn is the true law where no pair lies beyond: no event gets likelier than by one over the probability of that.
        return min(1.0, step_up(p_value * math.exp(n * self.slack), 4)) if p_value else p_value

    def radius(self, pA_lower: float, pB_upper: float) -> float:
        # Noise is scaled in float32, so its true level is the float32 nearest to sigma; the smaller of the two is on the safe side.
        return l2_radius(min(self.sigma, float(np.float32(self.sigma))), pA_lower, pB_upper)

    def reach(self, pA: Array, pB: Array) -> Array:
        reached: Array = self.sigma / 2 * (special.ndtri(pA) - special.ndtri(pB))
        return reached


def l2_radius(sigma: float, pA_lower: float, pB_upper: float) -> float:
    """At most sigma / 2 * (Phi^-1(pA_lower) - Phi^-1(pB_upper)), and 0 when that is not positive.

    Args:
        sigma: noise level, raw-input units.
        pA_lower: lower bound of the top class's probability.
        pB_upper: upper bound of every other class's; the true one is at most 1 - pA, which is used where it is smaller.

    Source: Cohen, Rosenfeld & Kolter 2019, Theorem 1.
    """
    if not 0.0 < pA_lower < 1.0:
        return 0.0
    quantile_A = normal_quantile_lower(pA_lower)
    others = step_down(1.0 - pB_upper)
    if not pA_lower < others < 1.0:
        return max(0.0, step_down(sigma * quantile_A))
    return max(0.0, step_down(sigma * step_down((quantile_A + normal_quantile_lower(others)) / 2)))
