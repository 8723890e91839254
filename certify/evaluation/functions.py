"""Rules for elementwise functions: the steepest slope carries the error; what the formula rounds is small beside what it handles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.evaluation.float64 import LIBRARY, SMALL, UNIT, Unknown, gamma
from certify.evaluation.rules import Bounds, Point, Weights, rule
from certify.graph.operators.activation import Activation, Clip, Gelu, LeakyRelu, Parametric, PRelu

# Functions that only compare, or change a sign.
_EXACT = frozenset({"Abs", "Neg", "Relu"})

# The steepest slopes, rounded up; of those with parameters in the standard's order.
_SLOPES = {
    "Abs": 1.0,
    "Asinh": 1.0,
    "Atan": 1.0,
    "Cos": 1.0,
    "Erf": 1.1284,
    "HardSwish": 1.5,
    "Mish": 1.089,
    "Neg": 1.0,
    "Not": 1.0,
    "Relu": 1.0,
    "Sigmoid": 0.25,
    "Sin": 1.0,
    "Softsign": 1.0,
    "Tanh": 1.0,
}


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


@rule.register
def _(operator: Activation, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    if operator.type not in _SLOPES:
        raise Unknown(f"({operator.type}) has no rounding rule")
    own = torch.zeros_like(made) if operator.type in _EXACT else formula(x[0].value, made)
    return _SLOPES[operator.type] * x[0].error, own


@rule.register
def _(operator: Gelu, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    return 1.1291 * x[0].error, formula(x[0].value, made)


@rule.register
def _(operator: Parametric, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    factor = math.prod(1 + abs(parameter) for parameter in operator.parameters)
    return _slope(operator.type, *operator.parameters) * x[0].error, formula(x[0].value, made, factor)


def _slope(kind: str, *parameters: float) -> float:
    match kind, parameters:
        case "Celu", (alpha,) if alpha > 0:
            return 1.0
        case "Elu", (alpha,):
            return max(1.0, abs(alpha))
        case "HardSigmoid", (alpha, _):
            return abs(alpha)
        case "Selu", (alpha, gain):
            return abs(gain) * max(1.0, abs(alpha)) * (1 + 4 * UNIT)
        case "Softplus", ():
            return 1.0
        case "Swish", _:
            return 1.0999
    raise Unknown(f"({kind}) has no rounding rule")


@rule.register
def _(operator: Clip, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    return x[0].error, torch.zeros_like(made)


@rule.register
def _(operator: LeakyRelu, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    return max(1.0, abs(operator.slope)) * x[0].error, gamma(2) * made.abs() + SMALL


@rule.register
def _(operator: PRelu, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    return weights["slope"].abs().clamp(min=1.0) * x[0].error, gamma(2) * made.abs() + SMALL
