"""Auto-PGD: steps that shrink where they stop helping, with momentum, and a way out of regions where the gradient is zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from certify.attacks.base import Classify, Counterexample, checked, starts, wrong
from certify.attacks.geometry import direction, inside, project, random_points, sparsities
from certify.attacks.losses import Losses
from certify.norms import Norm

_MOMENTUM = 0.75
_RISING = 0.75  # the share of steps that must have gained, or the step is halved


def apgd(
    classify: Classify,
    x: Tensor,  # (*input), raw input units
    label: int,
    *,
    norm: Norm,
    radius: float,
    generator: torch.Generator,
    steps: int = 50,
    restarts: int = 5,
    value_range: tuple[float, float] | None = None,
    start: Tensor | None = None,  # (*input)
    targets: Sequence[int] = (),
) -> Counterexample | None:
    """An input within `radius` that is not answered `label`, or null when none was found (which proves nothing).

    The restarts climb different losses (`Losses`). A point whose gradient is zero, as where all ReLUs are off, follows the gradient that
    it would have with ReLUs slightly open, and is thrown to another place when that is zero too.

    Args: as in `Attack`.

    Source: Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    Algorithm 1; for l1 the steps grow sparser when they are halved, after Croce & Hein 2021, "Mind the box".
    """
    climb = _Climb(classify, x, label, norm, radius, restarts, value_range, generator, start, targets)
    halvings = set(_checkpoints(steps))
    for step in range(steps):
        if (found := climb.found()) is not None:
            return found
        climb.move(first=step == 0)
        if step + 1 in halvings:
            climb.halve()
    return climb.found()


class _Climb:
    """All restarts of one attack: where each is, where it was best, and how far it steps."""

    def __init__(
        self,
        classify: Classify,
        x: Tensor,  # (*input)
        label: int,
        norm: Norm,
        radius: float,
        restarts: int,
        value_range: tuple[float, float] | None,
        generator: torch.Generator,
        start: Tensor | None,  # (*input)
        targets: Sequence[int],
    ) -> None:
        self._classify, self._x, self._label = classify, x, label
        self._norm, self._radius, self._range, self._generator = norm, radius, value_range, generator
        self._centre = x.double().unsqueeze(0).expand(restarts, *x.shape)
        self._losses = Losses(classify, label, restarts, targets)
        self._delta = self._kept_in(starts(x, self._anywhere(), start))
        self._last = self._delta
        ones = self._delta.new_ones(restarts)
        self._size, self._kept = 2.0 * radius * ones, sparsities(self._delta)
        self._gains, self._since = 0 * ones, 0
        self._value, self._gradient, self._wrong = self._look()
        self._best, self._best_value, self._best_gradient = self._delta, self._value, self._gradient
        self._before = self._size, self._best_value

    def found(self) -> Counterexample | None:
        """The nearest of the points that have another answer now."""
        places = self._wrong.nonzero().flatten()
        if not len(places):
            return None
        tried = inside(self._centre + self._delta, self._range)[places]
        found = [checked(self._classify, self._x, one, self._label, self._norm) for one in tried]
        return min((one for one in found if one is not None), key=lambda one: one.distance_upper, default=None)

    def move(self, *, first: bool) -> None:
        """One step of every restart."""
        here, momentum = self._delta, 1.0 if first else _MOMENTUM
        ahead = self._kept_in(here + self._shaped(self._size) * direction(self._gradient, self._norm, self._kept))
        moved = self._kept_in(here + momentum * (ahead - here) + (1.0 - momentum) * (here - self._last))
        flat = self._flat()
        if bool(flat.any()):
            moved = torch.where(self._shaped(flat), self._kept_in(self._anywhere()), moved)
        before = self._value
        self._last, self._delta = here, moved
        self._value, self._gradient, self._wrong = self._look()
        self._gains, self._since = self._gains + (self._value > before), self._since + 1
        better = self._value > self._best_value
        self._best_value = torch.where(better, self._value, self._best_value)
        self._best = torch.where(self._shaped(better), self._delta, self._best)
        self._best_gradient = torch.where(self._shaped(better), self._gradient, self._best_gradient)

    def halve(self) -> None:
        """Restarts that gained too rarely, or nothing since the last check with the same step, go back to their best with half of it."""
        size, value = self._before
        stuck = (size == self._size) & (value == self._best_value)
        shorter = (self._gains < _RISING * self._since) | stuck
        self._before = self._size, self._best_value
        self._size = torch.where(shorter, self._size / 2, self._size)
        self._kept = torch.where(shorter, (self._kept / 2).clamp(min=1), self._kept)
        back = self._shaped(shorter)
        self._delta = torch.where(back, self._best, self._delta)
        self._last = torch.where(back, self._best, self._last)
        self._value = torch.where(shorter, self._best_value, self._value)
        self._gradient = torch.where(back, self._best_gradient, self._gradient)
        self._gains, self._since = 0 * self._gains, 0

    def _look(self) -> tuple[Tensor, Tensor, Tensor]:
        logits, value, gradient = self._losses(inside(self._centre + self._delta, self._range))
        return value, gradient, wrong(logits, self._label)

    def _flat(self) -> Tensor:
        return (self._gradient == 0).flatten(1).all(1)

    def _anywhere(self) -> Tensor:
        return random_points(tuple(self._centre.shape), self._norm, self._radius, self._generator, self._x.device)

    def _kept_in(
        self,
        delta: Tensor,  # (restarts, *input)
    ) -> Tensor:
        """In the ball, and on inputs of the range: what is cut off moves nearer, so that both hold."""
        return inside(self._centre + project(delta, self._norm, self._radius), self._range) - self._centre

    def _shaped(
        self,
        each: Tensor,  # (restarts,)
    ) -> Tensor:
        return each.reshape(-1, *(1,) * (self._delta.dim() - 1))


def _checkpoints(steps: int) -> Iterator[int]:
    """After how many steps the step may be halved: ever more often."""
    last, now = 0.0, 0.22
    while now < 1.0:
        yield math.ceil(now * steps)
        last, now = now, now + max(now - last - 0.03, 0.06)
