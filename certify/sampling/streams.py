"""Noise streams: a pure function of (key, certifier, example, stage, block), whatever the packing, the shard plan or the history.

One block is `BLOCK` samples and is always drawn whole, so a sample does not depend on how many of its neighbours are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

BLOCK = 128


class Stage(IntEnum):
    """Independent parts of one example's randomness; no stage ever reuses another's samples."""

    SELECTION = 0
    ESTIMATION = 1


@dataclass(frozen=True)
class Stream:
    """The standard normal samples of one example in one stage.

    Every block has its own counter-based generator (Philox 4x64) under its own 128-bit key, the first half of
    SHA-256(key, certifier, example, stage, block): distinct blocks are independent streams, and without `key` the noise cannot be
    predicted. Drawn in float32, never in a shorter format.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; docs/decisions/0002.
    """

    key: bytes
    certifier: int
    example: int
    stage: Stage
    shape: tuple[int, ...]

    def block(self, index: int) -> Tensor:
        """Block `index`: (BLOCK, *shape), float32, on the CPU, so that every kind of device sees the same noise."""
        name = f"/{self.certifier}/{self.example}/{int(self.stage)}/{index}".encode()
        words = np.frombuffer(hashlib.sha256(self.key + name).digest()[:16], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=words))
        return torch.from_numpy(generator.standard_normal((BLOCK, *self.shape), dtype=np.float32))

    def batches(self, samples: int, batch_size: int) -> Iterator[tuple[Tensor, int]]:
        """The first `samples` samples, cut into fixed batches.

        Yields:
            A buffer of shape (batch_size, *shape), float32, reused by the next batch, and how many of its leading rows are
            samples; the rest of the last batch is zero padding, whose votes must not be counted.
        """
        buffer = torch.zeros((batch_size, *self.shape), dtype=torch.float32)
        filled, left = 0, samples
        for index in range(-(-samples // BLOCK)):
            noise = self.block(index)[:left]
            left -= len(noise)
            while len(noise):
                part = noise[: batch_size - filled]
                buffer[filled : filled + len(part)] = part
                filled, noise = filled + len(part), noise[len(part) :]
                if filled == batch_size:
                    yield buffer, filled
                    filled = 0
        if filled:
            buffer[filled:] = 0.0
            yield buffer, filled
