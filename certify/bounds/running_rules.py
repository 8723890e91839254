"""What floating point can do to linear bounds and to intervals at one node of the engine's graph: a rule for each class of node.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.1 and 3.5; the charges are derived in docs/rounding.md.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.bounds.running_curves import curve_charge, curve_mass
from certify.bounds.running_terms import EXTRA, UNIT, Around, Rule, Unknown, gamma

# Of the line above a ReLU, in units of the larger end: its slope and its height are rounded.
_LINE = 16


def rule(node: Any) -> Rule:
    """That of the node's class.

    Raises:
        Unknown: there is none.
    """
    name = type(node).__name__
    if name not in _RULES:
        raise Unknown(f"{name} has no rounding rule")
    return _RULES[name]


def leaf(node: Any) -> Tensor:
    """The value of a constant.

    Raises:
        Unknown: it is computed, and nothing is known of how.
    """
    if type(node).__name__ == "BoundReciprocal":
        # 0.7 makes products of quotients; one rounding more.
        return leaf(node.inputs[0]).reciprocal()
    values = {"BoundParams": "param", "BoundBuffers": "buffer", "BoundConstant": "value"}
    value = getattr(node, values.get(type(node).__name__, ""), None)
    if not isinstance(value, Tensor):
        raise Unknown(f"{type(node).__name__} in place of a constant")
    return value.detach()


def _exact(node: Any) -> int:
    return 0


def _few(node: Any) -> int:
    return EXTRA


def _same_shape(node: Any, around: Around) -> None:
    """Nothing may be broadcast but constants along the batch."""
    for i, value in enumerate(node.inputs):
        shape = around.reach(i).shape
        if shape != node.output_shape and (value.perturbed or shape != node.output_shape[1:]):
            raise Unknown(f"an operand of shape {tuple(shape)} for {tuple(node.output_shape)}")


def _constant_place(node: Any) -> int:
    places = [i for i, value in enumerate(node.inputs) if not value.perturbed]
    if len(places) != 1 or len(node.inputs) != 2:
        raise Unknown("a product that is not one with a constant")
    return places[0]


# Products with a matrix.


def _matrix(node: Any, around: Around) -> Tensor:
    """|W| as (outputs, inputs)."""
    # In 0.7 `alpha` is what is optimised.
    factors = (node.alpha_linear, node.beta_linear) if hasattr(node, "alpha_linear") else (node.alpha, node.beta)
    if node.transA or factors != (1.0, 1.0) or around.reach(1).dim() != 2:
        raise Unknown("a scaled or transposed product")
    return around.reach(1) if node.transB else around.reach(1).T


def _linear_mass(node: Any, around: Around) -> Tensor:
    product = around.reach(0) @ _matrix(node, around).T
    return product + around.reach(2) if len(node.inputs) > 2 else product


def _conv_mass(node: Any, around: Around) -> Tensor:
    bias = around.reach(2) if len(node.inputs) > 2 else None
    return F.conv2d(around.reach(0), around.reach(1), bias, node.stride, node.padding, node.dilation, node.groups)


def _fan_in(node: Any) -> int:
    """Terms of the sum for one output."""
    return int(node.inputs[0].output_shape[-1]) if type(node).__name__ == "BoundLinear" else math.prod(node.inputs[1].output_shape[1:])


def _fan_out(node: Any) -> int:
    """Terms of the sum for one coefficient on the way back."""
    shape = node.inputs[1].output_shape
    return int(node.output_shape[-1]) if type(node).__name__ == "BoundLinear" else shape[0] // node.groups * math.prod(shape[2:])


def _product_charge(
    node: Any,
    around: Around,
    mass: Tensor,  # (1, *shape)
    side: int,
) -> Tensor:
    charge = gamma(_fan_out(node) + EXTRA) * mass
    if len(node.inputs) == 2:
        return charge
    bias = around.reach(2).reshape(-1, *(1,) * (mass.dim() - 2))
    return charge + around.constant(bias.expand(mass.shape[1:]))


# Arithmetic.


def _sum_mass(node: Any, around: Around) -> Tensor:
    _same_shape(node, around)
    return around.reach(0) + around.reach(1)


def _sum_charge(
    node: Any,
    around: Around,
    mass: Tensor,  # (1, *shape)
    side: int,
) -> Tensor | None:
    """Coefficients pass a sum unchanged; only a constant is multiplied with them."""
    constants = [i for i, value in enumerate(node.inputs) if not value.perturbed]
    if len(constants) > 1:
        raise Unknown("a sum of constants")
    return around.constant(around.reach(constants[0])) if constants else None


def _times_mass(node: Any, around: Around) -> Tensor:
    _same_shape(node, around)
    place = _constant_place(node)
    if type(node).__name__ == "BoundMul":
        return around.reach(0) * around.reach(1)
    if place != 1:
        raise Unknown("a constant divided by data")
    return around.reach(0) / around.reach(1)


def _mean_mass(node: Any, around: Around) -> Tensor:
    return around.reach(0).mean((-2, -1), keepdim=True)


def _factor_charge(
    node: Any,
    around: Around,
    mass: Tensor,  # (1, *shape)
    side: int,
) -> Tensor:
    return gamma(EXTRA) * mass


# Relaxed functions.


def _bent_mass(node: Any, around: Around) -> Tensor:
    ends = around.interval()
    if ends is None:
        return around.reach(0)
    up = ends[1].clamp(min=0)
    return torch.maximum(up, _slope(node) * ends[0].neg()) if _slope(node) else up


def _slope(node: Any) -> float:
    slope = float(getattr(node, "leaky_alpha", node.alpha)) if type(node).__name__ == "BoundLeakyRelu" else 0.0
    if not 0.0 <= slope <= 1.0:
        raise Unknown(f"a slope of {slope}")
    return slope


def _bent_charge(
    node: Any,
    around: Around,
    mass: Tensor,  # (1, *shape)
    side: int,
) -> Tensor:
    """The line above a ReLU or leaky ReLU between its ends, rounded; slopes below lie in [slope, 1] and cost one rounding of a product.

    No slope is above 1, and none of a ReLU above 0 where all is below zero.
    """
    slope, (low, high) = _slope(node), around.known_interval()
    # How far below and above zero; the engine keeps the upper end away from the lower one.
    down = low.clamp(max=0).neg()
    up = torch.maximum(high.clamp(min=0), 1e-8 - down)
    # Where it does not bend, coefficients stay as they are, vanish, or are multiplied by the slope.
    both = torch.where((down > 0) & (up > 0), torch.maximum(down, up), slope * down)
    charge = _LINE * UNIT * both + around.constant(down * (up / (up + down)))
    before = around.before()
    if before is None:
        return charge
    return charge + (before if slope else torch.where(up > 0, before, 0.0))


def _pool_mass(node: Any, around: Around) -> Tensor:
    if any(node.padding) or tuple(node.stride) != tuple(node.kernel_size) or node.ceil_mode:
        raise Unknown("max pooling of windows that overlap or are padded")
    return F.max_pool2d(around.reach(0), tuple(node.kernel_size))


def _pool_charge(
    node: Any,
    around: Around,
    mass: Tensor,  # (1, *shape)
    side: int,
) -> Tensor:
    """The one value that is taken below, or the constant above."""
    if node.opt_stage == "opt":
        raise Unknown("max pooling with optimised shares")
    return gamma(EXTRA) * mass + around.constant(mass)


# Movements.


def _reshaped(node: Any, around: Around) -> Tensor:
    return around.reach(0).reshape(node.output_shape)


def _permuted(node: Any, around: Around) -> Tensor:
    return around.reach(0).permute(*node.perm)


_RULES: dict[str, Rule] = {
    "BoundLinear": Rule(_linear_mass, lambda node: _fan_in(node) + EXTRA, _product_charge),
    "BoundConv": Rule(_conv_mass, lambda node: _fan_in(node) + EXTRA, _product_charge),
    "BoundAdd": Rule(_sum_mass, _few, _sum_charge),
    "BoundSub": Rule(_sum_mass, _few, _sum_charge),
    "BoundMul": Rule(_times_mass, _few, _factor_charge),
    "BoundDiv": Rule(_times_mass, _few, _factor_charge),
    "BoundGlobalAveragePool": Rule(_mean_mass, lambda node: math.prod(node.inputs[0].output_shape[-2:]) + EXTRA, _factor_charge),
    "BoundRelu": Rule(_bent_mass, _exact, _bent_charge, bends=True),
    "BoundLeakyRelu": Rule(_bent_mass, _few, _bent_charge, bends=True),
    "BoundTanh": Rule(curve_mass, _few, curve_charge, again=True),
    "BoundSigmoid": Rule(curve_mass, _few, curve_charge, again=True),
    "BoundMaxPool": Rule(_pool_mass, _exact, _pool_charge),
    "BoundReshape": Rule(_reshaped, _exact),
    "BoundFlatten": Rule(_reshaped, _exact),
    "BoundTranspose": Rule(_permuted, _exact),
}
