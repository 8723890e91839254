"""Projected gradient descent: the plain attack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from certify.attacks.base import Classify, Counterexample, checked, starts, wrong
from certify.attacks.geometry import direction, inside, project, random_points, sparsities
from certify.attacks.losses import Losses
from certify.norms import Norm


def pgd(
    classify: Classify,
    x: Tensor,  # (*input), raw input units
    label: int,
    *,
    norm: Norm,
    radius: float,
    generator: torch.Generator,
    steps: int = 40,
    restarts: int = 5,
    value_range: tuple[float, float] | None = None,
    start: Tensor | None = None,  # (*input)
    targets: Sequence[int] = (),
) -> Counterexample | None:
    """An input within `radius` that is not answered `label`, or null when none was found (which proves nothing).

    Steps of fixed, falling length. The restarts climb different losses (`Losses`).

    Args: as in `Attack`.

    Source: Madry et al. 2018, with normalised steps for l2 and sparse ones for l1 (Tramer & Boneh 2019).
    """
    centre = x.double().unsqueeze(0).expand(restarts, *x.shape)
    delta = project(starts(x, random_points(tuple(centre.shape), norm, radius, generator, x.device), start), norm, radius)
    losses, kept = Losses(classify, label, restarts, targets), sparsities(delta)
    for step in range(steps + 1):
        tried = inside(centre + delta, value_range)
        logits, _, gradient = losses(tried)
        for place in wrong(logits, label).nonzero().flatten().tolist():
            if (found := checked(classify, x, tried[place], label, norm)) is not None:
                return found
        size = 2.5 * radius / steps * (1.0 - step / steps) + radius / 100
        delta = project(delta + size * direction(gradient, norm, kept), norm, radius)
    return None
