"""Uniform noise: an l1 radius."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from certify.norms import Norm
from certify.rounding import step_down
from certify.sampling.noise.base import Array, Noise
from certify.sampling.streams import Stream


class Uniform(Noise):
    """x + U[-lam, lam]^d with lam = sigma * sqrt(3): sigma is the standard deviation of each coordinate, as for the other noises.

    A shift by delta moves the law of the noisy input by at most ||delta||_1 / (2 lam) in total variation, so the top class stays ahead
    while ||delta||_1 < lam * (pA - pB).

    Source: Yang, Duan, Hu, Salman, Razenshteyn & Li 2020, "Randomized smoothing of all shapes and sizes", section on uniform noise; the
    two-class form is 2 lam (pA - 1/2), Lee et al. 2019.
    """

    norm = Norm.L1

    def __init__(self, sigma: float, shape: tuple[int, ...], device: str) -> None:
        super().__init__(sigma, shape, device)
        self._scale = np.float32(sigma * math.sqrt(3.0)) * np.float32(2.0**-31)  # a power of two: exact
        self._values = np.empty((self.ahead, self.elements), dtype=np.float32)

    def draw(self, stream: Stream, first: int, count: int = 1) -> Tensor:
        values = self._values[:count]
        values[:] = self._random(stream, first, count).view(np.int32)
        values += np.float32(0.5)
        values *= self._scale
        return self._shaped(torch.from_numpy(values).to(self.device))

    def radius(self, pA_lower: float, pB_upper: float) -> float:
        pB_upper = min(pB_upper, 1.0 - pA_lower)
        # The half width that was drawn or the one that was asked for, whichever is smaller.
        lam = min(step_down(self.sigma * math.sqrt(3.0), 2), float(self._scale) * 2.0**31)
        return max(0.0, step_down(lam * step_down(pA_lower - pB_upper, 2)))

    def reach(self, pA: Array, pB: Array) -> Array:
        reached: Array = self.sigma * math.sqrt(3.0) * (pA - pB)
        return reached
