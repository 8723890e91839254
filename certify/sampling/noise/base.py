"""What every noise is: random bits in, noisy copies out, and the radius that follows from class probabilities."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from certify.norms import Norm
from certify.rounding import step_up
from certify.sampling.streams import Stream

Array = np.ndarray[Any, Any]
_BLOCK_ELEMENTS, _BLOCK_SAMPLES = 2**15, 256
_AHEAD_ELEMENTS = 2**22


def block_samples(elements: int) -> int:
    """Samples of one block for inputs of `elements` elements: a power of two, so that a block stays in the cache."""
    return min(_BLOCK_SAMPLES, max(1, 1 << (_BLOCK_ELEMENTS // max(elements, 1)).bit_length() >> 1))


def blocks_ahead(elements: int, device: str) -> int:
    """How many blocks are best transformed at once: one that stays in the cache on a CPU, enough to fill a GPU."""
    return 1 if device == "cpu" else max(1, _AHEAD_ELEMENTS // elements)


class Noise(ABC):
    """Noisy copies of inputs of one shape, on one device.

    Noise is drawn in blocks of `block` samples, always whole, in float32 and never shorter, so that a sample is a pure function of
    its stream and its number. Images are drawn in channels-last order, which is how the network sees them.

    Attributes:
        block: samples of one block.
        ahead: the most blocks that are drawn at once; it changes nothing about them.
        norm: the norm of the radius that follows from the votes.
        grid: whether only inputs on the 1/255 grid can be answered, by a classifier that rounds to it.
        slack: an upper bound of the total variation distance between the copies that are drawn and those of the theorem.
    """

    norm: ClassVar[Norm]
    grid: ClassVar[bool] = False
    bytes_each: ClassVar[int] = 4

    def __init__(self, sigma: float, shape: tuple[int, ...], device: str) -> None:
        self.sigma = sigma
        self.shape = shape
        self.device = device
        self.slack = 0.0
        self.block = block_samples(math.prod(shape))
        self.elements = self._drawn()
        self.ahead = blocks_ahead(self.elements, device)
        self._bits = np.empty((self.ahead, self.elements * self.bytes_each), dtype=np.uint8)

    def _drawn(self) -> int:
        """How many values are drawn for a block: an even number, as two halves make one pair each."""
        return -(-self.block * math.prod(self.shape) // 2) * 2

    def prepare(
        self,
        x: Tensor,  # (*input), float32, raw input units
    ) -> Tensor:
        """What `apply` wants to have of an input, computed once."""
        return x.to(self.device)

    def at(self, sigma: float) -> Self:
        """The same noise at another level. Of the two only one may be drawn at a time: they may share their memory."""
        return type(self)(sigma, self.shape, self.device)

    @abstractmethod
    def draw(self, stream: Stream, first: int, count: int = 1) -> Tensor:
        """The noise of blocks `first`, `first` + 1, ...: (count * block, *shape), float32, on the device; overwritten by the next call.

        Args:
            stream: whose noise.
            first: the first block.
            count: how many, at most `ahead`.
        """

    def apply(
        self,
        x: Tensor,  # (*input), as prepared
        noise: Tensor,  # (samples, *input), rows of a drawn block
        out: Tensor,  # (samples, *input), float32
    ) -> None:
        """Write the noisy copies into `out`."""
        torch.add(noise, x, out=out)

    def paid(self, p_value: float, n: int) -> float:
        """A p-value of n votes that holds under the law which is drawn, from one that holds under the theorem's; rounded up.

        All n copies together are within n * slack of the theorem's in total variation, so that no event is more likely by more.
        """
        return min(1.0, step_up(p_value + n * self.slack)) if self.slack else p_value

    @abstractmethod
    def radius(self, pA_lower: float, pB_upper: float) -> float:
        """The radius that holds when the top class has at least pA_lower and every other at most pB_upper; rounded down, 0 if none."""

    @abstractmethod
    def reach(self, pA: Array, pB: Array) -> Array:
        """`radius` for many, neither rounded nor proved: it only decides when sampling stops."""

    def _random(self, stream: Stream, first: int, count: int) -> Array:
        """The bits of blocks as bytes, one row for each, overwritten by the next call."""
        for row in range(count):
            stream.fill(first + row, self._bits[row])
        return self._bits[:count]

    def _shaped(
        self,
        values: Tensor,  # (count, elements), float32
    ) -> Tensor:
        kept = values[:, : self.block * math.prod(self.shape)]
        if len(self.shape) != 3:
            return kept.reshape(-1, *self.shape)
        channels, height, width = self.shape
        return kept.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
