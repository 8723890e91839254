"""When to look and what each look costs: nothing is spent twice."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from certify.looks import FACTOR, FIRST, LAST_SHARE, default_looks, shares

# As many looks as a spec may have.
MOST = 200


def test_shares_add_to_at_most_one_exactly() -> None:
    for looks in range(1, MOST + 1):
        spent = shares(looks)
        assert len(spent) == looks
        assert all(share > 0 for share in spent)
        assert looks == 1 or spent[-1] == LAST_SHARE
        assert 1 - Fraction(1, 2**40) <= sum(map(Fraction, spent)) <= 1, looks


@given(st.integers(1, 10_000_000) | st.integers(1, 300))
@settings(max_examples=500, deadline=None)
def test_looks_ascend_and_end_at_n(n: int) -> None:
    looks = default_looks(n)
    assert looks[-1] == n
    assert 1 <= len(looks) <= MOST
    assert all(a < b for a, b in pairwise(looks))
    assert looks[0] == FIRST or looks == (n,)
    # Steps are FACTOR, rounded up; the last one is neither tiny nor much larger.
    nearly = (1 + FACTOR) / 2
    assert all(FACTOR * a <= b < FACTOR * a + 1 for a, b in pairwise(looks[:-1]))
    assert all(nearly * a < b <= nearly * (FACTOR * a + 1) for a, b in pairwise(looks[-2:]))


def test_small_runs_look_once() -> None:
    assert default_looks(1) == (1,)
    assert default_looks(FIRST) == (FIRST,)
    assert shares(1) == (1.0,)
