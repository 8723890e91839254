"""The nearest counterexample that an attack finds: its radius is bisected, and every find is drawn towards the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from certify.attacks.apgd import apgd
from certify.attacks.base import Attack, Classify, Counterexample, checked, wrong
from certify.attacks.losses import nearest_rivals
from certify.norms import Norm

_GRID, _ZOOMS = 16, 4
_TARGETS = 9


def _go_on() -> None:
    return None


def minimal_distance(
    classify: Classify,
    x: Tensor,  # (*input), raw input units
    label: int,
    *,
    norm: Norm,
    max_radius: float,
    generator: torch.Generator,
    attack: Attack = apgd,
    steps: int = 50,
    restarts: int = 5,
    value_range: tuple[float, float] | None = None,
    rounds: int = 12,
    tolerance: float = 0.005,
    poll: Callable[[], None] = _go_on,
) -> Counterexample | None:
    """The nearest counterexample that a bisection over the attack's radius finds, or null when there is none up to `max_radius`.

    Args:
        classify: (points, *input) to (points, classes); differentiable, float64.
        label: the answer it must not have.
        norm: of the distance.
        max_radius: the largest radius tried.
        generator: of random starts.
        attack: looks for one within a given radius.
        steps: gradient steps of each start.
        restarts: starts, moved together.
        value_range: only inputs inside it are tried; null for all.
        rounds: attacks at most.
        tolerance: the bisection ends at this share of the distance.
        poll: called before every attack; what it raises ends the search.
    """
    low, best = 0.0, None
    targets = nearest_rivals(classify, x, label, norm, _TARGETS)
    for _ in range(rounds):
        poll()
        radius, start = (max_radius, None) if best is None else ((low + best.distance_upper) / 2, best.x)
        found = attack(
            classify, x, label, norm=norm, radius=radius, generator=generator, steps=steps, restarts=restarts,
            value_range=value_range, start=start,
            targets=targets,
        )  # fmt: skip
        if found is not None:
            best = drawn_in(classify, x, found, label, norm)
        elif best is None:
            return None
        else:
            low = radius
        if best.distance_upper - low <= tolerance * best.distance_upper:
            break
    return best


def drawn_in(
    classify: Classify,
    x: Tensor,  # (*input)
    found: Counterexample,
    label: int,
    norm: Norm,
) -> Counterexample:
    """A counterexample on the way from x to `found`, as near as a few looks show."""
    low, high = 0.0, 1.0
    for _ in range(_ZOOMS):
        shares = torch.linspace(low, high, _GRID + 1, dtype=torch.float64, device=x.device)[1:]
        with torch.no_grad():
            places = wrong(classify(_between(x, found.x, shares)), label).nonzero()
        if not len(places):  # rounding alone moved the boundary
            break
        first = int(places[0])
        low, high = float(shares[first - 1]) if first else low, float(shares[first])
    nearer = checked(classify, x, _between(x, found.x, x.new_tensor([high], dtype=torch.float64))[0], label, norm)
    return nearer if nearer is not None and nearer.distance_upper < found.distance_upper else found


def _between(
    x: Tensor,  # (*input)
    end: Tensor,  # (*input), float64
    shares: Tensor,  # (points,), float64
) -> Tensor:
    """Points on the way from x to `end`: (points, *input). None leaves a box that both are in."""
    here = x.double()
    way = (end - here).unsqueeze(0) * shares.reshape(-1, *(1,) * x.dim())
    low, high = torch.minimum(here, end), torch.maximum(here, end)
    return (here + way).clamp(low, high)
