"""A small projected gradient attack: finds inputs with another answer, and so upper limits of every true radius."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.norms import Norm
from certify.rounding import step_up


@dataclass(frozen=True)
class Counterexample:
    """An input with another answer, checked by a fresh forward pass, and its distance, rounded up."""

    x: Tensor  # (*input), float64
    distance_upper: float


def pgd(
    classify: Callable[[Tensor], Tensor],
    x: Tensor,  # (*input), raw input units
    label: int,
    *,
    norm: Norm,
    radius: float,
    generator: torch.Generator,
    steps: int = 40,
    restarts: int = 5,
    value_range: tuple[float, float] | None = None,
) -> Counterexample | None:
    """An input within `radius` that is not answered `label`, or null when none was found (which proves nothing).

    `classify` must be differentiable and work in float64. With `value_range` only inputs inside it are tried.

    Source: Madry et al. 2018, with normalised steps for l2 and sparse ones for l1 (Tramer & Boneh 2019).
    """
    centre = x.double().unsqueeze(0).expand(restarts, *x.shape)
    start = torch.randn(centre.shape, generator=generator, dtype=torch.float64)
    delta = _project(start * radius, norm, radius)
    delta[0] = 0.0
    for step in range(steps):
        delta.requires_grad_(True)
        logits = classify(_inside(centre + delta, value_range))
        rivals = logits.clone()
        rivals[:, label] = -math.inf
        (gradient,) = torch.autograd.grad((rivals.max(dim=1).values - logits[:, label]).sum(), delta)
        size = 2.5 * radius / steps * (1.0 - step / steps) + radius / 100
        delta = _project(delta.detach() + size * _direction(gradient, norm), norm, radius)
        tried = _inside(centre + delta, value_range)
        with torch.no_grad():
            wrong = (classify(tried).argmax(dim=1) != label).nonzero()
        if len(wrong):
            return _checked(classify, x, tried[int(wrong[0])].detach(), label, norm)
    return None


def minimal_distance(
    classify: Callable[[Tensor], Tensor],
    x: Tensor,  # (*input), raw input units
    label: int,
    *,
    norm: Norm,
    max_radius: float,
    generator: torch.Generator,
    value_range: tuple[float, float] | None = None,
    rounds: int = 12,
) -> Counterexample | None:
    """The nearest counterexample that a bisection over the attack's radius finds, or null when there is none up to `max_radius`."""
    low, high, best = 0.0, max_radius, None
    for _ in range(rounds):
        radius = high if best is None else (low + high) / 2
        found = pgd(classify, x, label, norm=norm, radius=radius, generator=generator, value_range=value_range)
        if found is None:
            if best is None:
                return None
            low = radius
        else:
            best, high = found, min(found.distance_upper, radius)
    return best


def _checked(
    classify: Callable[[Tensor], Tensor],
    x: Tensor,  # (*input)
    tried: Tensor,  # (*input), float64
    label: int,
    norm: Norm,
) -> Counterexample | None:
    with torch.no_grad():
        if int(classify(tried.unsqueeze(0)).argmax()) == label:
            return None
    order = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}[norm]
    distance = float(torch.linalg.vector_norm((tried - x.double()).flatten(), order))
    return Counterexample(tried, step_up(distance * (1 + 1e-12), 2))


def _project(
    delta: Tensor,  # (restarts, *input), float64
    norm: Norm,
    radius: float,
) -> Tensor:
    if norm is Norm.LINF:
        return delta.clamp(-radius, radius)
    if norm is Norm.L1:
        return _onto_l1(delta, radius)
    length = _length(delta)
    return delta * (radius / length.clamp(min=1e-300)).clamp(max=1.0)


def _onto_l1(
    delta: Tensor,  # (restarts, *input), float64
    radius: float,
) -> Tensor:
    """The nearest point of the l1 ball (Duchi et al. 2008): all entries are brought nearer to 0 by one threshold."""
    flat = delta.flatten(1)
    size = flat.abs().sort(dim=1, descending=True).values
    excess = (size.cumsum(1) - radius) / torch.arange(1, flat.shape[1] + 1, dtype=flat.dtype)
    last = (size > excess).sum(1, keepdim=True).clamp(min=1) - 1
    threshold = excess.gather(1, last).clamp(min=0.0)
    return (flat.sign() * (flat.abs() - threshold).clamp(min=0.0)).reshape(delta.shape)


def _direction(
    gradient: Tensor,  # (restarts, *input), float64
    norm: Norm,
) -> Tensor:
    if norm is Norm.LINF:
        return gradient.sign()
    if norm is Norm.L1:
        # The steepest direction is one coordinate; a step along the largest tenth finds its way better and is projected back.
        flat = gradient.flatten(1).abs()
        kept = ((flat >= flat.topk(max(1, flat.shape[1] // 10), dim=1).values[:, -1:]) & (flat > 0)).to(flat.dtype)
        return gradient.sign() * (kept / kept.sum(1, keepdim=True).clamp(min=1.0)).reshape(gradient.shape)
    return gradient / _length(gradient).clamp(min=1e-300)


def _length(
    delta: Tensor,  # (restarts, *input), float64
) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), 2.0, dim=1)
    return length.reshape(-1, *(1,) * (delta.dim() - 1))


def _inside(
    x: Tensor,  # (restarts, *input), float64
    value_range: tuple[float, float] | None,
) -> Tensor:
    return x if value_range is None else x.clamp(*value_range)
