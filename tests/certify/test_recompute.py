"""Recomputed radii are those of the stored looks, at the new level and with their shares; they are labelled, once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from certify import Examples, certify
from certify.certificate import BoundsEvidence, Certificate, PredictionEvidence, Provenance, SmoothingEvidence, Versions
from certify.errors import InputError, SpecError
from certify.following import following
from certify.norms import Norm
from certify.recompute import recompute
from certify.rounding import step_down
from certify.spec import parse_spec
from certify.statistics.sequential import Look, limits
from certify.verdict import Verdict
from tests.support.linear import LinearTruth
from tests.support.runs import run_for

PROVENANCE = Provenance(
    model="0" * 64, dataset="1" * 64, spec="2" * 64, noise_key="public-seed", seed=0, device="cpu", dtype="float32", batch_size=256,
    versions=Versions(assay="0", torch="0", numpy="0"),
)  # fmt: skip
LOOKS: dict[str, Any] = {
    "looks": (64, 500, 4000), "shares": (0.25, 0.25, 0.5), "look_counts": ((45, 12), (350, 100), (2800, 800)),
    "counts": (200, 2800, 800, 200), "counts_selection": (5, 70, 20, 5), "n": 4000, "n0": 100,
}  # fmt: skip
# Between 1/2 and what one-sided limits need: only the rival's own limit can prove something.
PLURAL: dict[str, Any] = {"look_counts": ((30, 10), (240, 90), (1900, 700)), "counts": (700, 1900, 700, 700)}


def direct(evidence: SmoothingEvidence, alpha: float, norm: Norm) -> tuple[float, float, float]:
    """pA, pB and the radius by SciPy's distributions alone."""
    halved = alpha / 2 if evidence.bound == "top-two" else alpha
    looks = list(zip(evidence.looks, evidence.look_counts, evidence.shares, strict=True))
    pA = max(stats.beta.ppf(halved * share, top, n - top + 1) for n, (top, _), share in looks) - evidence.slack
    pB = 1 - pA
    if evidence.bound == "top-two":
        pB = min(pB, min(stats.beta.isf(halved * share, rival + 1, n - rival) for n, (_, rival), share in looks) + evidence.slack)
    if evidence.noise == "uniform":
        half_width = math.sqrt(3) * evidence.sigma
        own, order = min(half_width, float(np.float32(half_width))) * (pA - pB), 1.0
    else:
        own, order = evidence.sigma / 2 * (stats.norm.ppf(pA) - stats.norm.ppf(pB)), 2.0
    wanted = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}[norm]
    return pA, pB, max(0.0, own) / evidence.dimension ** max(0.0, 1 / order - 1 / wanted)


def stored(*, alpha: float = 1e-4, norm: Norm = Norm.L2, **changes: Any) -> Certificate:
    """A certificate as a run would have stored it, made without the product's statistics."""
    evidence = SmoothingEvidence(**{"sigma": 0.5, "dimension": 48, "family": 10, **LOOKS, "pA_lower": 0, "pB_upper": 1, **changes})
    pA, pB, radius = direct(evidence, alpha, norm)
    evidence = evidence.model_copy(update={"pA_lower": pA, "pB_upper": pB})
    proved = radius > 0
    statement = following("smoothing", evidence, norm, Verdict.CERTIFIED)
    return Certificate(
        example=7, certifier=0, kind="smoothing", statement=statement, label=1, prediction=1 if proved else None, correct=proved,
        verdict=Verdict.CERTIFIED if proved else Verdict.ABSTAINED, reason="A reason.", norm=norm, radius=radius,
        epsilon_verified=None, alpha=alpha, evidence=evidence, provenance=PROVENANCE, seconds=0.5,
    )  # fmt: skip


def without_votes(**changes: Any) -> Certificate:
    values = {"statement": "real-arithmetic", "kind": "bounds", "alpha": None, "norm": Norm.LINF, "certifier": 1, "radius": 0.25}
    evidence = BoundsEvidence(method="crown", margin_lower=0.1, tau=1e-9, dtype="float64")
    return Certificate.model_validate({**dict(stored()), **values, "evidence": evidence, **changes})


