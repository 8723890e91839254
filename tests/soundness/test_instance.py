"""Levels that depend on the input: how often is a claim wrong, and where does a held level mislead?

The product's own decision runs on simulated votes; a setting fails when the 99.99 % lower limit of its false rate exceeds alpha. On a
classifier of one number every probability is exact, and with it the true boundary of the rule that is deployed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import special

from certify import Examples, certify
from certify.certificate import InstanceEvidence
from certify.sampling.noise.gaussian import l2_radius
from certify.spec import parse_spec
from certify.statistics.binomial import lower_limit
from certify.statistics.sequential import Look, limits
from tests.support.levels import Array, Line, Shares, simulate
from tests.support.runs import run_for

QUICK, RUNS = 3000, 20_000
SIGMAS = (0.5, 1.0)
SHARES = {
    "the selector limits": Shares((0.7, 0.3), ((0.99, 0.01), (0.9, 0.1)), SIGMAS, 1.0),
    "the classifier limits": Shares((0.98, 0.02), ((0.7, 0.3), (0.6, 0.4)), SIGMAS, 1.0),
    "both alike": Shares((0.7, 0.3), ((0.8527, 0.1473), (0.7, 0.3)), SIGMAS, 1.0),
    "no level leads": Shares((0.5, 0.5), ((0.9, 0.1), (0.6, 0.4)), SIGMAS, 1.0),
    "no class leads": Shares((0.9, 0.1), ((0.5, 0.5), (0.5, 0.5)), SIGMAS, 1.0),
    "another class at each level": Shares((0.55, 0.45), ((0.6, 0.4), (0.4, 0.6)), SIGMAS, 1.0),
    "three levels and classes": Shares((0.4, 0.35, 0.25), ((0.5, 0.3, 0.2), (0.4, 0.3, 0.3), (1 / 3,) * 3), (0.25, 0.5, 1.0), 1.0),
}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "fixed": {"sampling": "fixed"},
    "largest": {"tolerance": 0.05},
    "radii": {"radii": (0.1, 0.4)},
    "top-two": {"bound": "top-two", "sampling": "fixed"},
}
EASY = [("the selector limits", "fixed"), ("no level leads", "largest"), ("no class leads", "fixed"), ("both alike", "radii")]


def settings() -> list[Any]:
    return [
        pytest.param(
            name, sampling, QUICK if (name, sampling) in EASY else RUNS, marks=() if (name, sampling) in EASY else pytest.mark.slow
        )
        for name in SHARES
        for sampling in SAMPLINGS
    ]


def rate(wrong: Array) -> float:
    """The 99.99 % lower limit of how often."""
    return lower_limit(int(wrong.sum()), len(wrong), 1e-4)


# -- coverage ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, pytest.param(0.01, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "sampling", "runs"), settings())
def test_dual_claims_are_false_at_most_alpha_without_a_split(name: str, sampling: str, runs: int, alpha: float) -> None:
    shares = SHARES[name]
    found = simulate(shares, runs, 1, n=1000, alpha=alpha, selector={"n": 500}, **SAMPLINGS[sampling])
    truth = np.array([shares.radius(index, top) for index, top in zip(found.index, found.top, strict=True)])
    assert rate((found.radius > 0) & (found.radius > truth)) <= alpha


def test_the_radius_of_the_classifier_alone_is_caught() -> None:
    shares, alpha = SHARES["the selector limits"], 0.05
    found = simulate(shares, QUICK, 1, n=1000, alpha=alpha, selector={"n": 500}, sampling="fixed")
    truth = np.array([shares.radius(index, top) for index, top in zip(found.index, found.top, strict=True)])
    assert rate((found.radius > 0) & (found.classifier_radius > truth)) > alpha


LEVELS = (0.25, 0.5, 1.0, 2.0)
EQUAL = tuple((p, 1 - p) for p in special.ndtr(0.2 / np.array(LEVELS)))


@pytest.mark.parametrize("runs", [QUICK, pytest.param(RUNS, marks=pytest.mark.slow)])
def test_a_searched_level_with_fresh_samples_is_false_at_most_alpha(runs: int) -> None:
    shares, alpha = Shares((1.0,) * 4, EQUAL, LEVELS, 1.0), 0.05
    search = {"samples": 500, "rounds": 0}
    found = simulate(shares, runs, 2, n=500, alpha=alpha, sampling="fixed", statement="frozen", search=search)
    truth = np.array([shares.class_radius(index, top) for index, top in zip(found.index, found.top, strict=True)])
    assert len(set(found.index.tolist())) == 4
    assert rate((found.radius > 0) & (found.radius > truth)) <= alpha


def test_a_level_picked_from_the_samples_that_certify_it_is_caught() -> None:
    alpha, rng = 0.05, np.random.default_rng(3)
    tops = np.stack([rng.binomial(500, p, size=QUICK) for p, _ in EQUAL])
    proved = {(j, k): _proved(sigma, k, alpha) for j, sigma in enumerate(LEVELS) for k in set(tops[j].tolist())}
    best = np.array([max(proved[j, int(k)] for j, k in enumerate(column)) for column in tops.T])
    assert rate(best > 0.2) > alpha  # 0.2 is the true radius at every level


def _proved(sigma: float, top: int, alpha: float) -> float:
    found = limits([Look(500, top, 500 - top, 1.0)], alpha, "one-sided")
    return l2_radius(sigma, found.pA_lower, found.pB_upper)


# -- two inputs, two levels, two answers -----------------------------------------------------------------------------------------

# Class 1 on (-0.3, 0.3) and beyond 0.7: near 0 it wins under the small noise, under the large one class 0 does.
LINE = Line(-0.3, (0.0, 0.5), steep=10.0)
PAIR = (0.1, 1.0)


def line_run(xs: Array, seed: int = 0, **fields: Any) -> list[Any]:
    entry = {"kind": "instance-smoothing", "sigmas": list(PAIR), "n": 20_000, **fields}
    spec, model = parse_spec({"certifiers": [entry], "seed": seed}), LINE.model()
    examples = Examples(tuple(range(len(xs))), torch.tensor(xs[:, None], dtype=torch.float32), torch.zeros(len(xs), dtype=torch.int64))
    return list(certify(model, examples, spec, run_for(spec, model, len(xs), batch_size=4096)))


def test_a_held_level_misleads_whoever_deploys_the_search_and_says_so() -> None:
    xs = np.array([-0.25, -0.05])
    small, large = LINE.wins(xs, PAIR[0]), LINE.wins(xs, PAIR[1])
    # Exactly: the best level is the large one at the first input, where it answers 0, and the small one at the second: there it is 1.
    reach = np.stack([PAIR[0] * np.abs(special.ndtri(small)), PAIR[1] * np.abs(special.ndtri(large))])
    assert reach.argmax(axis=0).tolist() == [1, 0]
    assert (large[0] > 0.5, small[1] > 0.5) == (False, True)
    first, second = line_run(xs, statement="frozen", search={"samples": 2000, "rounds": 0})
    assert (first.evidence.sigma, second.evidence.sigma) == (1.0, float(np.float32(0.1)))
    assert (first.prediction, second.prediction) == (0, 1)
    # The second input lies in the ball of the first, and is certified as another class: of the deployed rule the claim is false.
    assert first.radius > xs[1] - xs[0]
    assert second.radius > 0
    assert (str(first.statement), str(second.statement)) == ("S1-frozen", "S1-frozen")
    # Of the classifier with its level held at 1 it is true, as it says.
    inside = np.linspace(xs[0] - first.radius, xs[0] + first.radius, 2001)[1:-1]
    assert bool((LINE.wins(inside, 1.0) < 0.5).all())


def deployed(xs: Array, threshold: float, sigma: float) -> Array:
    """The dual rule itself, exactly: which of the levels the smoothed selector answers, and the class under that."""
    large = LINE.confident(xs, sigma, threshold) > 0.5
    return np.where(large, LINE.wins(xs, PAIR[1]), LINE.wins(xs, PAIR[0])) > 0.5


def test_dual_never_certifies_past_the_boundary_of_the_deployed_rule() -> None:
    threshold, sigma = 0.8, 0.1
    xs = np.round(np.linspace(-1.2, 1.4, 131), 3)
    fine = np.linspace(-4, 4, 80_001)
    answers = deployed(fine, threshold, sigma)
    edges = fine[1:][answers[1:] != answers[:-1]]
    assert len(edges) >= 3
    # Some edges come from the level alone: neither classifier changes its answer there.
    of_levels = [np.diff(LINE.wins(np.array([edge - 1e-3, edge + 1e-3]), level) > 0.5).any() for edge in edges for level in PAIR]
    assert not all(a or b for a, b in zip(of_levels[::2], of_levels[1::2], strict=True))
    rows = line_run(xs, selector={"thresholds": [threshold], "sigma": sigma, "n": 20_000})
    apart = np.abs(xs.astype(np.float32)[:, None] - edges).min(axis=1)
    beyond = 0
    for row, x, distance in zip(rows, xs, apart, strict=True):
        if row.radius > 0:
            assert row.prediction == int(deployed(np.array([np.float32(x)]), threshold, sigma)[0])
            assert row.radius <= distance + 1e-4  # the grid on which the edges were found
            beyond += row.evidence.selector.classifier_radius > distance + 1e-4
    assert sum(row.radius > 0.05 for row in rows) > 15
    # The negative control: the classifier's own radius does go past it.
    assert beyond > 0
    assert {str(row.statement) for row in rows} == {"S4-dual"}


def test_votes_of_selector_and_classifier_follow_their_exact_probabilities() -> None:
    xs = np.linspace(-1.0, 1.2, 12)
    rows = line_run(xs, selector={"thresholds": [0.7], "sigma": 0.3, "n": 4000}, n=4000, sampling="fixed")
    z = []
    for row, x in zip(rows, xs.astype(np.float32), strict=True):
        assert isinstance(row.evidence, InstanceEvidence)
        assert row.evidence.selector is not None
        z.append(_z(row.evidence.selector.counts[1], 4000, LINE.confident(np.array([x]), 0.3, 0.7)[0]))
        if row.evidence.n:
            z.append(_z(row.evidence.counts[1], 4000, LINE.wins(np.array([x]), row.evidence.sigma)[0]))
    assert len(z) > 15
    assert max(abs(value) for value in z) < 4.5


def _z(wins: int, n: int, p: float) -> float:
    return float((wins - n * p) / np.sqrt(n * p * (1 - p) + 1e-9 * n))
