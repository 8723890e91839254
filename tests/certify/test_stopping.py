"""A run stops when it has seen enough: not before what is asked is decided, and seldom in vain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from certify.sampling.noise import NOISES
from certify.spec import SmoothingSpec
from certify.statistics.binomial import lower_limit, upper_limit
from certify.statistics.sequential import Bound, Look, limits
from certify.statistics.stopping import Stopping
from tests.support.votes import Array, Classifiers, Procedure, Votes, draw, smoothing

BOUNDS = ("one-sided", "top-two")
# How often the rule may take a further vote for unlikely.
FUTILITY = 0.003


def counts(n: int, size: int, seed: int) -> tuple[Array, Array]:
    """Votes of a class and of its largest rival, many of them at the ends of their range."""
    rng = np.random.default_rng(seed)
    top = np.concatenate([[0, n, n, n - 1, n // 2, n // 2 + 1], rng.integers(0, n + 1, size), n - rng.integers(0, min(n, 20) + 1, size)])
    return top.astype(float), np.floor((n - top) * rng.uniform(0, 1, len(top)))


# Uniform noise is scaled in float32, and its radius is that of the scaling. Gaussian noise pays for its tail, about which no stop cares.
@pytest.mark.parametrize(("noise", "accuracy"), [("gaussian", 1e-5), ("discrete-gaussian", 1e-9), ("uniform", 1e-7)])
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("look", [0, 3, -1])
def test_what_seems_proved_is_what_the_exact_limits_prove(look: int, bound: Bound, noise: str, accuracy: float) -> None:
    spec = smoothing(n=100_000, alpha=0.001, bound=bound, sigma=0.25)
    law = NOISES[noise](spec.sigma, (3,), "cpu")
    levels = [spec.alpha * share for share in spec.shares]
    rule = Stopping(looks=spec.looks, levels=levels, bound=bound, reach=law.reach, radii=None, tolerance=0.1)
    look %= len(spec.looks)
    n = spec.looks[look]
    top, rival = counts(n, 100, seed=look)
    for a, b, proved in zip(top.astype(int).tolist(), rival.astype(int).tolist(), rule.proved(look, top, rival), strict=True):
        found = limits([Look(n, a, b, spec.shares[look])], spec.alpha, bound, law.slack)
        assert law.radius(found.pA_lower, found.pB_upper) == pytest.approx(max(0.0, proved), rel=accuracy, abs=accuracy)


@pytest.mark.parametrize("asked", [{"radii": (0.1, 0.5)}, {"tolerance": 0.05}])
@pytest.mark.parametrize("bound", BOUNDS)
def test_the_last_look_settles_everything(bound: Bound, asked: dict[str, Any]) -> None:
    spec = smoothing(n=1000, bound=bound, **asked)
    rule, last = Procedure(spec).rule(), len(spec.looks) - 1
    top, rival = counts(1000, 200, seed=1)
    assert rule.settled(last, top, rival, rule.proved(last, top, rival)).all()
    single = Procedure(smoothing(n=1000, sampling="fixed", bound=bound)).rule()
    assert single.settled(0, top, rival, single.proved(0, top, rival)).all()


# One look at the end and one before: what the last one needs is found by trying every count with the exact limits.
TWO_LOOKS = smoothing(n=2000, looks=(300, 2000), radii=(0.2, 0.7, 1.2), error_rate="per-example", alpha=0.01)


def exact_radius(spec: SmoothingSpec, look: int, top: int) -> float:
    found = limits([Look(spec.looks[look], top, 0, spec.shares[look])], Procedure(spec).alpha, "one-sided")
    return Procedure(spec).noise.radius(found.pA_lower, found.pB_upper)


def test_a_stop_decides_every_radius_asked() -> None:
    spec, (n, last) = TWO_LOOKS, TWO_LOOKS.looks
    final = [exact_radius(spec, 1, top) for top in range(last + 1)]
    top = np.arange(n + 1, dtype=float)
    rule = Procedure(spec).rule()
    settled = rule.settled(0, top, n - top, rule.proved(0, top, n - top))
    for votes in range(n + 1):
        proved = exact_radius(spec, 0, votes)
        # The most votes that the top class will have at the end: all that are to come, or as many as are likely.
        most = min(votes + last - n, int(np.ceil(upper_limit(votes, n, FUTILITY) * last)))
        decided = [proved >= radius or final[most] < radius for radius in spec.radii or ()]
        assert settled[votes] == all(decided)
    assert 0.3 < settled.mean() < 0.98


@given(st.integers(0, 300), st.data(), st.sampled_from([0.02, 0.1, 0.5]))
@settings(max_examples=100, deadline=None)
def test_a_stop_without_radii_is_near_the_best_that_could_come(top: int, data: st.DataObject, tolerance: float) -> None:
    spec = smoothing(n=2000, looks=(300, 2000), tolerance=tolerance, error_rate="per-example", alpha=0.01)
    rule, rival = Procedure(spec).rule(), np.array([float(data.draw(st.integers(0, 300 - top)))])
    proved = rule.proved(0, np.array([float(top)]), rival)
    most = min(top + 1700, int(np.ceil(upper_limit(top, 300, FUTILITY) * 2000)))
    best = exact_radius(spec, 1, most)
    if rule.settled(0, np.array([float(top)]), rival, proved)[0]:
        assert max(0.0, proved[0]) >= (1 - tolerance) * best * (1 - 1e-9)
    else:
        assert proved[0] <= (1 - tolerance) * best * (1 + 1e-9)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_radius_already_proved_is_never_taken_back(bound: Bound) -> None:
    # `proved` may come from an earlier, luckier look; later votes cannot make the run go on.
    spec = smoothing(n=2000, radii=(0.3,), bound=bound)
    rule = Procedure(spec).rule()
    top, rival = counts(spec.looks[2], 100, seed=2)
    assert rule.settled(2, top, rival, np.full(len(top), 0.3 * (1 + 1e-5))).all()


def test_no_rule_stops_at_what_the_exact_limit_may_not_reach() -> None:
    # Below, at, and barely above the radius asked: only clearly above is proved.
    spec = smoothing(n=2000, radii=(0.3,))
    rule = Procedure(spec).rule()
    n = spec.looks[2]
    top = np.full(4, round(0.9 * n), dtype=float)
    near = np.array([0.3 * (1 - 1e-12), 0.3, 0.3 * (1 + 1e-7), 0.3 * (1 + 1e-5)])
    assert rule.settled(2, top, n - top, near).tolist() == [False, False, False, True]


def given_up(spec: SmoothingSpec, votes: Votes) -> tuple[float, float]:
    """The share of certifications that a run to n certifies at the radius asked, and of those the share that the rule gives up."""
    assert spec.radii
    rule, runs = Procedure(spec).rule(), len(votes.selected)
    proved, going, answer = np.full(runs, -np.inf), np.ones(runs, dtype=bool), np.full(runs, -np.inf)
    for look in range(len(spec.looks)):
        seen = votes.top[look].astype(float), votes.rival[look].astype(float)
        proved = np.maximum(proved, rule.proved(look, *seen))
        done = rule.settled(look, *seen, proved) & going
        answer[done], going = proved[done], going & ~done
    would = votes.proved >= spec.radii[0] * (1 + 1e-9)
    return float(would.mean()), float((would & (answer < spec.radii[0])).sum() / would.sum())


@pytest.mark.parametrize(("radius", "bound"), [(0.25, "one-sided"), (2.0, "one-sided"), (1.0, "top-two")])
@pytest.mark.parametrize("distance", [3, 5, 10])
def test_giving_up_is_rare(distance: float, radius: float, bound: Bound) -> None:
    # `distance` standard errors of the whole run from what the radius needs: where a run to n is not sure to certify.
    spec = smoothing(n=100_000, radii=(radius,), error_rate="per-example", bound=bound)
    threshold = special.ndtr(radius)
    p = threshold + distance * np.sqrt(threshold * (1 - threshold) / spec.n)
    votes = draw(Procedure(spec), Classifiers.alike((p, 1 - p), 4000, 1), stop=lambda mine, proved: np.zeros(len(mine), dtype=bool))
    certified, lost = given_up(spec, votes)
    assert certified > 0.2
    assert lower_limit(round(lost * certified * 4000), round(certified * 4000), 1e-3) <= 0.02
    assert lost <= 0.025
