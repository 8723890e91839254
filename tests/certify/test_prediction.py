"""PREDICT: how often it is wrong, what its p-value is, and that it answers as the smoothed classifier does.

Coverage as in tests/soundness/test_coverage.py: the product's own decision on simulated votes of known laws fails when the 99.99 % lower
limit of the false rate exceeds alpha. Where classes tie for the first place every answer counts as false, stricter than the claim.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats

from certify import Examples, Model, Prediction, certify, predict
from certify.certificate import PredictionEvidence
from certify.errors import InputError, NumericalError, SpecError
from certify.norms import Norm
from certify.prediction import decide
from certify.rounding import step_up
from certify.run import public_key
from certify.sampling.engine import Request, VoteCounter
from certify.sampling.noise import NOISES
from certify.sampling.streams import Stage, Stream
from certify.spec import parse_spec
from certify.statistics.binomial import lower_limit
from certify.verdict import Verdict
from tests.contract.certifier_laws import CertifierLaws
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model
from tests.support.runs import run_for

KEY = bytes(range(32))
RUNS = 20_000
LAWS = {
    "two classes, even": (0.5, 0.5),
    "two classes, close": (0.52, 0.48),
    "two classes, clear": (0.8, 0.2),
    "the second class leads by a little": (0.49, 0.51),
    "three classes, even": (1 / 3, 1 / 3, 1 / 3),
    "three classes, nearly even": (0.34, 0.33, 0.33),
    "two even ones ahead of a third": (0.4, 0.4, 0.2),
    "two even ones ahead of eight": (0.3, 0.3, *(0.05,) * 8),
    "ten classes, even": (0.1,) * 10,
}
Rule = Callable[[tuple[int, ...]], tuple[int, float]]


def one_sided(counts: tuple[int, ...]) -> tuple[int, float]:
    """The negative control: it forgets that the winner was chosen by the same votes."""
    top, p_value = decide(counts)
    return top, p_value / 2


@lru_cache(maxsize=4)
def answers(law: tuple[float, ...], n: int, rule: Rule) -> tuple[list[int], list[float]]:
    votes = np.random.default_rng([n, len(law), round(1000 * law[0])]).multinomial(n, law, size=RUNS)
    tops, p_values = zip(*(rule(tuple(counts)) for counts in votes.tolist()), strict=True)
    return list(tops), list(p_values)


def false_rate_lower(law: tuple[float, ...], alpha: float, n: int, rule: Rule = decide) -> float:
    """The 99.99 % lower limit of the rate of answers that are not the one most probable class."""
    best = [c for c, p in enumerate(law) if p == max(law)]
    right = best[0] if len(best) == 1 else None
    wrong = sum(p <= alpha and top != right for top, p in zip(*answers(law, n, rule), strict=True))
    return lower_limit(wrong, RUNS, 1e-4)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_false_predictions_stay_within_alpha(name: str, n: int, alpha: float) -> None:
    assert false_rate_lower(LAWS[name], alpha, n) <= alpha


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_a_one_sided_test_of_the_winner_is_caught(alpha: float) -> None:
    assert false_rate_lower(LAWS["two classes, even"], alpha, 1000, one_sided) > alpha


def test_it_is_not_shy() -> None:
    """A rule that always abstained would pass everything above."""
    tops, p_values = answers(LAWS["two classes, clear"], 100, decide)
    assert np.mean([top == 0 and p <= 0.001 for top, p in zip(tops, p_values, strict=True)]) > 0.99


def exact(counts: tuple[int, ...]) -> Fraction:
    """By counting: the share of all outcomes of fair coin tosses that are at least as uneven as the two largest counts."""
    b, a = sorted(counts)[-2:]
    return Fraction(sum(comb(a + b, k) for k in range(a + b + 1) if abs(2 * k - a - b) >= a - b), 2 ** (a + b))


@pytest.mark.parametrize(
    "counts", [(1, 0), (0, 2), (5, 5), (4, 5, 5), (6, 5), (60, 40), (0, 7, 61, 40), (530, 470), (900, 100), (1000, 0), (0, 11)]
)
def test_the_p_value_is_the_exact_one_rounded_up(counts: tuple[int, ...]) -> None:
    p_value, wanted = decide(counts)[1], exact(counts)
    assert wanted <= Fraction(p_value) <= wanted * (1 + Fraction(1, 10**10))


@pytest.mark.parametrize("counts", [(5_000_400, 4_999_600), (5_005_000, 4_995_000), (5_010_000, 4_990_000)])
def test_the_p_value_of_many_votes_is_that_of_another_library_function(counts: tuple[int, int]) -> None:
    other = stats.binomtest(counts[0], sum(counts), 0.5).pvalue
    assert decide(counts)[1] == pytest.approx(other, rel=1e-8)


@pytest.mark.parametrize(("counts", "winner"), [((5, 5), 0), ((1, 5, 5), 1), ((3, 3, 3), 0), ((0, 4, 1, 4), 1), ((2, 9, 3), 1)])
def test_ties_go_to_the_lowest_class(counts: tuple[int, ...], winner: int) -> None:
    assert decide(counts)[0] == winner


class TestPredict(CertifierLaws):
    """It keeps the laws of every certifier, but for having a radius."""

    entry: ClassVar[dict[str, Any]] = {"kind": "predict", "sigma": 0.25, "n": 1000}
    norm = Norm.L2

    def test_something_is_certified(self, truth: LinearTruth) -> None:
        found = self.run(truth.model(), truth.examples(12, seed=1))
        assert {c.radius for c in found} == {0.0}
        answered = [c for c in found if c.verdict is Verdict.CERTIFIED]
        assert answered
        assert all("no radius is claimed" in c.reason for c in answered)

    def test_the_verdict_follows_from_the_stored_votes(self, truth: LinearTruth) -> None:
        for certificate in self.run(truth.model(), truth.examples(12, seed=1)):
            evidence = certificate.evidence
            assert isinstance(evidence, PredictionEvidence)
            assert sum(evidence.counts) == evidence.n == 1000
            top, p_value = decide(evidence.counts)
            noise = NOISES["gaussian"](evidence.sigma, truth.model().input_shape, "cpu")
            assert p_value < noise.paid(p_value, evidence.n) == evidence.p_value < p_value * 1.00001
            assert certificate.prediction == (top if p_value <= 0.001 else None)

    def test_every_answer_has_the_whole_alpha(self, truth: LinearTruth) -> None:
        assert {c.alpha for c in self.run(truth.model(), truth.examples(12, seed=1))} == {0.001}


@pytest.mark.parametrize("noise", sorted(NOISES))
def test_answers_are_those_of_the_exact_smoothed_classifier(noise: str) -> None:
    """Two classes of a linear model and noise that is symmetric: the more probable side is the side of the input itself."""
    truth, rng = LinearTruth.random(3, 2, seed=1), np.random.default_rng(2)
    x = (rng.integers(0, 256, (60, 3)) / 255).astype(np.float32)
    smoothed = [max((0, 1), key=truth.logits(row).__getitem__) for row in x]
    found = predict(truth.model(), torch.from_numpy(x), sigma=0.25, n=2000, noise=noise, key=KEY)
    answered = [(one.prediction, right) for one, right in zip(found, smoothed, strict=True) if one.prediction is not None]
    assert len(answered) > 40
    assert [got for got, _ in answered] == [right for _, right in answered]


def boundary(count: int) -> tuple[Model, torch.Tensor]:
    """A model of two classes, and inputs where it cannot decide."""
    model = Model.from_onnx(linear_model(np.array([[1.0], [-1.0]], dtype=np.float32), np.zeros(2, dtype=np.float32)))
    return model, torch.zeros(count, 1)


def test_it_abstains_on_the_boundary() -> None:
    found = predict(*boundary(400), sigma=0.25, n=200, alpha=0.05, key=KEY)
    assert lower_limit(sum(one.prediction is not None for one in found), 400, 1e-4) <= 0.05
    assert np.mean([one.p_value for one in found]) > 0.4


def test_its_votes_are_of_a_stage_of_their_own() -> None:
    """Under one key, none of the votes that certify a radius are counted again."""
    truth = LinearTruth.random(3, 4, seed=5)
    x, model = truth.examples(1, seed=2).x, truth.model()
    noise = NOISES["gaussian"](0.25, (3,), "cpu")
    counter = VoteCounter(
        model.module(), (3,), batch_size=64, classes=4, device="cpu", should_stop=lambda: False, on_samples=lambda count: None
    )
    by_stage = {stage: counter.count([Request(x[0], noise, Stream(KEY, 0, 0, stage), 0, 1000)]).counts[0].tolist() for stage in Stage}
    [found] = predict(model, x, sigma=0.25, key=KEY)
    assert list(found.counts) == by_stage[Stage.PREDICTION]
    assert by_stage[Stage.PREDICTION] not in (by_stage[Stage.SELECTION], by_stage[Stage.ESTIMATION])


def test_the_library_call_is_the_certifier() -> None:
    truth = LinearTruth.random(3, 4, seed=5)
    model, examples = truth.model(), Examples(tuple(range(12)), truth.examples(12, seed=2).x, torch.zeros(12, dtype=torch.int64))
    spec = parse_spec({"certifiers": [{"kind": "predict", "sigma": 0.25, "n": 500, "alpha": 0.01}]})
    rows = list(certify(model, examples, spec, run_for(spec, model, 12)))
    found = predict(model, examples.x, sigma=0.25, n=500, alpha=0.01, key=public_key(spec), batch_size=64)
    assert found == [Prediction(c.prediction, c.evidence.p_value, c.evidence.counts) for c in rows]
    assert found != predict(model, examples.x, sigma=0.25, n=500, alpha=0.01, key=KEY)
    assert predict(model, examples.x[:0], sigma=0.25, key=KEY) == []


def test_integer_noise_pays_for_the_rounding_of_its_law() -> None:
    [found] = predict(*boundary(1), sigma=0.25, n=1000, noise="discrete-gaussian", key=KEY)
    slack = NOISES["discrete-gaussian"](0.25, (1,), "cpu").slack
    assert slack > 0
    assert found.p_value == min(1.0, step_up(decide(found.counts)[1] + 1000 * slack))
    [clear] = predict(boundary(1)[0], torch.ones(1, 1), sigma=0.1, n=1000, noise="discrete-gaussian", key=KEY)
    assert clear.counts == (1000, 0)
    assert clear.p_value >= 1000 * slack > 2 * 0.5**999


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"sigma": 0.0}, SpecError, "sigma: input should be greater than 0"),
        ({"sigma": float("nan")}, SpecError, "sigma: input should be a finite number"),
        ({"n": 10}, SpecError, "n: n = 10 votes can never single out a class at alpha = 0.001; use n >= 11"),
        ({"alpha": 0.6}, SpecError, "alpha: input should be less than 0.5"),
        ({"noise": "cauchy"}, SpecError, "noise: input should be 'gaussian'"),
        ({"noise": "discrete-gaussian", "sigma": 17.0}, SpecError, "sigma: sigma = 17 is no noise for 8-bit inputs"),
        ({"noise": "discrete-gaussian"}, InputError, "x: is not on the 1/255 grid"),
        ({"batch_size": 0}, SpecError, "batch_size: input should be greater"),
        ({"key": b"short"}, InputError, "key: has 5 bytes; draw 32 random bytes"),
    ],
)
def test_refusals_name_the_argument_and_the_mend(settings: dict[str, Any], error: type[Exception], sentence: str) -> None:
    model = boundary(1)[0]
    with pytest.raises(error) as caught:
        predict(model, torch.full((1, 1), 0.1234), **{"sigma": 0.25, "key": KEY, **settings})
    assert sentence in str(caught.value)
    assert ";" in str(caught.value)


def test_inputs_are_checked_as_for_certificates() -> None:
    model = boundary(1)[0]
    with pytest.raises(InputError, match="the model takes"):
        predict(model, torch.zeros(1, 2), sigma=0.25, key=KEY)
    with pytest.raises(InputError, match="NaN or infinity"):
        predict(model, torch.full((1, 1), float("nan")), sigma=0.25, key=KEY)


def test_infinite_logits_are_an_error_and_never_an_abstention() -> None:
    model = Model.from_onnx(linear_model(np.array([[3e38], [-3e38]], dtype=np.float32), np.zeros(2, dtype=np.float32)))
    with pytest.raises(NumericalError, match=r"x\.0: a noisy copy of it got a NaN or infinite logit"):
        predict(model, torch.full((1, 1), 1e3), sigma=0.25, key=KEY)
