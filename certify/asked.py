"""Whether a row was made with the settings that its spec asks for: sigma, looks, bound, precision, range. Without drawing anything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from certify.certificate import (
    BoundsEvidence,
    Certificate,
    CorrectedEvidence,
    InstanceEvidence,
    PredictionEvidence,
    SmoothingEvidence,
    SplittingEvidence,
)
from certify.level_search import ladder
from certify.spec import BoundsSpec, InstanceSmoothingSpec, RadiusSpec
from certify.verdict import Verdict

# What evidence and spec call by one name.
_COMMON = ("noise", "split", "precision", "bound", "sigmas", "levels")


def otherwise(row: Certificate, certifier: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every setting in the evidence of a row that is not the one asked for: its name, what the row says, and what was asked.

    Votes alone do not tell under which sigma they were cast, nor how often they were looked at: a radius follows from whatever the evidence
    says, so that the evidence must say what the spec does.

    Args:
        row: of the certifier.
        certifier: made of the spec, the model and the run.
    """
    evidence = row.evidence
    for name in _COMMON:
        if hasattr(evidence, name) and hasattr(certifier.spec, name):
            yield name, getattr(evidence, name), getattr(certifier.spec, name)
    if isinstance(evidence, BoundsEvidence):
        yield from _bounds(row, evidence, certifier)
    elif isinstance(evidence, PredictionEvidence | SplittingEvidence) and hasattr(certifier.spec, "sigma"):
        yield "sigma", evidence.sigma, certifier.spec.sigma
    elif isinstance(evidence, SmoothingEvidence) and not isinstance(evidence, CorrectedEvidence):
        yield from _votes(evidence, certifier)


def _bounds(row: Certificate, evidence: BoundsEvidence, certifier: Any) -> Iterator[tuple[str, Any, Any]]:
    spec: BoundsSpec = certifier.spec
    yield "clipped", evidence.clipped, certifier.clipped
    yield "value_range", evidence.value_range, certifier.value_range
    certified = row.verdict is Verdict.CERTIFIED
    if spec.epsilon is not None:
        yield "epsilon_verified", row.epsilon_verified, certified
        yield "radius", row.radius, spec.epsilon if certified else 0.0
        return
    yield "epsilon_verified", row.epsilon_verified, None
    yield "radius", row.radius, min(row.radius, spec.max_radius or math.inf)
    yield "at_cap", evidence.at_cap, certified and row.radius == spec.max_radius


def _votes(evidence: SmoothingEvidence, certifier: Any) -> Iterator[tuple[str, Any, Any]]:
    spec: RadiusSpec = certifier.spec
    family = certifier.run.plan.family if spec.error_rate == "family-wise" else 1
    yield "family", evidence.family, family
    yield "dimension", evidence.dimension, certifier.dimension
    yield "radii", evidence.radii, spec.radii if spec.sampling == "adaptive" else None
    yield "looks", evidence.looks, spec.looks[: len(evidence.looks)]
    yield "shares", evidence.shares, spec.shares[: len(evidence.shares)]
    yield "slack", evidence.slack, certifier.noise_of(evidence.sigma).slack
    if evidence.looks:
        yield "n0", evidence.n0, spec.n0
    yield "sigma", evidence.sigma, _level(evidence, spec)


def _level(evidence: SmoothingEvidence, spec: Any) -> float:
    """The noise level that was asked for; where it is chosen for each input, the stored one if it is among those that may be."""
    if not isinstance(spec, InstanceSmoothingSpec):
        return float(spec.sigma)
    if isinstance(evidence, InstanceEvidence) and evidence.selector is not None:
        return evidence.sigma if evidence.sigma in spec.sigmas else math.nan
    tried = ladder(spec.sigmas, spec.search.rounds) if spec.search else ()
    return evidence.sigma if evidence.sigma in tried else math.nan
