"""What a method of bound propagation will need, estimated before it starts, so that it can be left out instead of killed."""

from __future__ import annotations

import math

from certify.graph.graph import Graph

_BYTES = 8  # float64
# Copies of the coefficient matrices that live at once, seen as peak memory over the size of the largest: 1.3 to 6.5.
_COPIES = 7
# The process itself with torch and the engine loaded.
_BASE = 2**29


def needed(graph: Graph, method: str) -> int:
    """Bytes that a method needs at most on this network, for one example; an engineering estimate, not a bound.

    CROWN walks a matrix back from every operator that it relaxes: its inputs by the elements of the tensors before them. CROWN-IBP does
    so only from the logits, IBP never.
    """
    sizes = {name: math.prod(shape) for name, shape in graph.shapes.items()}
    largest = sizes[graph.input]
    rows = 0 if method == "ibp" else graph.classes
    matrix = 0
    for operator in graph.operators:
        if operator.relaxed and method not in ("ibp", "crown-ibp"):
            matrix = max(matrix, largest * max(sizes[name] for name in operator.inputs))
        largest = max(largest, sizes[operator.output])
    return _BASE + _COPIES * _BYTES * max(matrix, rows * largest, largest)


def affordable(graph: Graph, methods: tuple[str, ...], limit: int) -> tuple[str, ...]:
    """Those of `methods` that fit into `limit` bytes; if none does, the tightest cheaper one that does, and IBP in the last resort."""
    fitting = tuple(method for method in methods if needed(graph, method) <= limit)
    if fitting:
        return fitting
    return ("crown-ibp",) if "ibp" not in methods and needed(graph, "crown-ibp") <= limit else ("ibp",)
