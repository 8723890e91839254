"""The l2 Lipschitz constants of single operators, which carry rounding errors over many layers."""

from __future__ import annotations

from dataclasses import replace

from certify.graph.graph import Graph
from certify.graph.operators import Operator
from certify.lipschitz.bound import Bounds, NoConstant

BUDGET = 2e10  # floating-point operations for one operator
# With several inputs they move, in l2, by no more than the sum of what the inputs move by.
_JOINING = frozenset({"Add", "Concat", "Max", "Mean", "Min", "Sub", "Sum", "Where"})


def own_constants(graph: Graph, budget: float = BUDGET) -> dict[str, float]:
    """For the outputs of operators, by name: they move by at most so many times the sum of what the inputs move by, in l2.

    An operator for which none is known is left out.
    """
    found = {}
    for operator in graph.operators:
        constant = _constant(graph, operator, budget)
        if constant is not None:
            found[operator.output] = constant
    return found


def _constant(graph: Graph, operator: Operator, budget: float) -> float | None:
    if len(operator.inputs) > 1:
        widens = any(shape != operator.shape for shape in operator.sources) and operator.type != "Concat"
        return 1.0 if operator.type in _JOINING and not widens else None
    alone = replace(
        graph,
        input=operator.inputs[0],
        input_shape=operator.sources[0],
        output=operator.output,
        operators=(operator,),
        shapes={operator.inputs[0]: operator.sources[0], operator.output: operator.shape},
    )
    try:
        return Bounds.of(alone, budget).at(operator.output)
    except NoConstant:
        return None
