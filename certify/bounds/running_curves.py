"""Rules for rounding errors at tanh and sigmoid: the lines that were used are measured against the curve, whoever made them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from certify.bounds.running_terms import EXTRA, UNIT, Around, Unknown, gamma
from certify.bounds.s_shaped import CURVES, Curve
from certify.evaluation.float64 import LIBRARY

_WHOLE = {"Tanh": 0.0, "Sigmoid": 1.0}  # f(-x) = whole - f(x)


def excess(
    curve: Curve,
    slope: Tensor,  # (1, *shape), or (rows, 1, *shape)
    height: Tensor,  # (1, *shape), or (rows, 1, *shape)
    low: Tensor,  # (1, *shape)
    high: Tensor,  # (1, *shape)
) -> Tensor:
    """At least the largest f(x) - (slope x + height) on [low, high], and never below zero; shaped as `slope`.

    Below zero the curve is convex, so that the ends decide; above zero it is concave and lies below each of its tangents.
    """

    def apart(x: Tensor) -> Tensor:  # x: (*any)
        return curve.function(x) - (slope * x + height)

    start, end = low.clamp(min=0), high.clamp(min=0)
    share = (slope / curve.steepest).clamp(1e-300, 1.0)
    # The tangent with the slope of the line; any other would do as well.
    place = torch.minimum(torch.maximum(curve.stretch * torch.acosh(share.rsqrt()), start), end)
    steep = curve.steepest / torch.cosh(place / curve.stretch) ** 2
    rise = steep - slope
    above = apart(place) + torch.maximum(rise * (start - place), rise * (end - place))
    worst = torch.maximum(apart(low), torch.where(high > 0, above, apart(high)))
    size = 1 + height.abs() + slope.abs() * torch.maximum(low.abs(), high.abs()) + (steep + slope.abs()) * (end - start)
    return worst.clamp(min=0) + 4 * LIBRARY * UNIT * size


def curve_mass(node: Any, around: Around) -> Tensor:
    """No value is above 1; (1, *shape)."""
    return torch.ones_like(around.reach(0))


def curve_charge(
    node: Any,
    around: Around,
    mass: Tensor,  # (1, *shape)
    side: int,
) -> Tensor:
    """How far the lines that the node has just used are violated, and what multiplying with them costs."""
    (low, high), kind = around.known_interval(), type(node).__name__.removeprefix("Bound")
    lines = [line.detach() for line in (node.lw, node.lb, node.uw, node.ub)]
    if lines[0].dim() == low.dim() + 2:
        lines = [line[side] for line in lines]  # one line for each row, and others for upper bounds
    if any(line.shape[-low.dim() :] != low.shape for line in lines):
        raise Unknown(f"lines of shape {tuple(lines[0].shape)}")
    slope_below, below, slope_above, above = lines
    over = excess(CURVES[kind], slope_above, above, low, high)
    under = excess(CURVES[kind], slope_below, _WHOLE[kind] - below, -high, -low)
    slope, height = torch.maximum(slope_below.abs(), slope_above.abs()), torch.maximum(below.abs(), above.abs())
    # The height is summed up with A like a constant.
    summed = gamma(low.numel() + around.sums + EXTRA) * height
    return torch.maximum(over, under) + gamma(EXTRA) * slope * around.reach(0) + summed
