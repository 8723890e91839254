"""What every attack is: it looks for an input with another answer within a radius. What it returns was evaluated again, alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from certify.attacks.geometry import distance_upper
from certify.norms import Norm

# (points, *input) to (points, classes): differentiable, in float64, each point on its own.
Classify = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Counterexample:
    """An input with another answer, checked by a fresh forward pass, and its distance, rounded up."""

    x: Tensor  # (*input), float64
    distance_upper: float


class Attack(Protocol):
    """Looks for an input within `radius` that is not answered `label`; null when none was found, which proves nothing.

    With `value_range` only inputs inside it are tried. `steps` gradient steps from each of `restarts` points, which are moved together:
    the first is x, the last `start` where it is given, the others are random. `targets` are answers that seem near, nearest first.
    """

    def __call__(
        self,
        classify: Classify,
        x: Tensor,  # (*input), raw input units
        label: int,
        *,
        norm: Norm,
        radius: float,
        generator: torch.Generator,
        steps: int = ...,
        restarts: int = ...,
        value_range: tuple[float, float] | None = ...,
        start: Tensor | None = ...,  # (*input)
        targets: Sequence[int] = ...,
    ) -> Counterexample | None: ...


def wrong(
    logits: Tensor,  # (points, classes)
    label: int,
) -> Tensor:
    """Which points get another answer, (points,); NaN and infinity are no answer."""
    return (logits.argmax(dim=1) != label) & logits.isfinite().all(dim=1)


def checked(
    classify: Classify,
    x: Tensor,  # (*input)
    tried: Tensor,  # (*input), float64
    label: int,
    norm: Norm,
) -> Counterexample | None:
    """`tried` as a counterexample, if it is one when it is evaluated alone."""
    with torch.no_grad():
        if not bool(wrong(classify(tried.unsqueeze(0)), label)[0]):
            return None
    return Counterexample(tried, distance_upper(tried, x, norm))


def starts(
    x: Tensor,  # (*input)
    random: Tensor,  # (points, *input), float64, differences from x
    start: Tensor | None,  # (*input)
) -> Tensor:
    """Where the points begin, as differences from x: at x, at random, and the last one, where `start` is given, there."""
    random[0] = 0.0
    if start is not None:
        random[-1] = start.double() - x.double()
    return random
