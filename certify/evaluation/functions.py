"""Rules for elementwise functions: the steepest slope carries the error; what the formula rounds is small beside what it handles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.evaluation.float64 import LIBRARY, SMALL, UNIT, Unknown, gamma
from certify.evaluation.rules import Bounds, Point, Weights, rule
from certify.graph.operators.activation import Activation, Clip, Gelu, LeakyRelu, Parametric, PRelu
from certify.lipschitz.constant import NoConstant

# Functions that only compare, or change a sign.
_EXACT = frozenset({"Abs", "Neg", "Relu"})


def formula(
    x: Tensor,  # (1, *shape), as computed
    made: Tensor,  # (1, *shape)
    factor: float = 1.0,
) -> Tensor:
    """What rounding does to a formula of at most two library functions and a few products, whose values stay below 1 + |x| + |made|.

    The inner function is off by `LIBRARY` units of itself and so is the outer one; each slope in between, times what it acts on, is
    below 2. `factor` is the product of 1 + |parameter|.
    """
    return 8 * LIBRARY * UNIT * factor * (1 + x.abs() + made.abs()) + SMALL


@rule.register(Activation)
@rule.register(Gelu)
@rule.register(Parametric)
def _(operator: Activation | Gelu | Parametric, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    try:
        slope = 1.0 if operator.parts() else operator.lipschitz()
    except NoConstant:
        raise Unknown(f"({operator.type}) has no rounding rule") from None
    factor = math.prod(1 + abs(parameter) for parameter in getattr(operator, "parameters", ()))
    own = torch.zeros_like(made) if operator.type in _EXACT else formula(x[0].value, made, factor)
    return slope * x[0].error, own


@rule.register
def _(operator: Clip, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    return x[0].error, torch.zeros_like(made)


@rule.register
def _(operator: LeakyRelu, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    return max(1.0, abs(operator.slope)) * x[0].error, gamma(2) * made.abs() + SMALL


@rule.register
def _(operator: PRelu, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    return weights["slope"].abs().clamp(min=1.0) * x[0].error, gamma(2) * made.abs() + SMALL
