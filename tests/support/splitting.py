"""Splitting noise by its definition, in fractions and one offset after another: what the certifier is tested against."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
import torch

from certify import Model
from certify.sampling.streams import Stage, Stream
from tests.support.onnx_models import Array

BATCH, SEED = 256, 3


def split_value(m: int, t: int, levels: int) -> Fraction:
    """What becomes of m / 255 when the split point is (t + 1/2) / 255."""
    x, split, width = Fraction(m, 255), Fraction(2 * t + 1, 510), Fraction(levels, 255)
    if levels >= 255:
        return ((1 if x > split else 0) + min(split, Fraction(1))) / 2
    start = split
    while start > x:
        start -= width
    while start + width < x:
        start += width
    return (max(start, Fraction(0)) + min(start + width, Fraction(1))) / 2


@lru_cache(maxsize=32)
def split_values(levels: int) -> Array:
    """(levels, 256): the float32 nearest to each value. Through float64, which is long enough for the second rounding to be harmless."""
    return np.array([[np.float32(float(split_value(m, t, levels))) for m in range(256)] for t in range(levels)], dtype=np.float32)


def slow_template(seed: int, levels: int, elements: int) -> list[int]:
    key = hashlib.sha256(hashlib.sha256(b"assay/public-seed/%d" % seed).digest() + b"/splitting").digest()
    words = np.empty(8 * elements, dtype=np.uint8)
    Stream(key, 0, 0, Stage.PREDICTION).fill(0, words)
    return [word % levels for word in struct.unpack(f"<{elements}Q", words.tobytes())]


@dataclass
class Definition:
    """g by its definition: all offsets, one after another, in batches of the shape that the certifier uses."""

    model: Model
    levels: int

    @cached_property
    def template(self) -> list[int]:
        return slow_template(SEED, self.levels, math.prod(self.model.input_shape))

    def votes(self, inputs: Array) -> Array:
        """(n, classes) of inputs (n, elements) in units of 1/255."""
        table = split_values(self.levels)
        splits = [[(v + o) % self.levels for v in self.template] for o in range(self.levels)]
        copies = table[np.array(splits)[None], inputs[:, None, :]].reshape(-1, *self.model.input_shape)
        padded = np.concatenate([copies, np.zeros((-len(copies) % BATCH, *copies.shape[1:]), np.float32)])
        with torch.inference_mode():
            logits = [self.model.module()(torch.from_numpy(part)) for part in np.split(padded, len(padded) // BATCH)]
        winners = torch.cat(logits).argmax(1)[: len(copies)].reshape(len(inputs), self.levels).numpy()
        return np.stack([(winners == c).sum(1) for c in range(self.model.classes)], axis=1)

    def answers(self, inputs: Array) -> Array:
        # np.argmax gives ties to the lowest class.
        parts = np.array_split(inputs, -(-len(inputs) * self.levels // 200_000))
        return np.concatenate([self.votes(part).argmax(1) for part in parts])

    def holds(self, m: Array, answer: int, steps: int) -> bool:
        """Whether every grid input within `steps` of m gets `answer`."""
        return bool((self.answers(neighbours(m, steps)) == answer).all())


def neighbours(m: Array, steps: int) -> Array:
    """All inputs of values 0 to 255 within l1 distance `steps` of m, itself included."""
    axes = [np.arange(max(0, value - steps), min(255, value + steps) + 1) for value in m]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(m))
    return grid[np.abs(grid - m).sum(1) <= steps]
