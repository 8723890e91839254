"""Limits of counts that were looked at several times: what they spend, and that they move the right way."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.looks import shares
from certify.rounding import step_up
from certify.statistics import sequential
from certify.statistics.binomial import lower_limit, upper_limit
from certify.statistics.sequential import Bound, Look, limits

BOUNDS = ("one-sided", "top-two")
ALPHAS = (0.05, 0.001, 1e-10)


@st.composite
def counted(draw: Any, most: int = 6) -> list[Look]:
    """Cumulative counts at a few looks, with the shares of the product."""
    count = draw(st.integers(1, most))
    looks, n, top, rival = [], 0, 0, 0
    for share in shares(count):
        more = draw(st.integers(1, 400))
        votes = draw(st.integers(0, more))
        n, top, rival = n + more, top + votes, rival + draw(st.integers(0, more - votes))
        looks.append(Look(n, top, rival, share))
    return looks


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("alpha", [0.05, 0.001 / 3, 0.001 / 500, 0.1 / 7, 1e-10])
def test_levels_add_to_at_most_alpha_exactly(alpha: float, bound: Bound, monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[float] = []

    def spend(successes: int, trials: int, level: float) -> float:
        spent.append(level)
        return 0.5

    monkeypatch.setattr(sequential, "lower_limit", spend)
    monkeypatch.setattr(sequential, "upper_limit", spend)
    for count in range(1, 201):
        spent.clear()
        limits([Look(10 * i, 5 * i, 4 * i, share) for i, share in enumerate(shares(count), 1)], alpha, bound)
        assert len(spent) == count * (2 if bound == "top-two" else 1)
        assert Fraction(alpha) * (1 - Fraction(1, 10**9)) <= sum(map(Fraction, spent)) <= Fraction(alpha)


@given(st.integers(1, 2000), st.data(), st.sampled_from(ALPHAS))
@settings(max_examples=100, deadline=None)
def test_a_single_look_is_clopper_pearson(n: int, data: st.DataObject, alpha: float) -> None:
    top = data.draw(st.integers(0, n))
    rival = data.draw(st.integers(0, n - top))
    one = limits([Look(n, top, rival, 1.0)], alpha, "one-sided")
    assert one.pA_lower == pytest.approx(lower_limit(top, n, alpha), rel=1e-13)
    assert one.pB_upper == min(1.0, step_up(1.0 - one.pA_lower))
    two = limits([Look(n, top, rival, 1.0)], alpha, "top-two")
    assert two.pA_lower == pytest.approx(lower_limit(top, n, alpha / 2), rel=1e-13)
    assert two.pB_upper == pytest.approx(min(upper_limit(rival, n, alpha / 2), 1.0 - two.pA_lower), rel=1e-13)


@given(counted(), st.data(), st.sampled_from(ALPHAS), st.sampled_from(BOUNDS))
@settings(max_examples=150, deadline=None)
def test_more_votes_prove_more(looks: list[Look], data: st.DataObject, alpha: float, bound: Bound) -> None:
    before = limits(looks, alpha, bound)
    i = data.draw(st.integers(0, len(looks) - 1))
    look = looks[i]
    better = [*looks[:i], Look(look.n, min(look.n, look.top + 1), look.rival, look.share), *looks[i + 1 :]]
    assert limits(better, alpha, bound).pA_lower >= before.pA_lower
    weaker = [*looks[:i], Look(look.n, look.top, max(0, look.rival - 1), look.share), *looks[i + 1 :]]
    assert limits(weaker, alpha, bound).pB_upper <= before.pB_upper


@given(st.integers(1, 1000), st.data(), st.sampled_from(ALPHAS))
@settings(max_examples=100, deadline=None)
def test_one_more_vote_of_a_single_look_is_strictly_better(n: int, data: st.DataObject, alpha: float) -> None:
    top = data.draw(st.integers(0, n - 1))
    assert limits([Look(n, top + 1, 0, 0.5)], alpha, "one-sided").pA_lower > limits([Look(n, top, 0, 0.5)], alpha, "one-sided").pA_lower


@given(counted(), st.sampled_from(ALPHAS), st.floats(1.01, 9.0), st.sampled_from(BOUNDS))
@settings(max_examples=100, deadline=None)
def test_a_larger_alpha_proves_more(looks: list[Look], alpha: float, factor: float, bound: Bound) -> None:
    strict, loose = limits(looks, alpha, bound), limits(looks, alpha * factor, bound)
    assert loose.pA_lower >= strict.pA_lower
    assert loose.pB_upper <= strict.pB_upper


@given(counted(), st.sampled_from(ALPHAS), st.sampled_from(BOUNDS), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_best_look_counts_whatever_the_order(looks: list[Look], alpha: float, bound: Bound, random: Any) -> None:
    whole = limits(looks, alpha, bound)
    each = [limits([look], alpha, bound) for look in looks]
    assert whole.pA_lower == max(found.pA_lower for found in each)
    assert whole.pB_upper == min(found.pB_upper for found in each)
    assert limits(random.sample(looks, len(looks)), alpha, bound) == whole


@given(counted(), st.sampled_from(ALPHAS), st.sampled_from(BOUNDS))
@settings(max_examples=100, deadline=None)
def test_the_rivals_limit_is_never_worse_than_the_rest(looks: list[Look], alpha: float, bound: Bound) -> None:
    found = limits(looks, alpha, bound)
    assert 0.0 <= found.pA_lower <= 1.0
    assert 0.0 <= found.pB_upper <= min(1.0, step_up(1.0 - found.pA_lower))


@given(counted(), st.sampled_from(ALPHAS), st.sampled_from(BOUNDS), st.sampled_from([1e-15, 1e-9, 0.01, 0.7]))
@settings(max_examples=150, deadline=None)
def test_slack_is_taken_off_both(looks: list[Look], alpha: float, bound: Bound, slack: float) -> None:
    plain, slacked = limits(looks, alpha, bound), limits(looks, alpha, bound, slack)
    least = max(Fraction(0), Fraction(plain.pA_lower) - Fraction(slack))
    most = min(Fraction(1), min(Fraction(plain.pB_upper), 1 - Fraction(plain.pA_lower)) + Fraction(slack))
    assert Fraction(slacked.pA_lower) <= least
    assert Fraction(slacked.pB_upper) >= most
    assert slacked.pA_lower == pytest.approx(float(least), abs=1e-15)
    assert slacked.pB_upper == pytest.approx(float(most), abs=1e-15)
