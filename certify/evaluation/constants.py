"""The l2 Lipschitz constants that carry rounding errors over many layers, from one cut of a network to the next."""

from __future__ import annotations

from itertools import pairwise

from certify.graph.graph import Graph
from certify.lipschitz.bound import Bounds, NoConstant

BUDGET = 2e10  # floating-point operations for one part


def part_constants(graph: Graph, budget: float = BUDGET) -> dict[str, float]:
    """For every cut and the output, by name: it moves by at most so many times what the cut before it, or the input, moves by, in l2.

    A part for which none is known is left out. The encoder of any cut has the same constants.
    """
    found = {}
    for start, end in pairwise((graph.input, *graph.cuts(), graph.output)):
        part = graph.until(end) if start == graph.input else graph.after(start).until(end)
        try:
            found[end] = Bounds.of(part, budget).at(end)
        except NoConstant:
            continue
    return found
