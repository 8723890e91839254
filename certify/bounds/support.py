"""Which bounds a model can get, and why not."""

from __future__ import annotations

from certify.bounds.ladder import LADDERS
from certify.facts import Support
from certify.graph.graph import Graph
from certify.norms import Norm

NORMS = (Norm.LINF, Norm.L2, Norm.L1)


def support(graph: Graph) -> tuple[Support, ...]:
    """One row for each method and norm; an unsupported one names the first operator that stands in the way."""
    reason = next(
        (f"{operator.name}: bound propagation does not support {operator.refused}" for operator in graph.operators if operator.refused),
        "",
    )
    return tuple(
        Support(kind="bounds", method=method, norm=norm, supported=not reason, reason=reason) for method in LADDERS for norm in NORMS
    )
