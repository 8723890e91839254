"""A linear classifier behind a linear encoder, whose distance to the decision boundary at the raw input is known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from certify import Model
from certify.norms import Norm
from tests.support.linear import LinearTruth, dual_norm_upper
from tests.support.onnx_models import model_bytes, node, normalisation


@dataclass(frozen=True)
class EncodedTruth(LinearTruth):
    """logits = weight @ z + bias with z = encoder @ ((x - mean) / std), all float32 parameters taken as exact rationals."""

    encoder: np.ndarray | None = None

    @classmethod
    def behind(cls, encoder: np.ndarray, classes: int, *, seed: int, mean: float | None = None, std: float = 1.0) -> EncodedTruth:
        rng = np.random.default_rng(seed)
        weight = rng.normal(size=(classes, len(encoder))).astype(np.float32)
        bias = (0.1 * rng.normal(size=classes)).astype(np.float32)
        columns = encoder.shape[1]
        front = (None, None) if mean is None else (np.full(columns, mean, np.float32), np.full(columns, std, np.float32))
        return cls(weight, bias, *front, encoder.astype(np.float32))

    @property
    def features(self) -> int:
        assert self.encoder is not None
        return int(self.encoder.shape[1])

    def model(self) -> Model:
        assert self.encoder is not None
        return encoded(self.encoder, self.weight, self.bias, self.mean, self.std)

    def logits(self, x: np.ndarray) -> list[Fraction]:
        assert self.encoder is not None
        values = [Fraction(float(v)) for v in x]
        if self.mean is not None and self.std is not None:
            values = [(v - Fraction(float(m))) / Fraction(float(s)) for v, m, s in zip(values, self.mean, self.std, strict=True)]
        z = [sum((Fraction(float(u)) * v for u, v in zip(row, values, strict=True)), Fraction(0)) for row in self.encoder]
        return [
            sum((Fraction(float(w)) * v for w, v in zip(row, z, strict=True)), Fraction(float(b)))
            for row, b in zip(self.weight, self.bias, strict=True)
        ]

    def distance(self, x: np.ndarray, prediction: int, norm: Norm) -> Fraction:
        logits = self.logits(x)
        return min(
            (logits[prediction] - logits[rival]) / dual_norm_upper(self._gap(prediction, rival), norm)
            for rival in range(len(self.bias))
            if rival != prediction
        )

    def _gap(self, a: int, b: int) -> list[Fraction]:
        """The gradient of logit a minus logit b at the raw input."""
        assert self.encoder is not None
        rows = [Fraction(float(v)) - Fraction(float(w)) for v, w in zip(self.weight[a], self.weight[b], strict=True)]
        scale = [Fraction(1)] * self.encoder.shape[1] if self.std is None else [Fraction(float(s)) for s in self.std]
        columns = zip(*self.encoder, strict=True)
        return [
            sum((row * Fraction(float(u)) for row, u in zip(rows, column, strict=True)), Fraction(0)) / s
            for column, s in zip(columns, scale, strict=True)
        ]


def encoded(
    encoder: np.ndarray, weight: np.ndarray, bias: np.ndarray, mean: np.ndarray | None = None, std: np.ndarray | None = None
) -> Model:
    """That classifier; the encoder's tensor is called `z`."""
    front, weights = normalisation(mean, std) if mean is not None and std is not None else ([], {})
    nodes = [
        *front,
        node("Gemm", f"{'normal' if front else 'x'} encoder nothing", "z", transB=1),
        node("Gemm", "z weight bias", "logits", transB=1),
    ]
    weights |= {"encoder": encoder, "nothing": np.zeros(len(encoder), np.float32), "weight": weight, "bias": bias}
    return Model.from_onnx(model_bytes(nodes, weights, input_shape=("batch", encoder.shape[1])))


def orthogonal(size: int, seed: int = 0) -> np.ndarray:
    """An orthogonal matrix, rounded to float32."""
    matrix: np.ndarray = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0].astype(np.float32)
    return matrix
