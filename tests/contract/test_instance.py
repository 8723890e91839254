"""Smoothing with a level for each input keeps the laws, says how the level came about, and reads its own evidence."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats

from certify import Examples, Model
from certify.certificate import InstanceEvidence, SelectorEvidence, SmoothingEvidence
from certify.errors import InputError, SpecError
from certify.findings import parse_finding
from certify.level_search import ladder
from certify.norms import Norm
from certify.recompute import recompute
from certify.rounding import radius_down, step_down
from certify.sampling.noise import NOISES
from certify.spec import parse_spec
from certify.statistics.sequential import Limits, Look, limits
from certify.verdict import Verdict
from tests.contract.certifier_laws import CertifierLaws
from tests.contract.test_smoothing import SmoothingLaws
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model
from tests.support.runs import run_for

SIGMAS = [0.1, 0.25, 0.5]
FEATURES = 6


def proved(evidence: SmoothingEvidence, alpha: float) -> tuple[Limits, float]:
    """Limits and l2 radius by the stored looks, from scratch."""
    looks = [Look(n, *counts, share) for n, counts, share in zip(evidence.looks, evidence.look_counts, evidence.shares, strict=True)]
    found = limits(looks, alpha, evidence.bound, evidence.slack)
    return found, NOISES["gaussian"](evidence.sigma, (FEATURES,), "cpu").radius(found.pA_lower, found.pB_upper)


class DualLaws(CertifierLaws):
    """What every selector has to keep."""

    scale: ClassVar[float] = 1.0

    def test_the_radius_is_the_smaller_of_two_that_follow_from_stored_votes(self, truth: LinearTruth) -> None:
        rows = self.run(truth.model(), truth.examples(12, seed=1))
        for row in rows:
            evidence = row.evidence
            assert isinstance(evidence, InstanceEvidence)
            selector = evidence.selector
            assert isinstance(selector, SelectorEvidence)
            assert selector.index == int(np.argmax(selector.counts_selection))
            assert evidence.sigma == SIGMAS[selector.index]
            found, radius = proved(selector, row.alpha)
            assert (found.pA_lower, found.pB_upper, radius) == (selector.pA_lower, selector.pB_upper, selector.selector_radius)
            theirs = proved(evidence, row.alpha)[1] if evidence.looks else 0.0
            assert theirs == selector.classifier_radius
            assert row.radius == radius_down(max(0.0, step_down(min(radius, theirs) / self.scale)))
            assert (row.prediction is None) == (row.radius == 0.0)
            if row.radius > 0.0:
                assert row.prediction == int(np.argmax(evidence.counts_selection))
        assert {str(row.statement).removesuffix("-from-l2") for row in rows} == {"S4-dual"}

    def test_where_the_selector_proves_nothing_the_classifier_is_not_asked(self, truth: LinearTruth) -> None:
        undecided = [row for row in self.run(truth.model(), truth.examples(12, seed=1)) if row.evidence.selector.selector_radius == 0.0]
        for row in undecided:
            assert row.verdict is Verdict.ABSTAINED
            assert (row.evidence.n, row.evidence.n0, row.evidence.counts) == (0, 0, ())
            assert row.evidence.copies == row.evidence.selector.n + row.evidence.selector.n0
            assert row.reason.startswith("The selector agrees on no noise level here. Level ")

    def test_stored_votes_give_the_row_again_at_every_level(self, truth: LinearTruth) -> None:
        for row in self.run(truth.model(), truth.examples(12, seed=1)):
            other: Any = recompute(row, alpha=0.05, bound="top-two")
            again = recompute(other, alpha=0.001, bound="one-sided")
            kept = ("prediction", "radius", "verdict", "correct")
            assert [getattr(again, name) for name in kept] == [getattr(row, name) for name in kept]
            assert again.evidence.model_copy(update={"exploratory": False}) == row.evidence
            assert str(other.statement) == f"{row.statement}-exploratory"
            assert other.radius <= radius_down(other.evidence.selector.selector_radius / self.scale)

    def test_alpha_is_that_of_one_certificate_for_both_parts(self, truth: LinearTruth) -> None:
        shared = self.run(truth.model(), truth.examples(12, seed=1))
        assert all(12 * row.alpha <= 0.001 for row in shared)
        assert {row.evidence.selector.family for row in shared} == {row.evidence.family for row in shared} == {12}


class TestConfidence(DualLaws):
    entry: ClassVar[dict[str, Any]] = {
        "kind": "instance-smoothing",
        "sigmas": SIGMAS,
        "n": 4000,
        "selector": {"sigma": 0.25, "thresholds": [0.6, 0.95]},
    }
    norm = Norm.L2

    def test_a_selector_that_saw_the_examples_is_transductive(self, truth: LinearTruth) -> None:
        def statements(**seen: Any) -> set[str]:
            selector = {**self.entry["selector"], "calibrated_on": {"dataset": "0" * 64, **seen}}
            spec = parse_spec({"certifiers": [{**self.entry, "selector": selector}], "examples": {"start": 100, "stop": 112}})
            return {str(row.statement) for row in self.run(truth.model(), truth.examples(3, seed=1), spec)}

        assert statements() == statements(start=111) == statements(start=1, stop=200, step=11) == {"S4-dual-transductive"}
        assert statements(stop=100) == statements(start=112) == statements(dataset="1" * 64) == {"S4-dual"}
        assert statements(start=0, step=99) == {"S4-dual"}

    def test_the_classifier_stops_where_the_selector_limits_the_claim(self, truth: LinearTruth) -> None:
        # A selector of one answer, whose radius is small: few votes of the classifier reach it.
        narrow = {**self.entry, "sigmas": [0.5], "selector": {"sigma": 0.01, "thresholds": []}, "n": 100_000}
        rows = self.run(truth.model(), truth.examples(12, seed=1), parse_spec({"certifiers": [narrow]}))
        assert all(row.evidence.selector.selector_radius < 0.04 for row in rows)
        assert np.median([row.evidence.n for row in rows]) < 2000
        assert sum(row.radius > 0.02 for row in rows) >= 3

    @pytest.mark.parametrize("change", ["no selector", "another level", "a larger radius", "votes of another run", "a plain row"])
    def test_evidence_that_is_not_its_own_is_refused(self, truth: LinearTruth, change: str) -> None:
        row = next(row for row in self.run(truth.model(), truth.examples(12, seed=1)) if row.evidence.selector.selector_radius > 0)
        evidence, selector = row.evidence, row.evidence.selector
        changed: dict[str, Any] = {
            "no selector": {"evidence": evidence.model_copy(update={"selector": None})},
            "another level": {"evidence": evidence.model_copy(update={"sigma": 2.0})},
            "a larger radius": {"evidence": evidence.model_copy(update={"selector": selector.model_copy(update={"selector_radius": 3.0})})},
            "votes of another run": {
                "evidence": evidence.model_copy(update={"selector": selector.model_copy(update={"alpha": 1, "n": 7})})
            },
            "a plain row": {"evidence": SmoothingEvidence(**{k: getattr(evidence, k) for k in SmoothingEvidence.model_fields})},
        }
        with pytest.raises(InputError, match="evidence"):
            recompute(row.model_copy(update=changed[change]), alpha=0.01)

    def test_both_parts_decide_given_radii(self, truth: LinearTruth) -> None:
        radii = (0.05, 0.2)
        examples = truth.examples(12, seed=1)
        best = self.run(truth.model(), examples, self.spec(sampling="fixed"))
        asked = self.run(truth.model(), examples, self.spec(radii=list(radii)))
        for one, row in zip(best, asked, strict=True):
            assert row.evidence.selector.radii == radii
            for radius in radii:
                if abs(one.radius - radius) > 0.02:
                    assert (row.radius >= radius) == (one.radius >= radius)
        assert sum(row.evidence.copies for row in asked) < sum(row.evidence.copies for row in best)


class TestConverted(DualLaws):
    entry: ClassVar[dict[str, Any]] = {**TestConfidence.entry, "norm": "linf"}
    norm = Norm.LINF
    scale = float(np.nextafter(np.sqrt(FEATURES), np.inf))

    def test_the_conversion_is_part_of_the_statement(self, truth: LinearTruth) -> None:
        assert {str(row.statement) for row in self.run(truth.model(), truth.examples(3, seed=1))} == {"S4-dual-from-l2"}


class TestModelSelector(DualLaws):
    """The selector is linear, so that the true radius of the dual claim is the smaller of two exact distances."""

    chooser = LinearTruth.random(FEATURES, len(SIGMAS), seed=3)
    entry: ClassVar[dict[str, Any]] = {
        "kind": "instance-smoothing",
        "sigmas": SIGMAS,
        "n": 4000,
        "selector": {"kind": "model", "model": chooser.model().digest, "sigma": 0.5},
    }
    norm = Norm.L2

    def run(self, model: Model, examples: Examples, spec: Any = None, **changes: Any) -> list[Any]:
        size = model.input_shape[0]
        decided = linear_model(np.zeros((3, size), dtype=np.float32), np.array([1, 0, 0], dtype=np.float32))
        chooser = self.chooser.model() if size == FEATURES else Model.from_onnx(decided)
        return super().run(model, examples, spec, **{"models": {self.chooser.model().digest: chooser}, **changes})

    def test_the_radius_ends_before_the_selector_answers_otherwise(self, truth: LinearTruth) -> None:
        examples = truth.examples(12, seed=1)
        for row, x in zip(self.run(truth.model(), examples), examples.x.numpy(), strict=True):
            chosen = self.chooser.distance(x, row.evidence.selector.index, Norm.L2)
            assert row.radius == 0.0 or Fraction(row.radius) <= min(chosen, truth.distance(x, row.prediction, Norm.L2))

    def test_a_selector_that_is_not_there_or_does_not_fit_is_refused(self, truth: LinearTruth) -> None:
        examples, digest = truth.examples(2, seed=1), self.chooser.model().digest
        for models, said in (
            ({}, "certifiers.0.selector.model: no network with SHA-256"),
            ({digest: LinearTruth.random(FEATURES, 2, seed=1).model()}, "has 2 logits for 3 sigmas"),
            ({digest: LinearTruth.random(5, 3, seed=1).model()}, r"takes inputs of shape \[5\]"),
        ):
            with pytest.raises(InputError, match=said):
                self.run(truth.model(), examples, models=models)


class TestFrozen(SmoothingLaws):
    entry: ClassVar[dict[str, Any]] = {
        "kind": "instance-smoothing",
        "sigmas": SIGMAS,
        "n": 4000,
        "statement": "frozen",
        "search": {"samples": 100, "rounds": 2},
    }
    norm = Norm.L2

    def test_rows_say_that_the_level_was_held(self, truth: LinearTruth) -> None:
        rows = self.run(truth.model(), truth.examples(12, seed=1))
        assert {str(row.statement) for row in rows} == {"S1-frozen"}
        levels = ladder(SIGMAS, 2)
        assert all(row.evidence.sigma in levels for row in rows)
        assert len({row.evidence.sigma for row in rows}) > 2
        for row in rows:
            tried = row.evidence.search.tried
            assert row.evidence.sigma in {one.sigma for one in tried}
            assert 9 <= len(tried) <= 15
            assert row.evidence.copies == 100 * len(tried) + 100 + row.evidence.n

    def test_the_search_is_better_than_the_worst_start(self, truth: LinearTruth) -> None:
        examples = truth.examples(12, seed=1)
        found = np.mean([row.radius for row in self.run(truth.model(), examples)])
        each = [np.mean([row.radius for row in self.run(truth.model(), examples, self.spec(sigmas=[sigma]))]) for sigma in SIGMAS]
        assert found > 0.9 * max(each)
        assert found > 1.5 * min(each)

    def test_searching_samples_certify_nothing(self) -> None:
        # On the boundary a vote is the sign of the noise, at every level: samples that were used twice would count the same.
        model = Model.from_onnx(linear_model(np.array([[1.0], [-1.0]], dtype=np.float32), np.zeros(2, dtype=np.float32)))
        examples = Examples(tuple(range(200)), torch.zeros(200, 1), torch.zeros(200, dtype=torch.int64))
        rows = [row.evidence for row in self.run(model, examples, self.spec(n=100, sampling="fixed", n0=100))]
        for name in ("counts", "counts_selection"):
            for slot in range(9):
                alike = sum(max(getattr(evidence, name)) == evidence.search.tried[slot].top for evidence in rows)
                assert alike < 0.3 * len(rows)

    def test_a_memory_run_without_its_ledger_says_so(self, truth: LinearTruth) -> None:
        frozen = self.run(truth.model(), truth.examples(4, seed=1))
        memory = self.run(truth.model(), truth.examples(4, seed=1), self.spec(statement="memory"))
        assert [str(row.statement) for row in memory] == ["S1-frozen"] * 4
        assert all(row.reason.endswith("has not been asked yet.") for row in memory)
        assert [row.radius for row in memory] == [row.radius for row in frozen]


class TestFrozenTopTwo(SmoothingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "instance-smoothing", "sigmas": SIGMAS, "n": 4000, "statement": "frozen", "bound": "top-two"}
    norm = Norm.L2


def parsed(**fields: Any) -> Any:
    return parse_spec({"certifiers": [{"kind": "instance-smoothing", "sigmas": SIGMAS, **fields}]}).certifiers[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sigmas": [0.5, 0.25]}, "sigmas must ascend"),
        ({"search": {}}, "search belongs to the statements frozen and memory"),
        (
            {"statement": "frozen", "selector": {"kind": "confidence", "sigma": 1.0, "n0": 10, "n": 10, "looks": [10], "thresholds": []}},
            "dual",
        ),
        ({"selector": {"thresholds": [0.5]}}, "3 sigmas need one less"),
        ({"selector": {"thresholds": [0.9, 0.5]}}, "thresholds must ascend"),
        ({"selector": {"n": 5}}, "the selector can never agree: n = 5 samples can never certify"),
        ({"radii": [1.7]}, "the selector can never agree: radius 1.7 is out of reach"),
        ({"radii": [1.95], "selector": {"sigma": 5.0}}, "radius 1.95 is out of reach: n = 100000"),
        ({"selector": {"looks": [5, 4]}}, "selector.looks must ascend"),
        ({"noise": "uniform"}, "unknown field"),
        ({"selector": {"kind": "model"}}, "selector.model.model: is required"),
        ({"selector": {"kind": "model", "model": "abc"}}, "selector.model.model"),
    ],
)
def test_what_can_never_be_proved_is_refused_at_once(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parsed(**fields)


def test_every_default_is_written_out() -> None:
    spec = parse_spec({"certifiers": [{"kind": "instance-smoothing", "sigmas": SIGMAS}]})
    assert parse_spec(spec.canonical()) == spec
    selector = parsed().selector
    assert (selector.kind, selector.sigma, selector.n0, selector.n) == ("confidence", 0.5, 100, 10_000)
    limit = stats.norm.ppf(0.001 ** (1 / 100_000))
    assert selector.thresholds == pytest.approx([stats.norm.cdf(sigma * limit / 0.5) for sigma in SIGMAS[:-1]], abs=1e-6)
    assert parsed(statement="frozen").search.model_dump() == {"samples": 256, "rounds": 3}


def test_a_row_reads_back_as_what_it_is() -> None:
    truth = LinearTruth.random(FEATURES, 4, seed=7)
    spec = parse_spec({"certifiers": [TestConfidence.entry, TestFrozen.entry, {"kind": "smoothing", "sigma": 0.25, "n": 1000}]})
    from certify import certify

    rows: list[Any] = list(certify(truth.model(), truth.examples(2, seed=1), spec, run_for(spec, truth.model(), 2)))
    kinds = [type(parse_finding(row.line()).evidence) for row in rows]
    assert kinds == [InstanceEvidence] * 4 + [SmoothingEvidence] * 2
