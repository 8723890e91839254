"""A level that changes slowly with the input: what is left of the radius, against exact, drawn and integrated probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from certify import certify
from certify.certificate import Certificate, SmoothingEvidence
from certify.corrected import admissible_ratios, corrected_radius, worst_share
from certify.correction import correct
from certify.recompute import recompute
from certify.rounding import step_up
from certify.sampling.noise.gaussian import l2_radius
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support.linear import LinearTruth
from tests.support.runs import run_for

Array = np.ndarray[Any, Any]
TABLE = {
    784: ((0.968, 1.033), (0.942, 1.059), (0.923, 1.079), (0.905, 1.098)),
    3072: ((0.984, 1.016), (0.970, 1.030), (0.961, 1.040), (0.952, 1.049)),
    12288: ((0.992, 1.008), (0.985, 1.015), (0.980, 1.020), (0.976, 1.024)),
    150528: ((0.9977, 1.0023), (0.9958, 1.0042), (0.9944, 1.0056), (0.9931, 1.0069)),
}


@pytest.mark.parametrize("dimension", TABLE)
def test_outside_the_admissible_ratios_nothing_is_certified_however_near(dimension: int) -> None:
    for p, (low, high) in zip((0.9, 0.99, 0.999, 0.99993), TABLE[dimension], strict=True):
        found = admissible_ratios(p, dimension)
        assert found == pytest.approx((low, high), abs=6e-4 if dimension < 1e5 else 6e-5)
        for ratio, outside in zip(found, (-2e-4, 2e-4), strict=True):
            assert worst_share(1e-6, ratio, p, dimension) < 0.5 <= worst_share(1e-6, ratio + outside, p, dimension)


@pytest.mark.parametrize(
    ("dimension", "elasticity", "radius"),
    [
        (3072, 0.001, 1.162),
        (3072, 0.01, 1.082),
        (3072, 0.05, 0.525),
        (3072, 0.1, 0.285),
        (150528, 0.001, 1.122),
        (150528, 0.005, 0.685),
        (150528, 0.01, 0.398),
        (150528, 0.05, 0.084),
    ],
)
def test_the_corrected_radius_is_the_largest_that_both_extreme_levels_allow(dimension: int, elasticity: float, radius: float) -> None:
    found = corrected_radius(0.5, 0.99, dimension, elasticity)
    assert found == pytest.approx(radius, abs=6e-4)
    for scale, safe in ((1.0, True), (1.001, False)):
        shares = [worst_share(2 * scale * found, np.exp(sign * elasticity * scale * found), 0.99, dimension) for sign in (-1, 1)]
        assert (max(shares) < 0.5) == safe


@pytest.mark.parametrize(("dimension", "elasticity"), [(1, 1.0), (2, 0.3), (30, 0.2), (784, 0.05)])
def test_inside_the_corrected_radius_every_level_and_distance_is_safe(dimension: int, elasticity: float) -> None:
    found = corrected_radius(1.0, 0.99, dimension, elasticity)
    assert 0.1 < found < l2_radius(1.0, 0.99, 0.01)
    shares = [
        worst_share(part * found, float(np.exp(tilt * elasticity * part * found)), 0.99, dimension)
        for part in np.linspace(0.02, 1.0, 15)
        for tilt in np.linspace(-1.0, 1.0, 11)
    ]
    assert max(shares) < 0.5
    assert corrected_radius(1.0, 0.99, dimension, 0.0) == l2_radius(1.0, 0.99, step_up(1.0 - 0.99))


@pytest.mark.parametrize("ratio", [0.8, 1.25])
def test_the_likelihood_ratio_test_wins_the_worst_share_and_no_more(ratio: float) -> None:
    # Neyman and Pearson's test itself, on drawn points.
    rng, dimension, distance, pA, draws = np.random.default_rng(5), 5, 0.7, 0.9, 400_000
    shift = np.eye(dimension)[0] * distance
    here = rng.normal(size=(draws, dimension))
    there = ratio * rng.normal(size=(draws, dimension)) + shift

    def likelihood(points: Array) -> Array:
        return np.asarray((points**2).sum(axis=1) / 2 - ((points - shift) ** 2).sum(axis=1) / (2 * ratio**2))

    wins = float((likelihood(there) > np.quantile(likelihood(here), pA)).mean())
    assert abs(wins - worst_share(distance, ratio, pA, dimension)) < 6 / np.sqrt(draws)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("dimension", [20, 784])
def test_the_plain_radius_is_too_large_for_a_level_that_changes_and_the_corrected_is_not(dimension: int, sign: int) -> None:
    # The worst classifier there is: another class where the noise of x1 is likelier than that of x0, as far as pA at x0 allows.
    elasticity, pA = 0.1, 0.99
    found, plain = corrected_radius(1.0, pA, dimension, elasticity), l2_radius(1.0, pA, 1 - pA)

    def wrong(distance: float) -> bool:
        return worst_share(distance, float(np.exp(sign * elasticity * distance)), pA, dimension) >= 0.5

    assert wrong(0.999 * plain)
    assert not wrong(found)
    assert not wrong(0.5 * found)


@pytest.mark.parametrize("dimension", [2, 784, 150_528])
@pytest.mark.parametrize("noncentrality", [1e2, 1e5, 1e9])
def test_the_noncentral_law_is_far_more_accurate_than_its_margin(dimension: int, noncentrality: float) -> None:
    spread, mean = np.sqrt(2 * (dimension + 2 * noncentrality)), dimension + noncentrality
    for x in (mean - 3 * spread, mean, mean + 3 * spread):
        if x > 0:
            wanted = quadrature(x, dimension, noncentrality)
            assert abs(stats.ncx2.cdf(x, dimension, noncentrality) - wanted) < 1e-8 * wanted


def quadrature(x: float, dimension: int, noncentrality: float) -> float:
    """By another way: one coordinate is shifted, the square of the others has a central law, over which is integrated."""
    away, rest = np.sqrt(noncentrality), dimension - 1
    if rest > 100:
        y = rest + np.sqrt(2 * rest) * np.linspace(-11, 13, 200_001)
        weight = stats.chi2.pdf(y, rest) * (y[1] - y[0])
    else:  # as y = s^2, whose density has no pole
        s = np.linspace(0, 12, 400_001)
        y, weight = s**2, 2 * s * stats.chi2.pdf(np.maximum(s**2, 1e-300), rest) * (s[1] - s[0])
        weight[0] = 0.5 * np.sqrt(2 / np.pi) * (s[1] - s[0]) if rest == 1 else 0.0
    half = np.sqrt(np.maximum(x - y, 0))
    inside = special.ndtr(half - away) - special.ndtr(-half - away)
    return float(np.sum(weight * np.where(y < x, inside, 0.0)))


def rows_of(truth: LinearTruth, entry: dict[str, Any], count: int) -> list[Certificate]:
    spec, model, examples = parse_spec({"certifiers": [{"n": 10_000, **entry}]}), truth.model(), truth.examples(count, seed=2)
    return [row for row in certify(model, examples, spec, run_for(spec, model, count)) if isinstance(row, Certificate)]


def test_a_linear_classifier_keeps_its_answer_inside_the_corrected_radius() -> None:
    truth = LinearTruth.random(6, 3, seed=11)
    rows = rows_of(truth, {"kind": "smoothing", "sigma": 0.3}, 30)
    for row, x in zip(rows, truth.examples(30, seed=2).x.numpy(), strict=True):
        slow, fast = correct(row, 0.01), correct(row, 1.0)
        assert (str(slow.statement), slow.alpha) == ("S3-corrected", row.alpha)
        assert fast.radius <= slow.radius <= row.radius
        if slow.prediction is not None:
            assert slow.radius <= truth.distance(x, slow.prediction, row.norm)
            assert slow.radius > 0.98 * row.radius
            assert "0.01-semi-elastic, which was declared and not checked" in slow.reason
            # Another alpha later keeps the semi-elasticity, and the order of the two makes no difference.
            again = recompute(slow, alpha=0.01)
            assert str(again.statement) == "S3-corrected-exploratory"
            assert again == correct(recompute(row, alpha=0.01), 0.01).model_copy(update={"reason": again.reason})
    assert sum(correct(row, 1.0).radius > 0 for row in rows) > 10


def test_a_level_of_our_own_search_is_refused_with_the_ratios() -> None:
    truth = LinearTruth.random(6, 3, seed=11)
    for row in rows_of(truth, {"kind": "instance-smoothing", "statement": "frozen", "sigmas": [0.2, 0.5]}, 6):
        refused = correct(row, 0.01)
        assert (refused.verdict, refused.radius, refused.prediction) == (Verdict.ABSTAINED, 0.0, None)
        assert refused.reason.startswith("Refused: ")
        assert isinstance(row.evidence, SmoothingEvidence)
        if row.radius > 0:
            low, high = admissible_ratios(row.evidence.pA_lower, 6)
            assert f"by factors between {low:.4f} and {high:.4f} at most" in refused.reason
            assert low > 0.2


def test_what_is_no_gaussian_certificate_of_one_level_stays_as_it_is() -> None:
    truth = LinearTruth.random(6, 3, seed=11)
    for entry in (
        {"kind": "smoothing", "sigma": 0.3, "noise": "uniform"},
        {"kind": "smoothing", "sigma": 0.3, "norm": "linf"},
        {"kind": "instance-smoothing", "sigmas": [0.3]},
    ):
        for row in rows_of(truth, entry, 2):
            assert correct(row, 0.1) is row
