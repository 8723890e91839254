"""Radii again, from the votes that a certificate keeps: another alpha, bound or error rate, without model and without sampling."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from certify.certificate import Certificate, InstanceEvidence, LatentEvidence, SelectorEvidence, SmoothingEvidence
from certify.consistency import check_row
from certify.errors import InputError, SpecError, problems_of
from certify.instance_smoothing import undecided
from certify.rounding import radius_down, step_down
from certify.sampling.estimation import most_of_rivals, most_votes
from certify.sampling.noise import NOISES
from certify.sampling.noise.base import Noise
from certify.smoothing import radius_from, too_few
from certify.spec import Alpha
from certify.statement import Base
from certify.statistics.sequential import Bound, Limits, Look, limits
from certify.verdict import Verdict

ErrorRate = Literal["per-example", "family-wise"]
# What another version or library may differ by in a number that it derived; far below any wrong dimension, level or slack.
_NEAR = 1e-6
_OF_SELECTOR = ("pA_lower", "pB_upper", "selector_radius", "classifier_radius")


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
        InputError: statement or radius do not follow from the evidence.
    """
    check_alpha(alpha)
    check_row(certificate)
    evidence = certificate.evidence
    if not recomputable(certificate) or not isinstance(evidence, SmoothingEvidence) or certificate.alpha is None:
        return certificate
    check_evidence(certificate, evidence, certificate.alpha)
    members = _members(evidence, error_rate, family)
    level = _level(certificate.alpha, evidence.family, members, alpha)
    bound = bound or evidence.bound
    found = _limits(evidence, level, bound)
    new: dict[str, Any] = {"bound": bound, "pA_lower": found.pA_lower, "pB_upper": found.pB_upper, "family": members, "exploratory": True}
    again = _derived(evidence, level, bound, found, new)
    origin = (
        f"Recomputed from the stored votes at alpha = {level:g} ({bound}); before, it was alpha = {certificate.alpha:g} ({evidence.bound})."
        " Exploratory: chosen after the votes were there."
    )
    return _answered(certificate, again, level, found, origin)


def recomputable(certificate: Certificate) -> bool:
    """Whether it holds votes from which a radius follows."""
    if certificate.statement.base is Base.MEMORY:
        return False  # the ledger decided, not the votes alone
    return isinstance(certificate.evidence, SmoothingEvidence) and certificate.verdict in (Verdict.CERTIFIED, Verdict.ABSTAINED)


def proved_again(certificate: Certificate) -> Certificate:
    """The row that its own votes make at its own alpha and bound: itself, unless somebody has changed it.

    Radius, limits, verdict and answer are derived anew, by the same steps and with the same rounding as when it was made. A row without
    votes for a radius is given back as it is.

    Raises:
        InputError: statement or evidence are not those of one run.
    """
    check_row(certificate)
    evidence = certificate.evidence
    if not recomputable(certificate) or not isinstance(evidence, SmoothingEvidence) or certificate.alpha is None:
        return certificate
    check_votes(certificate, evidence)
    found = _limits(evidence, certificate.alpha, evidence.bound)
    again = _derived(evidence, certificate.alpha, evidence.bound, found, {"pA_lower": found.pA_lower, "pB_upper": found.pB_upper})
    return Certificate.model_validate({**dict(certificate), **_claimed(certificate, again, found)})


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


def _limits(evidence: SmoothingEvidence, level: float, bound: Bound) -> Limits:
    """Of votes that were never asked for, nothing is known."""
    return limits(_looks(evidence), level, bound, evidence.slack) if evidence.looks else Limits(0.0, 1.0)


def _radius(evidence: SmoothingEvidence, found: Limits) -> float:
    """In the noise's own norm, where the noise was added."""
    return _noise(evidence.noise, evidence.sigma).radius(found.pA_lower, found.pB_upper)


def _derived(evidence: SmoothingEvidence, level: float, bound: Bound, found: Limits, new: dict[str, Any]) -> SmoothingEvidence:
    """The evidence with what is new, and with the radii that it keeps on the way to the one that is claimed."""
    if isinstance(evidence, LatentEvidence):
        new["latent_radius"] = _radius(evidence, found)
    if isinstance(evidence, InstanceEvidence) and evidence.selector is not None:
        members = new.get("family", evidence.family)
        new["selector"] = _selected(evidence.selector, level, bound, members, _radius(evidence, found))
    return evidence.model_copy(update=new)


def _selected(selector: SelectorEvidence, level: float, bound: Bound, members: int, classifier_radius: float) -> SelectorEvidence:
    """The selector's part at the same level as the classifier's: only the smaller radius is claimed, so that alpha is not split."""
    found = _limits(selector, level, bound)
    return selector.model_copy(
        update={
            "bound": bound,
            "pA_lower": found.pA_lower,
            "pB_upper": found.pB_upper,
            "family": members,
            "selector_radius": _radius(selector, found),
            "classifier_radius": classifier_radius,
        }
    )


