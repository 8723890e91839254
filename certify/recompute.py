"""Radii again, from the votes that a certificate keeps: another alpha, bound or error rate, without model and without sampling."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from certify.certificate import Certificate, LatentEvidence, SmoothingEvidence
from certify.errors import InputError, SpecError, problems_of
from certify.rounding import radius_down, step_down
from certify.sampling.estimation import most_of_rivals, most_votes
from certify.sampling.noise import NOISES
from certify.sampling.noise.base import Noise
from certify.smoothing import radius_from, too_few
from certify.spec import Alpha
from certify.statistics.sequential import Bound, Limits, Look, limits
from certify.verdict import Verdict

ErrorRate = Literal["per-example", "family-wise"]
LABEL = "-exploratory"
# What another version or library may differ by in a number that it derived; far below any wrong dimension, level or slack.
_NEAR = 1e-6


def recompute(
    certificate: Certificate,
    *,
    alpha: float | None = None,
    bound: Bound | None = None,
    error_rate: ErrorRate | None = None,
    family: int | None = None,
) -> Certificate:
    """With probability at least 1 - alpha over the noise not wrong, if (alpha, bound, error rate) had been chosen before the votes.

    Whoever chooses them after seeing the votes may choose what suits, and no error level covers that: the statement says
    `-exploratory`. Every look that was taken keeps the share of alpha it had when the run was planned. Counts and provenance stay.

    A certificate without votes for a radius (`bounds`, `predict`, any that ended in an error) has nothing to derive again and is
    given back as it is, without the label.

    Args:
        certificate: as a run wrote it, or as this function did.
        alpha: error level, before it is divided; null keeps it.
        bound: null keeps it.
        error_rate: `family-wise` divides alpha by the number of certificates that share it; null keeps it.
        family: the number of stochastic certificates of the job; needed when `family-wise` is asked of a run that was not.

    Raises:
        SpecError: alpha is outside [1e-10, 0.5), or `family` is needed.
        InputError: the evidence is not that of the certificate.
    """
    check_alpha(alpha)
    evidence = certificate.evidence
    if not recomputable(certificate) or not isinstance(evidence, SmoothingEvidence) or certificate.alpha is None:
        return certificate
    _check(certificate, evidence, certificate.alpha)
    members = _members(evidence, error_rate, family)
    level = _level(certificate.alpha, evidence.family, members, alpha)
    bound = bound or evidence.bound
    found = limits(_looks(evidence), level, bound, evidence.slack)
    new = {"bound": bound, "pA_lower": found.pA_lower, "pB_upper": found.pB_upper, "family": members}
    if isinstance(evidence, LatentEvidence):
        new["latent_radius"] = _noise(evidence.noise, evidence.sigma).radius(found.pA_lower, found.pB_upper)
    origin = (
        f"Recomputed from the stored votes at alpha = {level:g} ({bound}); before, it was alpha = {certificate.alpha:g} ({evidence.bound})."
        " Exploratory: chosen after the votes were there."
    )
    return _answered(certificate, evidence.model_copy(update=new), level, found, origin)


def recomputable(certificate: Certificate) -> bool:
    """Whether it holds votes from which a radius follows."""
    return isinstance(certificate.evidence, SmoothingEvidence) and certificate.verdict in (Verdict.CERTIFIED, Verdict.ABSTAINED)


def check_alpha(alpha: float | None) -> None:
    """
    Raises:
        SpecError: no spec could ask for this alpha.
    """
    try:
        TypeAdapter(Alpha | None).validate_python(alpha)
    except ValidationError as error:
        raise SpecError(*problems_of(error, "alpha")) from None


def _members(evidence: SmoothingEvidence, error_rate: ErrorRate | None, family: int | None) -> int:
    if error_rate == "per-example":
        return 1
    if error_rate is None or evidence.family > 1:
        return evidence.family
    if family is None or family < 1:
        raise SpecError.at("family", "alpha was not shared, so its family is not in the certificate", "say how many share it")
    return family


def _level(alpha: float, before: int, members: int, asked: float | None) -> float:
    """The error level of one certificate: `asked`, or else what was spent in all, over its `members`; rounded down."""
    if asked is None and members == before:
        return alpha
    total = step_down(alpha * before) if asked is None else asked
    return step_down(total / members)


def _looks(evidence: SmoothingEvidence) -> list[Look]:
    return [Look(n, *counts, share) for n, counts, share in zip(evidence.looks, evidence.look_counts, evidence.shares, strict=True)]


def _check(certificate: Certificate, evidence: SmoothingEvidence, alpha: float) -> None:
    """Evidence that does not give the stored radius at the stored alpha is not its evidence: a lost dimension makes radii too large."""
    if not _one_run(evidence):
        raise InputError.at("evidence", "its looks and counts are not those of one run", "use the line as it was written")
    found = limits(_looks(evidence), alpha, evidence.bound, evidence.slack)
    radius = radius_from(evidence, _noise(evidence.noise, evidence.sigma), certificate.norm, found)
    pairs = ((found.pA_lower, evidence.pA_lower), (found.pB_upper, evidence.pB_upper), (radius, certificate.radius))
    if not all(math.isclose(*pair, rel_tol=_NEAR, abs_tol=_NEAR) for pair in pairs):
        raise InputError.at("evidence", "the stored radius does not follow from the stored votes", "use the line as it was written")


def _one_run(evidence: SmoothingEvidence) -> bool:
    looks = evidence.looks
    return (
        0 < len(looks) == len(evidence.shares) == len(evidence.look_counts)
        and looks == tuple(sorted(set(looks)))
        and looks[-1] == evidence.n == sum(evidence.counts)
        and len(evidence.counts) == len(evidence.counts_selection) > 0
        and min(evidence.counts) >= 0
        and all(min(top, rival) >= 0 and top + rival <= n for n, (top, rival) in zip(looks, evidence.look_counts, strict=True))
        and evidence.look_counts[-1] == (evidence.counts[_top(evidence)], most_of_rivals(evidence.counts, _top(evidence)))
        and sum(evidence.shares) <= 1 + 1e-9
        and evidence.family >= 1
        and evidence.dimension >= 1
    )


def _top(evidence: SmoothingEvidence) -> int:
    """The class that the selection sample chose; ties to the lowest."""
    return most_votes(evidence.counts_selection)


@lru_cache(maxsize=16)
def _noise(name: str, sigma: float) -> Noise:
    # Its shape decides only the slack, which is taken from the evidence.
    return NOISES[name](sigma, (1,), "cpu")


def _answered(before: Certificate, evidence: SmoothingEvidence, level: float, found: Limits, origin: str) -> Certificate:
    """What the certifier would have said with these limits, labelled; `origin` ends the reason."""
    radius = radius_from(evidence, _noise(evidence.noise, evidence.sigma), before.norm, found)
    certified, top = radius > 0.0, _top(evidence)
    reason = Verdict.CERTIFIED.sentence if certified else too_few(f"Class {top}", _looks(evidence)[-1], found, evidence.bound, level)
    prediction = top if certified else None
    new = {
        "statement": before.statement.removesuffix(LABEL) + LABEL,
        "prediction": prediction,
        "correct": prediction == before.label,
        "verdict": Verdict.CERTIFIED if certified else Verdict.ABSTAINED,
        "reason": f"{reason} {origin}",
        "radius": radius_down(radius),
        "alpha": level,
        "evidence": evidence,
    }
    return Certificate.model_validate({**dict(before), **new})
