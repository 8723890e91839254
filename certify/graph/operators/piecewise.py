"""Piecewise linear functions for bound propagation, made only of what has been shown sound for: ReLUs, sums, constant factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from certify.graph.operators.base import Array, Node, Operator, Weights

# Up to here an end is put in as high - relu(high - x), which keeps intervals tight; in float64 it costs at most 1e-13 of precision.
NEAR = 1024.0


@dataclass(frozen=True, kw_only=True)
class _Rewritten(Operator):
    """The form of an operator that stands in the file under another name."""

    @classmethod
    def read(cls, node: Node) -> Operator:
        raise node.reject("is not an ONNX operator")

    @classmethod
    def of(cls, operator: Operator, weights: Weights) -> Self:
        return cls(
            type=cls.__name__,
            name=operator.name,
            inputs=operator.inputs,
            output=operator.output,
            layout=operator.layout,
            sources=operator.sources,
            weights={name: operator.spread(value) for name, value in weights.items()},
        )

    @property
    def unbounded(self) -> str:
        return ""


def bend(operator: Operator, low: float, high: float, line: tuple[float, float] | None = None) -> Operator:
    """min(max(x, low), high) of the operator's input; of scale * x + shift when `line` gives these."""
    weights = {f"{'' if abs(end) <= NEAR else 'far_'}{name}": end for name, end in (("low", low), ("high", high)) if math.isfinite(end)}
    if line is not None:
        weights["scale"], weights["shift"] = line
    return Bend.of(operator, {name: np.full(1, value, np.float64) for name, value in weights.items()})


def two_sided(operator: Operator, back: Array) -> Operator:
    """relu(x) + back * relu(-x) of the operator's input."""
    return TwoSided.of(operator, {"minus": np.full(1, -1.0), "back": np.asarray(back, np.float64)})


@dataclass(frozen=True, kw_only=True)
class TwoSided(_Rewritten):
    """relu(x) + back * relu(-x): absolute values, and leaky ReLUs of any slope."""

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return torch.relu(x[0]) + torch.relu(x[0] * weights["minus"]) * weights["back"]


@dataclass(frozen=True, kw_only=True)
class ScaleShift(_Rewritten):
    """x * scale + shift with constants: what a normalisation in eval mode is."""

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return x[0] * weights["scale"] + weights["shift"]


@dataclass(frozen=True, kw_only=True)
class Mixture(_Rewritten):
    """The sum of the inputs, each times a constant of its own, plus a constant."""

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape) each
        total = x[0] * weights["0"]
        for i, value in enumerate(x[1:], start=1):
            total = total + value * weights[str(i)]
        return total + weights["constant"]


@dataclass(frozen=True, kw_only=True)
class Extreme(_Rewritten):
    """The largest of the inputs and `constant`, or the smallest: a + relu(b - a), or a - relu(a - b), one after another."""

    largest: bool = True

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape) each
        value = x[0]
        for other in x[1:]:
            value = value + torch.relu(other - value) if self.largest else value - torch.relu(value - other)
        if "near" in weights:
            near = weights["near"]
            value = torch.relu(value - near) + near if self.largest else near - torch.relu(near - value)
        if "far" in weights:
            far = weights["far"]
            value = value + torch.relu(far - value) if self.largest else value - torch.relu(value - far)
        return value


@dataclass(frozen=True, kw_only=True)
class Bend(_Rewritten):
    """x from `low` on and `low` below; then x up to `high` and `high` above. An end left out is infinite.

    Near ends go in as low + relu(x - low), exact for intervals; far ones as x + relu(low - x), which keeps the precision of x.
    """

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        value = x[0]
        if "scale" in weights:
            value = value * weights["scale"] + weights["shift"]
        if "low" in weights:
            value = torch.relu(value - weights["low"]) + weights["low"]
        if "far_low" in weights:
            value = value + torch.relu(weights["far_low"] - value)
        if "high" in weights:
            value = weights["high"] - torch.relu(weights["high"] - value)
        if "far_high" in weights:
            value = value - torch.relu(value - weights["far_high"])
        return value
