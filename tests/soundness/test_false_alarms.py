"""A gate that cries wolf is switched off: unchanged nights are flagged at most as often as the level says, and a real drop is seen.

Every procedure that is wrong on purpose must fail the same test.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from certify.gates import Judgement, Night, judge
from certify.mcnemar import p_value
from certify.statistics.binomial import lower_limit
from tests.support.pairs import SMOOTHING, changed, interval, no_drop, rules, side, spec

Array = np.ndarray[Any, Any]
# Does this many lost and gained, of so many certified then and now of 500, count as a drop?
Test = Callable[[int, int, int, int], bool]
EXAMPLES, NIGHTS, YEAR = 500, 1000, 365
remembered = functools.lru_cache(maxsize=2**18)(p_value)


def exact(level: Fraction) -> Test:
    return lambda lost, gained, then, now: remembered(lost, gained) <= level


def strict(level: Fraction) -> Test:
    """Counts more losses than were seen: P(B > lost) in place of P(B >= lost)."""
    return lambda lost, gained, then, now: (
        remembered(lost, gained) - Fraction(math.comb(lost + gained, lost), 2 ** (lost + gained)) <= level
    )


def unpaired(level: Fraction) -> Test:
    """Two shares compared as if different examples had been asked on the two nights."""

    def z_test(lost: int, gained: int, then: int, now: int) -> bool:
        pooled = (then + now) / (2 * EXAMPLES)
        z = (then - now) / EXAMPLES / math.sqrt(max(2 * pooled * (1 - pooled) / EXAMPLES, 1e-12))
        return math.erfc(z / math.sqrt(2)) / 2 <= level

    return z_test


def keeps(flags: int, trials: int, level: Fraction) -> bool:
    """False when the 99.99 % lower limit of the observed rate exceeds the level."""
    return lower_limit(flags, trials, 1e-4) <= level


def noisy_nights(nights: int, seed: int, wavering: int = 60) -> Array:
    """The same model under fresh noise each night, (nights, EXAMPLES): most examples are clear, `wavering` of them are near the limit."""
    draws = np.random.default_rng(seed)
    certain = draws.random(EXAMPLES - wavering) < 0.6
    chance = np.concatenate([draws.uniform(0.1, 0.9, wavering), certain.astype(float)])
    return np.asarray(draws.random((nights, EXAMPLES)) < chance)


def flagged(nights: Array, test: Test) -> Array:
    """For each night but the first, whether the test sees a drop against the night before."""
    then, now = nights[:-1], nights[1:]
    counts = [(then & ~now).sum(1), (~then & now).sum(1), then.sum(1), now.sum(1)]
    return np.array([test(*(int(c) for c in row)) for row in zip(*counts, strict=True)])


def test_a_planted_drop_is_flagged_at_one_per_cent() -> None:
    then, now = changed(20, 5, kept=285, never=190)
    assert len(then) == EXAMPLES
    found = judge(rules(no_drop(level_per_night=0.01)), side(now), {"previous": side(then)}, interval=interval, night=Night(per_year=YEAR))
    assert found.judgement is Judgement.FAIL
    assert not unpaired(Fraction(1, 100))(20, 5, sum(then), sum(now))  # the same drop is invisible to a test that forgets the pairs
    mirrored = judge(rules(no_drop()), side(then), {"previous": side(now)}, interval=interval)
    assert mirrored.judgement is Judgement.PASS


@pytest.mark.parametrize("rule", [no_drop(level_per_night=0.01), no_drop(level_per_night=0.1), no_drop(level_per_year=0.5)])
def test_a_thousand_unchanged_nights_stay_within_the_level(rule: dict[str, Any]) -> None:
    night = Night(per_year=YEAR)
    gate, level = rules(rule), rules(rule).rules[0].level(YEAR)  # type: ignore[union-attr]
    before, flags = None, []
    for column in noisy_nights(NIGHTS + 1, seed=1).tolist():
        run = side(column)
        if before is not None:
            flags.append(judge(gate, run, {"previous": before}, interval=lambda k, n: (0.0, 1.0), night=night).judgement)
        before = run
    assert set(flags) <= {Judgement.PASS, Judgement.FAIL}
    failed = np.array([flag is Judgement.FAIL for flag in flags])
    # Neighbouring comparisons share a night; every second one does not, so each half is a sample of independent ones.
    for half in (failed[::2], failed[1::2]):
        assert keeps(int(half.sum()), NIGHTS // 2, level)
    assert level < Fraction(1, 20) or failed.sum() > 20  # at a level of ten per cent a test that never flags would be broken


def test_certificates_that_were_reused_are_never_flagged() -> None:
    for column in noisy_nights(20, seed=2).tolist():
        found = judge(rules(no_drop(level_per_night=0.5)), side(column), {"previous": side(column)}, interval=interval)
        assert found.judgement is Judgement.PASS
        assert found.checks[0].numbers["p_value"] == 1.0


@pytest.mark.parametrize("rate", [0.005, 0.05, 0.2])
def test_two_models_that_are_equally_good_are_flagged_within_the_level(rate: float) -> None:
    draws, level = np.random.default_rng(3), Fraction(1, 100)
    test, flags, trials = exact(level), 0, 20_000
    for lost, gained, _, _ in draws.multinomial(EXAMPLES, [rate, rate, 0.5, 0.5 - 2 * rate], size=trials):
        flags += test(int(lost), int(gained), 0, 0)
    assert keeps(flags, trials, level)


def test_the_level_of_a_year_holds_for_years() -> None:
    rule = rules(no_drop(level_per_year=0.05)).rules[0]
    nightly = rule.level(YEAR)  # type: ignore[union-attr]
    assert nightly * YEAR == Fraction(1, 20)
    years = 300
    whole = [flagged(noisy_nights(YEAR + 1, seed=100 + year), exact(nightly)).any() for year in range(years)]
    assert keeps(sum(map(bool, whole)), years, Fraction(1, 20))


def test_years_judged_at_the_level_of_a_night_do_not_keep_it() -> None:
    whole = [flagged(noisy_nights(YEAR + 1, seed=500 + year), exact(Fraction(1, 100))).any() for year in range(60)]
    assert not keeps(sum(map(bool, whole)), 60, Fraction(1, 20))


def test_a_test_that_leaves_out_equality_does_not_keep_its_level() -> None:
    level, flags = Fraction(1, 100), {exact: 0, strict: 0}
    for make in flags:
        for seed in range(12):
            flags[make] += int(flagged(noisy_nights(NIGHTS, seed=1000 + seed), make(level))[::2].sum())
    assert keeps(flags[exact], 6 * NIGHTS, level)
    assert not keeps(flags[strict], 6 * NIGHTS, level)


def test_radii_that_are_each_judged_at_the_whole_level_do_not_keep_it() -> None:
    """Two certifiers with noise of their own: the gate shares the level between them; without that it flags nearly twice as often."""
    asked, gate, level = spec(SMOOTHING, {**SMOOTHING, "sigma": 0.5}), rules(no_drop(level_per_night=0.3)), Fraction(3, 10)
    shared = 0
    pairs = [noisy_nights(2 * 300, seed=s) for s in (21, 22)]
    for i in range(0, 600, 2):
        before, run = (side(pairs[0][i + k].tolist(), pairs[1][i + k].tolist(), asked=asked) for k in (0, 1))
        shared += judge(gate, run, {"previous": before}, interval=lambda k, n: (0.0, 1.0)).judgement is Judgement.FAIL
    each = [flagged(one, exact(level))[::2] for one in pairs]
    assert keeps(shared, 300, level)
    assert not keeps(int((each[0] | each[1]).sum()), 300, level)
