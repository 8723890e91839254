"""Where noise is added: at the raw input, or at a tensor inside the network. All that sampling needs to know of the difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from certify.evaluation.value import measured
from certify.model import Model
from certify.rounding import step_down, step_up


@dataclass(frozen=True)
class Point:
    """What the noise is added to: at most `error` in l2 from what the example is there in real arithmetic.

    The error is infinite, with a `reason`, where nothing is known.
    """

    value: Tensor  # (*shape of the place), float32
    error: float = 0.0
    reason: str = ""


class Place(Protocol):
    """A tensor of the network that every path from the input to the logits goes through."""

    @property
    def network(self) -> Model:
        """What is behind it, as a model of its own; its input is this tensor."""

    @property
    def lipschitz(self) -> float:
        """At least the l2 Lipschitz constant of what is before it."""

    def point(self, x: Tensor) -> Point:  # x: (*input), float32, raw input units
        """What an example is there."""


@dataclass(frozen=True)
class AtInput:
    """Noise on the raw input: nothing is before it."""

    network: Model
    lipschitz: float = 1.0

    def point(self, x: Tensor) -> Point:  # x: (*input), float32
        return Point(x)


@dataclass(frozen=True)
class AtTensor:
    """Noise on a tensor inside. What is before it, the encoder, is evaluated once for each example, in float64.

    Raises:
        InputError: the tensor is not a cut.
        NoConstant: the encoder has no known Lipschitz constant.
    """

    model: Model
    split: str

    @property
    def network(self) -> Model:
        return self.model.behind(self.split)

    @property
    def lipschitz(self) -> float:
        return self.model.lipschitz.at(self.split)

    def point(self, x: Tensor) -> Point:  # x: (*input), float32
        found = measured(self.model.before(self.split), x, self.model.constants)
        value = found.value.to(torch.float32)
        if not bool(value.isfinite().all()):
            return Point(value, math.inf, f"is NaN or infinite at {self.split!r}")
        # A norm of so many differences is off by less than a part in a million.
        rounding = float(torch.linalg.vector_norm(found.value - value.to(torch.float64))) * (1 + 1e-6)
        return Point(value, step_up(found.error + rounding), found.reason)


def place_of(model: Model, split: str | None) -> Place:
    """The place of that tensor; of the input for null."""
    return AtInput(model) if split is None else AtTensor(model, split)


def carried(radius: float, lipschitz: float, error: float) -> float:
    """An l2 radius at the raw input that follows from one around a point; rounded down, 0 when nothing is left.

    Votes prove that the answer is constant within `radius` of the point that the noise was added to, hence within radius - error of the
    exact value of the example there, and inputs nearer than (radius - error) / lipschitz have a value nearer to that than this.

    Args:
        radius: l2 radius around the point, in the units of its place.
        lipschitz: of the place.
        error: of the point.
    """
    if lipschitz == 1.0 and error == 0.0:
        return radius
    return max(0.0, step_down(step_down(radius - error) / lipschitz))