def check_evidence(certificate: Certificate, evidence: SmoothingEvidence, alpha: float) -> None:
    """Evidence that does not give the stored radius at the stored alpha is not its evidence: a lost dimension makes radii too large.

    Raises:
        InputError: it is not.
    """
    selector = check_votes(certificate, evidence)
    found = _limits(evidence, alpha, evidence.bound)
    radius = radius_from(evidence, _noise(evidence.noise, evidence.sigma), certificate.norm, found)
    pairs = [(found.pA_lower, evidence.pA_lower), (found.pB_upper, evidence.pB_upper), (radius, certificate.radius)]
    if selector is not None:
        again = _selected(selector, alpha, evidence.bound, evidence.family, _radius(evidence, found))
        pairs += [(getattr(again, name), getattr(selector, name)) for name in _OF_SELECTOR]
    if not all(math.isclose(*pair, rel_tol=_NEAR, abs_tol=_NEAR) for pair in pairs):
        raise InputError.at("evidence", "the stored radius does not follow from the stored votes", "use the line as it was written")
    if certificate.radius > 0 and certificate.prediction != _top(evidence):
        detail = f"is {certificate.prediction}, and the votes are for {_top(evidence)}"
        raise InputError.at("prediction", detail, "use the line as it was written")


def check_votes(certificate: Certificate, evidence: SmoothingEvidence) -> SelectorEvidence | None:
    """The selector's votes, if there are any.

    Raises:
        InputError: looks and counts are not those of one run.
    """
    selector = _selector_of(certificate, evidence)
    if not (_one_run(evidence) or (selector is not None and _not_asked(evidence))):
        raise InputError.at("evidence", "its looks and counts are not those of one run", "use the line as it was written")
    return selector


def _selector_of(certificate: Certificate, evidence: SmoothingEvidence) -> SelectorEvidence | None:
    """The selector's votes. Without them a dual radius would be the classifier's alone, which nobody proved."""
    selector = evidence.selector if isinstance(evidence, InstanceEvidence) else None
    dual = certificate.statement.base is Base.DUAL
    fits = selector is not None and (
        _one_run(selector)
        and selector.index == _top(selector) < len(selector.sigmas) == len(selector.counts)
        and selector.sigmas[selector.index] == evidence.sigma
        and (selector.bound, selector.family, selector.dimension) == (evidence.bound, evidence.family, evidence.dimension)
    )
    if dual != (selector is not None) or (dual and not fits):
        raise InputError.at("evidence", "its selector is not that of this certificate", "use the line as it was written")
    return selector


def _not_asked(evidence: SmoothingEvidence) -> bool:
    """No sample was drawn of it: the selector had proved nothing."""
    kept = (evidence.looks, evidence.shares, evidence.look_counts, evidence.counts_selection, evidence.counts)
    return not any(kept) and evidence.n == 0 and evidence.n0 == 0 and evidence.family >= 1 and evidence.dimension >= 1


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


def _why(evidence: SmoothingEvidence, level: float, found: Limits) -> str:
    """Why no radius follows."""
    selector = evidence.selector if isinstance(evidence, InstanceEvidence) else None
    if selector is not None and selector.selector_radius == 0.0:
        return undecided(selector, level)
    if not evidence.looks:
        return "The selector had proved no noise level when the run was made, and the classifier was not asked."
    return too_few(f"Class {_top(evidence)}", _looks(evidence)[-1], found, evidence.bound, level)


def _answered(before: Certificate, evidence: SmoothingEvidence, level: float, found: Limits, origin: str) -> Certificate:
    """What the certifier would have said with these limits, labelled; `origin` ends the reason."""
    new = _claimed(before, evidence, found)
    certified = new["verdict"] is Verdict.CERTIFIED
    new |= {
        "statement": replace(before.statement, exploratory=True),
        "reason": f"{Verdict.CERTIFIED.sentence if certified else _why(evidence, level, found)} {origin}",
        "alpha": level,
    }
    return Certificate.model_validate({**dict(before), **new})


def _claimed(before: Certificate, evidence: SmoothingEvidence, found: Limits) -> dict[str, Any]:
    """What the certifier claims with these limits."""
    radius = radius_from(evidence, _noise(evidence.noise, evidence.sigma), before.norm, found)
    prediction = _top(evidence) if radius > 0.0 else None
    return {
        "prediction": prediction,
        "correct": prediction == before.label,
        "verdict": Verdict.CERTIFIED if radius > 0.0 else Verdict.ABSTAINED,
        "radius": radius_down(radius),
        "evidence": evidence,
    }
