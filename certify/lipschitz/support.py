"""What a worker tells about the Lipschitz bounds of a model, as facts."""

from __future__ import annotations

import math

from certify.facts import LayerFact, Support, TensorFact
from certify.graph.graph import Graph
from certify.lipschitz.bound import Bounds, NoConstant
from certify.norms import Norm

# Bounds of more cuts than this, where the walk over the layers has not answered them, are not looked for.
_ASKED = 24


def support(bounds: Bounds) -> tuple[Support, ...]:
    """Rows of the certifiers that need Lipschitz bounds; an unsupported one names the operator that has none."""
    try:
        bounds.at(bounds.graph.output)
        reason = ""
    except NoConstant as missing:
        reason = next((f"{row.name}: {row.reason}" for row in layers(bounds) if row.reason), str(missing))
    return (Support(kind="lipschitz", method=None, norm=Norm.L2, supported=not reason, reason=reason),)


def layers(bounds: Bounds) -> tuple[LayerFact, ...]:
    """One row for each operator in order, up to the first that has no constant."""
    return tuple(
        LayerFact(
            name=row.name,
            type=row.type,
            tensor=row.output,
            constant=row.constant if not row.reason and math.isfinite(row.constant) else None,
            total=row.total,
            how=row.how,
            reason=row.reason.removeprefix(f"{row.name}: "),
        )
        for row in bounds.layers
    )


def cuts(bounds: Bounds) -> tuple[TensorFact, ...]:
    """The cuts of the graph with the bound of the encoder that ends there; null where there is none, or too much would have to be asked."""
    graph: Graph = bounds.graph
    known = {row.output for row in bounds.layers if row.total is not None}
    open_ends = [name for name in graph.cuts() if name not in known]
    asked = known | set(open_ends[:_ASKED])
    return tuple(
        TensorFact(name=name, shape=graph.shapes[name], lipschitz=_bound(bounds, name) if name in asked else None) for name in graph.cuts()
    )


def _bound(bounds: Bounds, tensor: str) -> float | None:
    try:
        return bounds.at(tensor)
    except NoConstant:
        return None