ENTRIES = {
    "fixed": {"sampling": "fixed"},
    "adaptive": {"n": 20_000},
    "asked radii": {"radii": [0.1, 0.2]},
    "top-two": {"bound": "top-two"},
    "per example": {"error_rate": "per-example"},
    "linf": {"norm": "linf"},
    "uniform": {"noise": "uniform"},
    "uniform, linf": {"noise": "uniform", "norm": "linf"},
    "grid": {"noise": "discrete-gaussian"},
    "float32 sigma": {"sigma": 0.7},
}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_same_parameters_give_the_same_radii_and_evidence(name: str) -> None:
    spec = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": 0.25, "n": 4000, "alpha": 0.001, **ENTRIES[name]}]})
    truth = LinearTruth.random(6, 4, seed=7)
    examples, model = truth.examples(8, seed=1), truth.model()
    examples = Examples(examples.rows, (examples.x * 255).round() / 255, examples.y)
    asked = {"alpha": 0.001, "bound": spec.certifiers[0].bound, "error_rate": spec.certifiers[0].error_rate, "family": 8}
    for before in certify(model, examples, spec, run_for(spec, model, len(examples))):
        for after in (recompute(before), recompute(before, alpha=0.001), recompute(before, **asked)):
            chosen = before.evidence.model_copy(update={"exploratory": True})
            new = {"statement": replace(before.statement, exploratory=True), "reason": after.reason, "evidence": chosen}
            assert after == before.model_copy(update=new)
            assert "Recomputed from the stored votes" in after.reason


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF, Norm.L1])
@pytest.mark.parametrize("bound", ["one-sided", "top-two"])
@pytest.mark.parametrize("evidence", [{}, PLURAL, {"noise": "discrete-gaussian", "slack": 0.01}, {"noise": "uniform"}], ids=str)
def test_it_agrees_with_a_direct_computation(evidence: dict[str, Any], bound: Any, norm: Norm) -> None:
    for alpha in (1e-8, 1e-3, 0.05, 0.4):
        after = recompute(stored(norm=norm, **evidence), alpha=alpha, bound=bound)
        pA, pB, radius = direct(after.evidence, alpha / 10, norm)
        assert after.evidence.bound == bound
        assert (after.evidence.pA_lower, after.evidence.pB_upper) == pytest.approx((pA, pB), abs=1e-9)
        assert after.radius == pytest.approx(radius, abs=1e-9)
        assert after.alpha == pytest.approx(alpha / 10, rel=1e-15)
        assert (after.verdict is Verdict.CERTIFIED) == (radius > 0)


def test_looks_are_paid_for_and_never_taken_for_one_fixed_look() -> None:
    for bound in ("one-sided", "top-two"):
        after = recompute(stored(), alpha=0.01, bound=bound)
        naive = limits([Look(4000, 2800, 800, 1.0)], after.alpha, bound)
        assert after.evidence.pA_lower < naive.pA_lower - 1e-4
        assert after.evidence.pB_upper > naive.pB_upper + 1e-4


def test_looks_of_a_real_run_are_paid_for() -> None:
    spec = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": 0.25, "n": 20_000}]})
    truth = LinearTruth.random(6, 4, seed=7)
    examples, model = truth.examples(8, seed=1), truth.model()
    several = 0
    for before in certify(model, examples, spec, run_for(spec, model, len(examples))):
        after = recompute(before, alpha=0.05, error_rate="per-example")
        naive = limits([Look(after.evidence.n, *after.evidence.look_counts[-1], 1.0)], after.alpha, "one-sided")
        assert after.evidence.pA_lower <= naive.pA_lower
        several += after.evidence.pA_lower < naive.pA_lower and len(after.evidence.looks) > 1
    assert several >= 4


@pytest.mark.parametrize("bound", ["one-sided", "top-two"])
def test_a_larger_alpha_never_gives_a_smaller_radius(bound: Any) -> None:
    found = [recompute(stored(**PLURAL), alpha=alpha, bound=bound).radius for alpha in (1e-10, 1e-6, 1e-3, 0.1, 0.49)]
    assert found == sorted(found)
    assert bound == "one-sided" or found[0] < found[-1]


def test_top_two_proves_where_one_sided_abstains_and_back() -> None:
    before = stored(**PLURAL)
    assert (before.verdict, before.prediction, before.correct) == (Verdict.ABSTAINED, None, False)
    there = recompute(before, bound="top-two")
    assert (there.verdict, there.prediction, there.correct) == (Verdict.CERTIFIED, 1, True)
    assert there.radius > 0.15
    assert there.reason.startswith("The answer provably stays the same inside the radius. Recomputed from the stored votes")
    assert "alpha = 0.0001 (top-two); before, it was alpha = 0.0001 (one-sided)" in there.reason
    back = recompute(there, bound="one-sided")
    assert (back.verdict, back.prediction, back.correct, back.radius) == (Verdict.ABSTAINED, None, False, 0.0)
    assert back.reason.startswith("Class 1 won 0.4750 of 4000 votes, which proves only pA >= ")
    assert back.evidence.pA_lower == pytest.approx(before.evidence.pA_lower, abs=1e-12)


def test_a_stricter_alpha_may_abstain() -> None:
    few = {"looks": (40,), "shares": (1.0,), "look_counts": ((32, 8),), "counts": (0, 32, 8), "counts_selection": (1, 9, 0), "n": 40}
    before = stored(alpha=0.01, family=1, **few)
    assert before.verdict is Verdict.CERTIFIED
    assert recompute(before, alpha=1e-10).verdict is Verdict.ABSTAINED


