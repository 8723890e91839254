"""The exact test against SciPy's and against counting."""

from __future__ import annotations

import time
from fractions import Fraction
from math import comb

import pytest
from scipy.stats import binomtest

from certify.mcnemar import p_value


def test_every_small_case_is_the_count_of_outcomes() -> None:
    for changed in range(41):
        for lost in range(changed + 1):
            outcomes = sum(comb(changed, wins) for wins in range(lost, changed + 1))
            assert p_value(lost, changed - lost) == Fraction(outcomes, 2**changed), (lost, changed)


@pytest.mark.parametrize(("lost", "gained"), [(20, 5), (1, 0), (0, 1), (137, 101), (1000, 900), (900, 1000), (5100, 4900), (300, 20)])
def test_large_cases_agree_with_scipy(lost: int, gained: int) -> None:
    expected = binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue
    assert float(p_value(lost, gained)) == pytest.approx(expected, rel=1e-10)


def test_it_falls_with_each_loss_and_rises_with_each_gain() -> None:
    for lost in range(12):
        for gained in range(12):
            assert p_value(lost + 1, gained) < p_value(lost, gained) <= p_value(lost, gained + 1)
    assert p_value(0, 0) == 1


def test_a_hundred_thousand_changes_take_no_time_to_speak_of() -> None:
    started = time.process_time()
    below, above = p_value(50_500, 49_500), p_value(49_500, 50_500)
    assert time.process_time() - started < 20.0  # an hour if every term were a fresh binomial coefficient; two seconds as it is
    # Losses above one half mirror losses below it: P(B >= b) + P(B >= n - b + 1) = 1.
    assert below + p_value(49_501, 50_499) == 1
    assert 0 < below < Fraction(1, 1000) < Fraction(999, 1000) < above < 1
