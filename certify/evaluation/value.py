"""The value of a network at one input in float64, with a bound of its rounding error that follows the computation step by step.

Every operator hands on its computed value and how far each number of it can be from real arithmetic: what its inputs' errors become on
the way through it, and what it rounds itself, from the magnitudes that were really computed. With each value goes one number besides,
the l2 distance of all of it: over many layers it grows with their Lipschitz constants, not with the magnitudes of their weights.

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
        constants: for the outputs of some operators an l2 Lipschitz constant: the output moves by at most that times the sum of what
            the inputs move by. Without them errors grow with the magnitudes of weights, which is far too much for many layers.
    """
    value = exact(x).unsqueeze(0)
    values, last, reason = {graph.input: Point(value, torch.zeros_like(value), 0.0)}, graph.last_uses(), ""
    for position, operator in enumerate(graph.operators):
        inputs = tuple(values[name] for name in operator.inputs)
        weights = {name: as_tensor(weight, torch.float64).to(x.device) for name, weight in operator.weights.items()}
        made = operator.evaluate(weights, *(one.value for one in inputs))
        point = Point(made, torch.full_like(made, math.inf), math.inf)
        if not reason:
            try:
                point = _step(operator, weights, made, inputs, constants.get(operator.output, math.inf))
            except Unknown as unknown:
                reason = f"{operator.name} {unknown}"
        values[operator.output] = point
        for name in {name for name in operator.inputs if last[name] == position and name != graph.output}:
            del values[name]
    found = values[graph.output]
    return Measured(found.value[0], found.error[0], found.apart, reason)


def _step(
    operator: Operator,
    weights: Mapping[str, Tensor],
    made: Tensor,  # (1, *shape of the output), as computed
    inputs: tuple[Point, ...],
    constant: float,
) -> Point:
    """
    Raises:
        Unknown: nothing is known of the error of this operator, or of these values.
    """
    in_range(made.abs())
    carried, own = rule(operator, weights, made, *inputs)
    in_range(carried, own)
    moved = sum(point.apart for point in inputs)
    along = min(_norm(carried), constant * moved * UP if moved else 0.0)
    apart = (along + _norm(own)) * UP
    return Point(made, ((carried + own) * UP).clamp(max=apart), apart)


def _norm(value: Tensor) -> float:  # value: (1, *shape)
    """At least the l2 norm; what vanishes in the squares is below SMALL."""
    return (float(torch.linalg.vector_norm(value)) + SMALL) * UP if bool(value.any()) else 0.0