def test_the_class_is_that_of_the_selection_sample() -> None:
    swapped = tuple((rival, top) for top, rival in LOOKS["look_counts"])
    after = recompute(stored(look_counts=swapped, counts=(2800, 800, 200, 200)), alpha=0.4, bound="top-two")
    assert (after.verdict, after.prediction, after.radius) == (Verdict.ABSTAINED, None, 0.0)
    assert after.reason.startswith("Class 1 won 0.2000 of 4000 votes")


def test_family_wise_and_per_example() -> None:
    shared = stored(alpha=step_down(0.01 / 10))
    each = recompute(shared, error_rate="per-example")
    assert 0.01 * (1 - 1e-14) <= each.alpha <= 0.01
    assert (each.evidence.family, shared.evidence.family) == (1, 10)
    assert each.radius > shared.radius
    again = recompute(each, error_rate="family-wise", family=10)
    assert again.alpha <= shared.alpha
    assert again.alpha == pytest.approx(shared.alpha, rel=1e-14)
    assert again.evidence.family == 10
    assert again.radius == pytest.approx(shared.radius, abs=1e-9)
    assert recompute(shared, error_rate="family-wise", family=3).alpha == shared.alpha  # those that shared it are known
    assert 20 * recompute(each, alpha=0.02, error_rate="family-wise", family=20).alpha <= 0.02
    assert recompute(each, alpha=0.02).alpha <= 0.02
    with pytest.raises(SpecError, match="family: alpha was not shared"):
        recompute(each, error_rate="family-wise")


def test_the_label_is_appended_once_and_nothing_else_of_the_origin_changes() -> None:
    before = stored()
    after = recompute(recompute(before, alpha=0.01), bound="top-two")
    assert str(after.statement) == "S0-fixed-exploratory"
    kept = ("looks", "shares", "look_counts", "counts", "counts_selection", "n", "n0", "slack", "dimension", "noise", "sigma")
    assert all(getattr(after.evidence, name) == getattr(before.evidence, name) for name in kept)
    kept = ("example", "certifier", "kind", "label", "norm", "provenance", "seconds", "epsilon_verified")
    assert all(getattr(after, name) == getattr(before, name) for name in kept)
    assert Certificate.model_validate_json(after.line()) == after


def test_what_has_no_votes_for_a_radius_stays_as_it_is() -> None:
    votes = PredictionEvidence(sigma=0.5, n=100, counts=(10, 90), p_value=1e-5)
    broken = {"prediction": None, "correct": False, "radius": 0.0, "verdict": Verdict.ERROR}
    for before in (
        without_votes(),
        without_votes(kind="predict", evidence=votes, statement="S0-prediction", alpha=0.001, radius=0.0),
        Certificate.model_validate({**dict(stored()), **broken, "evidence": None}),
        Certificate.model_validate({**dict(stored()), **broken}),
    ):
        assert recompute(before, alpha=0.4, bound="top-two", error_rate="family-wise", family=2) is before


@pytest.mark.parametrize("alpha", [0.5, 1.0, 0.0, -0.1, 1e-11, math.nan, math.inf])
def test_an_impossible_alpha_is_refused(alpha: float) -> None:
    for certificate in (stored(), without_votes()):
        with pytest.raises(SpecError, match="alpha: input should be"):
            recompute(certificate, alpha=alpha)


@pytest.mark.parametrize(
    ("lost", "norm"),
    [
        ({"dimension": 1}, Norm.LINF),
        ({"slack": 0.0}, Norm.L2),
        ({"shares": (1.0, 1.0, 1.0)}, Norm.L2),
        ({"shares": (0.01, 0.01, 0.01)}, Norm.L2),
        ({"looks": (64, 4000)}, Norm.L2),
        ({"looks": (500, 64, 4000)}, Norm.L2),
        ({"looks": (), "shares": (), "look_counts": ()}, Norm.L2),
        ({"counts": (0, 3200, 600, 200)}, Norm.L2),
        ({"counts_selection": (70, 5, 20, 5)}, Norm.L2),
        ({"counts_selection": ()}, Norm.L2),
        ({"look_counts": ((45, 12), (450, 100), (2800, 800))}, Norm.L2),
        ({"family": 0}, Norm.L2),
        ({"sigma": 1.0}, Norm.L2),
    ],
)
def test_evidence_of_something_else_is_refused(lost: dict[str, Any], norm: Norm) -> None:
    whole = stored(norm=norm, noise="discrete-gaussian", slack=0.01)
    recompute(whole, alpha=0.01)
    assert isinstance(whole.evidence, SmoothingEvidence)
    with pytest.raises(InputError, match="use the line as it was written"):
        recompute(whole.model_copy(update={"evidence": whole.evidence.model_copy(update=lost)}), alpha=0.01)
