"""Balls, steps and distances in the three norms. The first axis counts points that are moved together, each on its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.norms import Norm
from certify.rounding import step_up

ORDER = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}


def distance_upper(
    a: Tensor,  # (*input)
    b: Tensor,  # (*input)
    norm: Norm,
) -> float:
    """A number that is at least the distance of two points, by far less than anyone could see."""
    found = float(torch.linalg.vector_norm((a.double() - b.double()).flatten(), ORDER[norm]))
    # Each difference, square and partial sum errs by at most one part in 2^53, in whatever order they are added.
    return step_up(found * (1.0 + (a.numel() + 8) * 2.0**-52), 2) if found else 0.0


def project(
    delta: Tensor,  # (points, *input), float64
    norm: Norm,
    radius: float,
) -> Tensor:
    """The nearest points of the closed ball around 0."""
    if norm is Norm.LINF:
        return delta.clamp(-radius, radius)
    if norm is Norm.L1:
        return _onto_l1(delta, radius)
    return delta * (radius / length(delta).clamp(min=1e-300)).clamp(max=1.0)


def direction(
    gradient: Tensor,  # (points, *input), float64
    norm: Norm,
    kept: Tensor | None = None,  # (points,), how many entries an l1 step may have; null: the largest tenth
) -> Tensor:
    """Steps of length at most one that climb; zero where the gradient is."""
    if norm is Norm.LINF:
        return gradient.sign()
    if norm is Norm.L2:
        return gradient / length(gradient).clamp(min=1e-300)
    # The steepest l1 step is one coordinate; several find their way better and are projected back.
    flat = gradient.flatten(1).abs()
    if kept is None:
        kept = flat.new_full((len(flat),), flat.shape[1] // 10)
    last = kept.long().clamp(1, flat.shape[1]).unsqueeze(1) - 1
    chosen = ((flat >= flat.sort(dim=1, descending=True).values.gather(1, last)) & (flat > 0)).to(flat.dtype)
    return gradient.sign() * (chosen / chosen.sum(1, keepdim=True).clamp(min=1.0)).reshape(gradient.shape)


def sparsities(
    delta: Tensor,  # (points, *input)
) -> Tensor:
    """How many entries the l1 steps of each point have, (points,): a tenth, a fortieth, ... in turn. No one choice suits all networks."""
    turn = torch.arange(len(delta), dtype=torch.float64, device=delta.device) % 4
    return (delta[0].numel() / 10 / 4**turn).floor().clamp(min=1)


def length(
    delta: Tensor,  # (points, *input), float64
) -> Tensor:
    """Euclidean lengths, (points, 1, ...)."""
    found: Tensor = torch.linalg.vector_norm(delta.flatten(1), 2.0, dim=1)
    return found.reshape(-1, *(1,) * (delta.dim() - 1))


def inside(
    x: Tensor,  # (points, *input), float64
    value_range: tuple[float, float] | None,
) -> Tensor:
    """The nearest points of the value range; all of them where none is given. No entry moves away from a point of the range."""
    return x if value_range is None else x.clamp(*value_range)


def random_points(
    shape: tuple[int, ...],
    norm: Norm,
    radius: float,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Points of the ball around 0, many entries at their ends: (points, *input), float64, the same on every device."""
    return project(torch.randn(shape, generator=generator, dtype=torch.float64) * radius, norm, radius).to(device)


def _onto_l1(
    delta: Tensor,  # (points, *input), float64
    radius: float,
) -> Tensor:
    """All entries brought nearer to 0 by one threshold (Duchi et al. 2008)."""
    flat = delta.flatten(1)
    size = flat.abs().sort(dim=1, descending=True).values
    excess = (size.cumsum(1) - radius) / torch.arange(1, flat.shape[1] + 1, dtype=flat.dtype, device=flat.device)
    last = (size > excess).sum(1, keepdim=True).clamp(min=1) - 1
    threshold = excess.gather(1, last).clamp(min=0.0)
    return (flat.sign() * (flat.abs() - threshold).clamp(min=0.0)).reshape(delta.shape)
