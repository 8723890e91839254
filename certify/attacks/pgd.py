"""Projected gradient descent: the plain attack."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.attacks.base import Classify, Counterexample, checked, starts, wrong
from certify.attacks.geometry import direction, inside, project, random_points
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
) -> Counterexample | None:
    """An input within `radius` that is not answered `label`, or null when none was found (which proves nothing).

    Args: as in `Attack`.

    Source: Madry et al. 2018, with normalised steps for l2 and sparse ones for l1 (Tramer & Boneh 2019).
    """
    centre = x.double().unsqueeze(0).expand(restarts, *x.shape)
    delta = project(starts(x, random_points(tuple(centre.shape), norm, radius, generator, x.device), start), norm, radius)
    for step in range(steps):
        delta.requires_grad_(True)
        logits = classify(inside(centre + delta, value_range))
        rivals = logits.clone()
        rivals[:, label] = -math.inf
        (gradient,) = torch.autograd.grad((rivals.max(dim=1).values - logits[:, label]).sum(), delta)
        size = 2.5 * radius / steps * (1.0 - step / steps) + radius / 100
        delta = project(delta.detach() + size * direction(gradient, norm), norm, radius)
        tried = inside(centre + delta, value_range)
        with torch.no_grad():
            found = wrong(classify(tried), label).nonzero()
        if len(found):
            return checked(classify, x, tried[int(found[0])].detach(), label, norm)
    return None
