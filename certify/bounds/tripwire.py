"""A few inputs of a ball before its radius leaves the house: any margin below the proved one shows that the proof is wrong.

It proves nothing. It catches gross faults of an engine at the price of a few forward passes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.attacks.base import Classify
from certify.attacks.geometry import direction, inside, project, random_points, sparsities
from certify.errors import NumericalError, Problem
from certify.norms import Norm

_SAMPLES, _STEPS = 16, 10
# Points stay this much inside, so that their own rounding does not carry them out of the ball.
_INSIDE = 1.0 - 1e-12
# What float64 may do to a margin in a forward pass, as a share of the largest logit (at least 1): far more than it does.
_ROUNDING = 1e-10


def smallest_margin(
    classify: Classify,
    x: Tensor,  # (*input), raw input units
    label: int,
    *,
    norm: Norm,
    radius: float,
    value_range: tuple[float, float] | None = None,
) -> float:
    """The smallest logit[label] - logit[rival] that some inputs of the closed ball show in float64, rounding allowed for.

    Random points and corners from a fixed seed, and a short descent from x; always the same for the same input.

    Args:
        classify: (points, *input) to (points, classes); differentiable, float64.
        label: the answer that was proved.
        norm: the ball's.
        radius: the ball's, raw-input units.
        value_range: cuts the ball; null for all of it.

    Raises:
        NumericalError: an input of the ball gets a NaN or infinite logit.
    """
    reach = radius * _INSIDE
    centre = x.double().unsqueeze(0)
    points = _points(tuple(x.shape), norm, reach).to(x.device)
    with torch.no_grad():
        smallest = float(_margins(classify(inside(centre + points, value_range)), label).min())
    delta, kept = torch.zeros_like(centre), sparsities(centre)
    for step in range(_STEPS):
        tried = inside(centre + delta, value_range).requires_grad_(True)
        margin = _margins(classify(tried), label)
        (gradient,) = torch.autograd.grad(margin.sum(), tried)
        smallest = min(smallest, float(margin.detach()))
        delta = project(delta - 2 * reach / (1 + step) * direction(gradient, norm, kept), norm, reach)
    with torch.no_grad():
        return min(smallest, float(_margins(classify(inside(centre + delta, value_range)), label)))


def _points(shape: tuple[int, ...], norm: Norm, radius: float) -> Tensor:
    """Differences from x: half of them corners where the ball has some, half of them anywhere."""
    generator = torch.Generator().manual_seed(0)
    points = random_points((_SAMPLES, *shape), norm, radius, generator, torch.device("cpu"))
    half, elements = points[: _SAMPLES // 2].flatten(1), math.prod(shape)
    if norm is Norm.LINF:
        half = half.sign() * radius
    if norm is Norm.L1:
        places = torch.randint(elements, (len(half), 1), generator=generator)
        half = torch.zeros_like(half).scatter(1, places, radius * half.gather(1, places).sign())
    return torch.cat([half.reshape(-1, *shape), points[_SAMPLES // 2 :]])


def _margins(
    logits: Tensor,  # (points, classes)
    label: int,
) -> Tensor:
    """Of the best rival each, (points,), with room for rounding."""
    if not bool(logits.isfinite().all()):
        raise NumericalError(Problem(field="model", detail="an input in the ball gets a NaN or infinite logit", mend="check the weights"))
    rivals = logits.clone()
    rivals[:, label] = -math.inf
    room = _ROUNDING * logits.detach().abs().max().clamp(min=1.0)
    return logits[:, label] - rivals.max(dim=1).values + room
