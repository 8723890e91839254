"""The value of a network at one input in float64, with a bound of its rounding error that follows the computation step by step.

Every operator hands on its computed value and how far each number of it can be from real arithmetic: what its inputs' errors become on
the way through it, and what it rounds itself, from the magnitudes that were really computed. From cut to cut goes one number besides, the
l2 distance of the whole tensor: h~(z) is as far from h(z) as this part rounds, and h(z) from h(x) by at most the part's Lipschitz constant
times what z is from x. Over many layers it grows with their constants, not with the magnitudes of their weights.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.3 (running error analysis), 3.5 (matrix products).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from certify.evaluation import functions  # noqa: F401  its rules are registered here
from certify.evaluation.float64 import SMALL, UP, Unknown, exact, in_range
from certify.evaluation.rules import Point, rule
from certify.graph.graph import Graph
from certify.graph.operators import Operator
from certify.graph.operators.base import as_tensor


@dataclass(frozen=True)
class Measured:
    """A computed value, the largest distance of each of its numbers from real arithmetic, and of the whole of it in l2.

    Infinite, with the operator that stood in the way as `reason`, when nothing is known; `value` is then whatever was computed.
    """

    value: Tensor  # (*shape), float64
    each: Tensor  # (*shape), float64, same unit
    error: float
    reason: str = ""


def value_with_error(
    graph: Graph,
    x: Tensor,  # (*input), float32, raw input units
    constants: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Tensor, float]:
    """z and e with |h(x) - z|_2 <= e: h is the graph in real arithmetic with its weights as they stand in the file, z has its shape.

    e is infinite where an operator has no rule; `measured` says which. Proved, under the assumptions of `certify.evaluation.float64`.
    """
    found = measured(graph, x, constants)
    return found.value, found.error


@torch.no_grad()
def measured(
    graph: Graph,
    x: Tensor,  # (*input), float32, raw input units
    constants: Mapping[str, float] = MappingProxyType({}),
) -> Measured:
    """The value of the graph at x, computed in float64 on the device of x, and its error.

    Args:
        constants: `part_constants` of the graph, or of one that it is the encoder of. Without them errors grow with the magnitudes of
            weights, which is far too much for many layers.
    """
    value = exact(x).unsqueeze(0)
    values, last, reason = {graph.input: _Known.exactly(value)}, graph.last_uses(), ""
    ends, apart = {*graph.cuts(), graph.output}, 0.0
    for position, operator in enumerate(graph.operators):
        inputs = tuple(values[name] for name in operator.inputs)
        weights = {name: as_tensor(weight, torch.float64).to(x.device) for name, weight in operator.weights.items()}
        made = operator.evaluate(weights, *(one.value for one in inputs))
        known = _Known(made, torch.full_like(made, math.inf), torch.full_like(made, math.inf))
        if not reason:
            try:
                known = _step(operator, weights, made, inputs, bool(constants))
            except Unknown as unknown:
                reason = f"{operator.name} {unknown}"
        if operator.output in ends:
            apart = (_along(constants.get(operator.output, math.inf), apart) + _norm(known.local)) * UP
            apart = min(apart, _norm(known.error))
            known = _Known(made, known.error.clamp(max=apart), torch.zeros_like(made))
        values[operator.output] = known
        for name in {name for name in operator.inputs if last[name] == position and name != graph.output}:
            del values[name]
    found = values[graph.output]
    return Measured(found.value[0], found.error[0], apart, reason)


@dataclass(frozen=True)
class _Known:
    """A computed value, its error, and what of it was made since the last cut."""

    value: Tensor  # (1, *shape), float64
    error: Tensor  # (1, *shape), float64
    local: Tensor  # (1, *shape), float64

    @classmethod
    def exactly(cls, value: Tensor) -> _Known:  # value: (1, *shape)
        return cls(value, torch.zeros_like(value), torch.zeros_like(value))


def _step(
    operator: Operator,
    weights: Mapping[str, Tensor],
    made: Tensor,  # (1, *shape of the output), as computed
    inputs: tuple[_Known, ...],
    local: bool,
) -> _Known:
    """
    Raises:
        Unknown: nothing is known of the error of this operator, or of these values.
    """
    if operator.loose.unknown:
        raise Unknown(f"({operator.type}) {operator.loose.unknown}")
    in_range(made.abs())
    carried, own = rule(operator, weights, made, *(Point(one.value, one.error) for one in inputs))
    in_range(carried, own)
    error = (carried + own) * UP
    if not local:
        return _Known(made, error, error)
    carried, own = rule(operator, weights, made, *(Point(one.value, one.local) for one in inputs))
    return _Known(made, error, (carried + own) * UP)


def _along(constant: float, apart: float) -> float:
    """What errors of so much become over a part of the network."""
    return constant * apart * UP if apart else 0.0


def _norm(value: Tensor) -> float:  # value: (1, *shape)
    """At least the l2 norm; what vanishes in the squares is below SMALL."""
    return (float(torch.linalg.vector_norm(value)) + SMALL) * UP if bool(value.any()) else 0.0
