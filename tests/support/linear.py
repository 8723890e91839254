"""A linear classifier whose distance to the decision boundary is known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from certify import Examples, Model
from certify.norms import Norm
from tests.support.onnx_models import linear_model


@dataclass(frozen=True)
class LinearTruth:
    """logits = weight @ ((x - mean) / std) + bias, with float32 parameters taken as exact rationals."""

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray | None = None
    std: np.ndarray | None = None

    @classmethod
    def random(cls, features: int, classes: int, *, seed: int, normalised: bool = False) -> LinearTruth:
        rng = np.random.default_rng(seed)
        weight = rng.normal(size=(classes, features)).astype(np.float32)
        bias = (0.1 * rng.normal(size=classes)).astype(np.float32)
        if not normalised:
            return cls(weight, bias)
        return cls(weight, bias, rng.uniform(0.3, 0.6, features).astype(np.float32), rng.uniform(0.1, 0.4, features).astype(np.float32))

    @property
    def features(self) -> int:
        return int(self.weight.shape[1])

    def model(self) -> Model:
        return Model.from_onnx(linear_model(self.weight, self.bias, self.mean, self.std))

    def logits(self, x: np.ndarray) -> list[Fraction]:
        values = [Fraction(float(v)) for v in x]
        if self.mean is not None and self.std is not None:
            values = [(v - Fraction(float(m))) / Fraction(float(s)) for v, m, s in zip(values, self.mean, self.std, strict=True)]
        return [
            sum((Fraction(float(w)) * v for w, v in zip(row, values, strict=True)), Fraction(float(b)))
            for row, b in zip(self.weight, self.bias, strict=True)
        ]

    def examples(self, count: int, *, seed: int) -> Examples:
        """Points in [0, 1]; the labels are the true answers but for every fifth."""
        rng = np.random.default_rng(seed)
        x = rng.uniform(0, 1, size=(count, self.features)).astype(np.float32)
        labels = [max(range(len(self.bias)), key=self.logits(row).__getitem__) for row in x]
        labels = [(label + (i % 5 == 4)) % len(self.bias) for i, label in enumerate(labels)]
        return Examples(tuple(range(100, 100 + count)), torch.from_numpy(x), torch.tensor(labels))

    def distance(self, x: np.ndarray, prediction: int, norm: Norm) -> Fraction:
        """The distance from x to the nearest point with another answer, from below within 1e-25; negative when `prediction` is wrong."""
        logits = self.logits(x)
        scale = [Fraction(1)] * len(x) if self.std is None else [Fraction(float(s)) for s in self.std]
        best: Fraction | None = None
        for rival in range(len(self.bias)):
            if rival == prediction:
                continue
            gap = [
                (Fraction(float(a)) - Fraction(float(b))) / s
                for a, b, s in zip(self.weight[prediction], self.weight[rival], scale, strict=True)
            ]
            distance = (logits[prediction] - logits[rival]) / dual_norm_upper(gap, norm)
            best = distance if best is None else min(best, distance)
        assert best is not None
        return best


def dual_norm_upper(vector: list[Fraction], norm: Norm) -> Fraction:
    if norm is Norm.LINF:
        return sum((abs(v) for v in vector), Fraction(0))
    if norm is Norm.L1:
        return max(abs(v) for v in vector)
    square = sum((v * v for v in vector), Fraction(0))
    scale = 10**60
    return Fraction(math.isqrt(square.numerator * scale // square.denominator) + 1, 10**30)
