"""Which layers of a model cost radius: its Lipschitz constants, as the inspection found them, for the report page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from certify.facts import LayerFact, ModelFacts
from certify.rounding import show_upper
from certify.spec import LatentSmoothingSpec, Spec

_LONGEST = 80


@dataclass(frozen=True)
class Row:
    """One operator; the bar goes from `start` to `start + width`, in percent, on a scale of logarithms. `noisy`: noise is added here."""

    name: str
    kind: str
    how: str
    constant: str
    total: str
    start: float
    width: float
    shrinks: bool
    noisy: bool


@dataclass(frozen=True)
class Breakdown:
    """The operators that change distances, and how many others leave them as they are or are one with another."""

    rows: tuple[Row, ...]
    quiet: int
    left_out: int
    axis: float  # where on the bars' scale a factor of 1 is, in percent


def breakdown(spec: Spec, facts: ModelFacts | None) -> Breakdown | None:
    """Null for a job without a certifier that rests on these constants, and for models inspected before there were any."""
    splits = {certifier.split for certifier in spec.certifiers if isinstance(certifier, LatentSmoothingSpec)}
    whole = any(certifier.kind == "lipschitz" for certifier in spec.certifiers)
    if facts is None or not facts.layers or not (splits or whole):
        return None
    layers = facts.layers
    if not whole:
        last = max((i for i, layer in enumerate(layers) if layer.tensor in splits), default=len(layers) - 1)
        layers = layers[: last + 1]
    telling = [layer for layer in layers if layer.tensor in splits or layer.reason or abs(_height(layer)) > 1e-6]
    heights = [_height(layer) for layer in telling]
    low, high = min([0.0, *heights]), max([0.0, *heights])
    scale = 100.0 / (high - low) if high > low else 0.0
    rows = [_row(layer, low, scale, layer.tensor in splits) for layer in telling[:_LONGEST]]
    return Breakdown(tuple(rows), len(layers) - len(telling), len(telling) - len(rows), -low * scale)


def _height(layer: LayerFact) -> float:
    """The logarithm of its factor."""
    return math.log(layer.constant) if layer.constant else 0.0


def _row(layer: LayerFact, low: float, scale: float, noisy: bool) -> Row:
    height = _height(layer)
    return Row(
        name=layer.name,
        kind=layer.type,
        how=layer.reason or layer.how,
        constant="none" if layer.constant is None else show_upper(layer.constant, 4),
        total="" if layer.total is None else show_upper(layer.total, 4),
        start=round((min(0.0, height) - low) * scale, 2),
        width=round(abs(height) * scale, 2),
        shrinks=height < 0,
        noisy=noisy,
    )
