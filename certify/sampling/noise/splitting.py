"""Splitting noise: every offset of a fixed template, nothing at random: an exact l1 radius."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from certify.norms import Norm
from certify.rounding import step_down
from certify.sampling.noise.base import Array, Noise
from certify.sampling.noise.grid import LEVELS, grid_levels
from certify.sampling.streams import Stage, Stream


class Splitting(Noise):
    """Copy o of an input: each value becomes the middle of its cell, the line being cut at the split points of offset o.

    Element i is cut at ((v_i + o) mod levels + 1/2) / 255 and at every multiple of 2 lam = levels / 255 from there; cells end at 0 and 1.
    From lam = 1/2 on at most one cut lies inside, and the value is (1[x > split] + min(split, 1)) / 2.

    A cut lies between two grid values that are neighbours, and each of these places is cut at exactly one offset. So a step of 1/255
    in one element changes one copy, and inputs at l1 distance D / 255 share all but D of the `levels` copies.

    Copies are computed in integers and one float32 division: the classifier sees the float32 nearest to a multiple of 1/1020.

    Source: Levine & Feizi 2021, "Improved, deterministic smoothing for l1 certified robustness".
    """

    norm = Norm.L1
    grid = True
    bytes_each = 0  # no random bits

    def __init__(self, sigma: float, levels: int, template: Array, device: str) -> None:
        super().__init__(sigma, template.shape, device)
        self.levels = levels
        self._template = torch.from_numpy(template).to(device, torch.float32)
        steps = torch.arange(self.ahead * self.block, dtype=torch.float32, device=device)
        self._steps = steps.reshape(-1, *(1 for _ in self.shape))
        self._splits = self._shaped(torch.empty((self.ahead, self.elements), device=device))
        # A tensor, because on a GPU division by a plain number is multiplication by its rounded inverse.
        self._whole = torch.tensor(4.0 * LEVELS, device=device)

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
        """Split points of the blocks' offsets in turn, less 1/2, in units of 1/255; nothing is random, so no stream is read."""
        splits, steps = self._splits[: count * self.block], self._steps[: count * self.block]
        torch.add(self._template, steps + first * self.block, out=splits)
        return splits.remainder_(self.levels)

    def apply(
        self,
        x: Tensor,  # (*input), in units of 1/255
        noise: Tensor,  # (samples, *input), split points less 1/2, in units of 1/255
        out: Tensor,  # (samples, *input), float32
    ) -> None:
        # Twice the lower end of the cell of x, then of both ends; all integers far below 2^24, where float32 is exact.
        torch.sub(x - 1, noise, out=out)
        out.remainder_(self.levels).mul_(-2).add_(2 * x - 1)
        upper = (out + 2 * self.levels).clamp_(max=2 * LEVELS)
        out.clamp_(min=0).add_(upper).div_(self._whole)

    def radius(self, pA_lower: float, pB_upper: float) -> float:
        """lam * (pA - pB), open: what follows from shares of the copies alone. `lead` is sharper, for it knows the counts."""
        lam = step_down(self.levels / (2 * LEVELS))
        return max(0.0, step_down(lam * step_down(pA_lower - pB_upper)))

    def reach(self, pA: Array, pB: Array) -> Array:
        reached: Array = self.levels / (2 * LEVELS) * (pA - pB)
        return reached


def make_template(key: bytes, levels: int, shape: tuple[int, ...]) -> Array:
    """v in {0..levels-1} for each element of an input, int32 of that shape: 64-bit words of the key's stream, modulo `levels`."""
    words = np.empty(8 * math.prod(shape), dtype=np.uint8)
    Stream(hashlib.sha256(key + b"/splitting").digest(), 0, 0, Stage.PREDICTION).fill(0, words)
    values: Array = (words.view("<u8") % np.uint64(levels)).astype(np.int32).reshape(shape)
    return values


def digest(template: Array) -> str:
    """SHA-256 of the template as little-endian int32, in hex."""
    return hashlib.sha256(template.astype("<i4").tobytes()).hexdigest()
