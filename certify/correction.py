"""Certificates of one noise level turned into claims about a level that changes slowly with the input, or refused."""

from __future__ import annotations

import math
from dataclasses import replace

from certify.certificate import Certificate, CorrectedEvidence, SmoothingEvidence
from certify.consistency import check_row
from certify.corrected import admissible_ratios
from certify.errors import SpecError
from certify.norms import Norm
from certify.recompute import check_evidence
from certify.rounding import radius_down, show_radius
from certify.sampling.noise import NOISES
from certify.smoothing import radius_from
from certify.statement import Base
from certify.statistics.sequential import Limits
from certify.verdict import Verdict


def correct(certificate: Certificate, semi_elasticity: float) -> Certificate:
    """The claim about g(x') = argmax_c P(f(x' + N(0, sigma(x')^2 I)) = c), where sigma(x) is the level that the votes were cast under.

    It holds at the certificate's error level if |log sigma(x) - log sigma(x')| <= semi_elasticity * ||x - x'||_2 for all x', which is
    declared and not checked. A level that our own search found has steps, for which no such bound holds: it is refused, with the factors
    by which sigma may change at all. What is not a gaussian l2 certificate of one level is given back as it is.

    Args:
        certificate: as a run wrote it, or from `recompute`.
        semi_elasticity: per unit of l2 distance in raw-input units.

    Raises:
        SpecError: the semi-elasticity is negative, NaN or infinite.
        InputError: statement or radius do not follow from the evidence.
    """
    check_semi_elasticity(semi_elasticity)
    check_row(certificate)
    evidence = certificate.evidence
    if not correctable(certificate) or not isinstance(evidence, SmoothingEvidence) or certificate.alpha is None:
        return certificate
    check_evidence(certificate, evidence, certificate.alpha)
    if certificate.statement.base is Base.FROZEN:
        return _refused(certificate, evidence)
    kept = _under(evidence, semi_elasticity)
    noise = NOISES[kept.noise](kept.sigma, (1,), "cpu")
    radius = radius_from(kept, noise, certificate.norm, Limits(kept.pA_lower, kept.pB_upper))
    certified = radius > 0.0
    reason = (
        f"{Verdict.CERTIFIED.sentence if certified else 'The votes prove too little for a level that changes.'} This takes a sigma(x) that"
        f" is {semi_elasticity:g}-semi-elastic, which was declared and not checked; at a constant sigma the radius was"
        f" {show_radius(certificate.radius)}.{_ratios(evidence)}"
    )
    return _row(certificate, kept, radius, reason)


def correctable(certificate: Certificate) -> bool:
    """Whether it is a gaussian l2 certificate of one level, at the input."""
    evidence = certificate.evidence
    return (
        isinstance(evidence, SmoothingEvidence)
        and evidence.noise == "gaussian"
        and certificate.norm is Norm.L2
        and certificate.statement.base in (Base.FIXED, Base.FROZEN)
        and certificate.verdict in (Verdict.CERTIFIED, Verdict.ABSTAINED)
    )


def check_semi_elasticity(value: float | None) -> None:
    """
    Raises:
        SpecError: it is no bound.
    """
    if value is not None and not (0.0 <= value <= 1e6 and math.isfinite(value)):
        detail = f"must lie between 0 and 1e6 per unit of distance, got {value}"
        raise SpecError.at("semi_elasticity", detail, "give the bound that was proved for sigma(x)")


def _under(evidence: SmoothingEvidence, semi_elasticity: float | None) -> CorrectedEvidence:
    """The same votes under a level that changes so fast at most; null for no bound at all."""
    votes = {name: getattr(evidence, name) for name in SmoothingEvidence.model_fields}
    return CorrectedEvidence(**votes, semi_elasticity=semi_elasticity)


def _refused(certificate: Certificate, evidence: SmoothingEvidence) -> Certificate:
    reason = (
        "Refused: this level was found by a search of its own for each input, and such a sigma(x) has steps, so that no semi-elasticity"
        f" bounds it.{_ratios(evidence)} Ask for the statement dual or memory instead."
    )
    return _row(certificate, _under(evidence, None), 0.0, reason)


def _ratios(evidence: SmoothingEvidence) -> str:
    if evidence.pA_lower <= 0.5:
        return ""
    low, high = admissible_ratios(evidence.pA_lower, evidence.dimension)
    changes = f"sigma may change by factors between {low:.4f} and {high:.4f} at most, however near"
    return f" With these votes in {evidence.dimension} dimensions {changes}."


def _row(before: Certificate, evidence: SmoothingEvidence, radius: float, reason: str) -> Certificate:
    prediction = before.prediction if radius > 0.0 else None
    new = {
        "statement": replace(before.statement, base=Base.CORRECTED),
        "prediction": prediction,
        "correct": prediction == before.label,
        "verdict": Verdict.CERTIFIED if radius > 0.0 else Verdict.ABSTAINED,
        "reason": reason,
        "radius": radius_down(radius),
        "evidence": evidence,
    }
    return Certificate.model_validate({**dict(before), **new})
