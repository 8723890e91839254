"""PREDICT of the two-stage rule: the laws of every certifier but for a radius, few wrong answers, and none against a dual certificate."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from certify import Examples, Model, certify
from certify.certificate import Certificate, DualPredictionEvidence
from certify.errors import SpecError
from certify.norms import Norm
from certify.prediction import decide
from certify.sampling.noise import NOISES
from certify.spec import parse_spec
from certify.statistics.binomial import lower_limit
from certify.verdict import Verdict
from tests.contract.certifier_laws import CertifierLaws
from tests.support.levels import Line
from tests.support.linear import LinearTruth
from tests.support.runs import run_for

SELECTOR = {"kind": "confidence", "sigma": 0.25, "thresholds": [0.7], "n": 1000}
ENTRY = {"kind": "dual-predict", "sigmas": [0.12, 0.25], "selector": SELECTOR, "n": 1000}


class TestDualPredict(CertifierLaws):
    entry: ClassVar[dict[str, Any]] = ENTRY
    norm = Norm.L2

    def test_something_is_certified(self, truth: LinearTruth) -> None:
        found = self.run(truth.model(), truth.examples(12, seed=1))
        assert {c.radius for c in found} == {0.0}
        assert any(c.verdict is Verdict.CERTIFIED for c in found)
        assert {str(c.statement) for c in found} == {"S4-dual-prediction"}

    def test_verdicts_follow_from_the_stored_votes_at_half_of_alpha_each(self, truth: LinearTruth) -> None:
        for row in self.run(truth.model(), truth.examples(12, seed=1)):
            found = row.evidence
            assert isinstance(found, DualPredictionEvidence)
            level, p_level = decide(found.selector_counts)
            noise = NOISES["gaussian"](found.selector_sigma, truth.model().input_shape, "cpu")
            assert p_level < noise.paid(p_level, 1000) == found.selector_p_value < p_level * 1.00001
            assert sum(found.selector_counts) == 1000
            if p_level > row.alpha / 2:
                assert (found.n, row.verdict) == (0, Verdict.ABSTAINED)
                continue
            assert found.sigma == pytest.approx(found.sigmas[level], rel=1e-6)
            top, p_value = decide(found.counts)
            assert noise.paid(p_value, found.n) == found.p_value
            assert row.prediction == (top if p_value <= row.alpha / 2 else None)


# Class 1 on (-0.3, 0.3) and beyond 0.7: near 0 it wins under the small noise, under the large one class 0 does.
LINE = Line(-0.3, (0.0, 0.5), steep=10.0)
LEVELS = [0.1, 1.0]


def rows(entry: dict[str, Any], xs: np.ndarray, model: Model) -> list[Certificate]:
    spec = parse_spec({"certifiers": [entry]})
    examples = Examples(tuple(range(len(xs))), torch.tensor(xs, dtype=torch.float32)[:, None], torch.zeros(len(xs), dtype=torch.int64))
    found = certify(model, examples, spec, run_for(spec, model, len(xs), batch_size=1024))
    return [row for row in found if isinstance(row, Certificate)]


def chosen(model: Model, xs: np.ndarray, selector: dict[str, Any]) -> list[int | None]:
    """What the rule answers at each point, from many votes; null where they tell nothing."""
    many = {"kind": "dual-predict", "sigmas": LEVELS, "selector": {**selector, "n": 100_000}, "n": 100_000, "alpha": 1e-8}
    return [row.prediction for row in rows(many, xs, model)]


@pytest.mark.parametrize("threshold", [0.9, 0.99])
def test_answers_are_wrong_at_most_alpha_of_the_time(threshold: float) -> None:
    # Where level or class are nearly even, few votes go wrong most often.
    model, selector = LINE.model(), {"kind": "confidence", "sigma": 0.3, "thresholds": [threshold], "n": 20}
    xs = np.linspace(-0.6, 1.0, 17)
    truth, alpha, repeats = chosen(model, xs, selector), 0.2, 60
    few = {"kind": "dual-predict", "sigmas": LEVELS, "selector": selector, "n": 20, "alpha": alpha}
    for x, right in zip(xs, truth, strict=True):
        if right is not None:
            wrong = sum(row.prediction not in (None, right) for row in rows(few, np.full(repeats, x), model))
            assert lower_limit(wrong, repeats, 1e-4) <= alpha
    assert sum(right is not None for right in truth) >= 12


def test_no_prediction_inside_a_dual_certificate_contradicts_it() -> None:
    model, selector = LINE.model(), {"kind": "confidence", "sigma": 0.3, "thresholds": [0.99], "n": 10_000}
    xs = np.linspace(-1.5, 1.5, 25)
    dual = {"kind": "instance-smoothing", "sigmas": LEVELS, "selector": selector, "n": 10_000, "error_rate": "per-example"}
    held = [(x, row) for x, row in zip(xs, rows(dual, xs, model), strict=True) if row.radius > 0]
    inside = np.array([x + share * 0.999 * row.radius for x, row in held for share in (-1.0, -0.5, 0.5, 1.0)])
    answers = rows({"kind": "dual-predict", "sigmas": LEVELS, "selector": selector, "n": 10_000}, inside, model)
    for i, (_, row) in enumerate(held):
        assert {answer.prediction for answer in answers[4 * i : 4 * i + 4]} <= {None, row.prediction}
    assert sum(answer.prediction is not None for answer in answers) > len(answers) // 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"selector": {"kind": "confidence", "sigma": 0.25}}, "thresholds"),
        ({"selector": {**SELECTOR, "thresholds": [0.5, 0.7]}}, "sigmas need one less"),
        ({"selector": {**SELECTOR, "n": 5}}, "can never single out a class"),
        ({"sigmas": [0.25, 0.12]}, "must ascend"),
    ],
)
def test_what_is_no_rule_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse_spec({"certifiers": [{**ENTRY, **changes}]})


def test_the_selector_of_a_certificate_can_be_copied_as_it_is_stored() -> None:
    stored = parse_spec({"certifiers": [{"kind": "instance-smoothing", "sigmas": LEVELS, "n": 1000}]}).model_dump(mode="json")
    entry = {"kind": "dual-predict", "sigmas": LEVELS, "selector": stored["certifiers"][0]["selector"]}
    assert parse_spec({"certifiers": [entry]}).certifiers[0].selector.n == 1000  # type: ignore[union-attr]
