"""What a worker tells about the Lipschitz bounds of a model, as facts."""

from __future__ import annotations

import math

from certify.facts import LayerFact, Support, TensorFact
from certify.graph.graph import Graph
from certify.lipschitz.bound import Bounds, NoConstant
from certify.norms import Norm

# Cuts that the walk over the layers has not answered are questions of their own: each may take seconds in a large network.
_ASKED, _SMALL = 8, 2**28


def support(bounds: Bounds, cuts: tuple[TensorFact, ...]) -> tuple[Support, ...]:
    """Rows of the certifiers that need Lipschitz bounds; an unsupported one names the first operator that has none."""
    first = next((f"{row.name}: {row.reason}" for row in layers(bounds) if row.reason), "")
    try:
        bounds.at(bounds.graph.output)
        reason = ""
    except NoConstant as missing:
        reason = first or str(missing)
    latent = any(cut.lipschitz is not None for cut in cuts)
    none = first or "no tensor between input and logits lies on every path"
    return (
        Support(kind="lipschitz", method=None, norm=Norm.L2, supported=not reason, reason=reason),
        Support(kind="latent-smoothing", method=None, norm=Norm.L2, supported=latent, reason="" if latent else none),
    )


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
    asked = known | set(open_ends if graph.flops() <= _SMALL else open_ends[:_ASKED])
    return tuple(
        TensorFact(name=name, shape=graph.shapes[name], lipschitz=_bound(bounds, name) if name in asked else None) for name in graph.cuts()
    )


def _bound(bounds: Bounds, tensor: str) -> float | None:
    try:
        return bounds.at(tensor)
    except NoConstant:
        return None
