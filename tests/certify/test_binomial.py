"""Limits against exact rationals and against 60-digit arithmetic."""

from fractions import Fraction
from math import comb

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.errors import SpecError
from certify.statistics.binomial import lower_limit, normal_quantile_lower, upper_limit


def exact_tail(successes: int, trials: int, p: float) -> Fraction:
    """P(Bin(trials, p) >= successes), exactly, for the float64 p."""
    share = Fraction(p)
    return sum((comb(trials, i) * share**i * (1 - share) ** (trials - i) for i in range(successes, trials + 1)), Fraction(0))


@given(st.integers(1, 40), st.data(), st.sampled_from([0.3, 0.05, 0.001, 1e-6, 1e-10]))
@settings(max_examples=150, deadline=None)
def test_lower_limit_never_exceeds_the_exact_one_and_wastes_nothing(trials: int, data: st.DataObject, alpha: float) -> None:
    successes = data.draw(st.integers(0, trials))
    lower = lower_limit(successes, trials, alpha)
    if successes == 0:
        assert lower == 0.0
        return
    assert exact_tail(successes, trials, lower) <= Fraction(alpha)
    assert exact_tail(successes, trials, min(1.0, lower * (1 + 1e-8))) > Fraction(alpha)


@pytest.mark.parametrize("trials", [100_000, 10_000_000])
@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-10])
@pytest.mark.parametrize("failures", [0, 1, 7, 4321])
def test_lower_limit_holds_for_large_counts(trials: int, alpha: float, failures: int) -> None:
    lower = lower_limit(trials - failures, trials, alpha)
    with mpmath.workdps(60):
        q = 1 - mpmath.mpf(lower)
        tail = sum(mpmath.binomial(trials, i) * q**i * (1 - q) ** (trials - i) for i in range(failures + 1))
        assert tail <= mpmath.mpf(alpha)
        assert tail >= mpmath.mpf(alpha) * (1 - mpmath.mpf("1e-6"))


def test_unanimous_votes_give_the_known_saturation() -> None:
    # sigma * Phi^-1(alpha^(1/n)) at n = 100000, alpha = .001, known from published logs: 3.8115 sigma
    assert normal_quantile_lower(lower_limit(100_000, 100_000, 0.001)) == pytest.approx(3.8115, abs=1e-4)


@given(st.integers(1, 1000), st.data(), st.sampled_from([0.05, 0.001]))
def test_upper_limit_mirrors_the_lower(trials: int, data: st.DataObject, alpha: float) -> None:
    successes = data.draw(st.integers(0, trials))
    upper = upper_limit(successes, trials, alpha)
    assert upper >= 1 - lower_limit(trials - successes, trials, alpha)
    assert upper == pytest.approx(1 - lower_limit(trials - successes, trials, alpha), abs=1e-15)


@given(st.floats(1e-12, 1 - 1e-12))
@settings(max_examples=200, deadline=None)
def test_quantile_never_exceeds_the_exact_one(p: float) -> None:
    value = normal_quantile_lower(p)
    with mpmath.workdps(50):
        assert mpmath.ncdf(mpmath.mpf(value)) <= mpmath.mpf(p)
        assert mpmath.ncdf(mpmath.mpf(value) + mpmath.mpf("1e-9")) > mpmath.mpf(p)


@pytest.mark.parametrize(
    ("successes", "trials", "alpha", "field"), [(-1, 5, 0.1, "successes"), (1, 0, 0.1, "trials"), (1, 5, 0.0, "alpha")]
)
def test_bad_arguments_are_named(successes: int, trials: int, alpha: float, field: str) -> None:
    with pytest.raises(SpecError) as error:
        lower_limit(successes, trials, alpha)
    assert error.value.problems[0].field == field
