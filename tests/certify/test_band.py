"""The simultaneous band covers the whole curve as often as it says; missing answers widen it and never tell against the model."""

from __future__ import annotations

import numpy as np
import pytest

from certify.certificate import Certificate
from certify.curves import Share, curve, report
from certify.exit_codes import Exit, Requirement, check_gates
from certify.spec import parse_spec
from certify.statement import Statement
from certify.statistics.band import half_width
from certify.statistics.binomial import lower_limit
from certify.verdict import Verdict
from tests.certify.test_exit_codes import SEARCH, certificate

SPEC = parse_spec({"certifiers": [SEARCH]})


def covered(radii: np.ndarray, true_share: np.ndarray, support: np.ndarray) -> tuple[bool, bool]:
    """Whether the simultaneous band, and whether the pointwise intervals, hold at every point where the curve may step."""
    proved = sorted(float(radius) for radius in radii if radius >= 0)
    share = Share(len(radii))
    points = [*curve(proved, share), share.point(1e9, 0)]
    together = pointwise = True
    for radius, truth in zip(support, true_share, strict=True):
        point = next(one for one in points if one.radius >= radius)
        assert point.low_simultaneous is not None
        assert point.high_simultaneous is not None
        together &= point.low_simultaneous <= truth <= point.high_simultaneous
        pointwise &= point.low <= truth <= point.high
    return together, pointwise


def coverage(runs: int, count: int, levels: int) -> tuple[int, int]:
    """How many of so many runs each band covered. Radii are whole numbers or none: with ties, as decided rows have."""
    rng = np.random.default_rng(7)
    support = np.arange(levels, dtype=np.float64)
    weights = np.r_[0.2, np.full(levels, 0.8 / levels)]
    true_share = 1 - np.cumsum(weights)[:-1]
    both = [covered(rng.choice(np.r_[-1, support], count, p=weights), true_share, support) for _ in range(runs)]
    return sum(one for one, _ in both), sum(other for _, other in both)


def test_the_band_covers_the_whole_curve_and_pointwise_intervals_do_not() -> None:
    together, pointwise = coverage(runs=200, count=60, levels=30)
    assert lower_limit(200 - together, 200, 1e-4) <= 0.05
    assert lower_limit(200 - pointwise, 200, 1e-4) > 0.05, "or this test could not tell the two apart"


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 100, 1000])
def test_the_band_keeps_its_level(count: int) -> None:
    together, pointwise = coverage(runs=4000, count=count, levels=200)
    assert lower_limit(4000 - together, 4000, 1e-4) <= 0.05
    assert lower_limit(4000 - pointwise, 4000, 1e-4) > 0.05


def test_the_width_is_massarts() -> None:
    """2 exp(-2 n e^2) = 0.05 at n = 100: e = 0.13581 (tables of the Kolmogorov-Smirnov limit have 1.3581 / sqrt(n))."""
    assert half_width(100, 0.05) == pytest.approx(0.135810, abs=1e-6)
    assert 2 * np.exp(-2 * 100 * half_width(100, 0.05) ** 2) <= 0.05
    assert half_width(1, 0.05) == 1.0


def rows(*verdicts: Verdict) -> list[Certificate]:
    found = []
    for example, verdict in enumerate(verdicts):
        certified = verdict is Verdict.CERTIFIED
        one = certificate(verdict, radius=0.5 if certified else 0.0, correct=certified)
        found.append(one.model_copy(update={"example": example}))
    return found


def test_an_error_is_no_wrong_answer() -> None:
    """Two errors and a timeout of ten: six of the seven answers are right; what is missing lowers low ends and raises high ones."""
    ends = [Verdict.CERTIFIED] * 6 + [Verdict.UNKNOWN, Verdict.ERROR, Verdict.ERROR, Verdict.TIMEOUT]
    [made] = report(rows(*ends), SPEC).certifiers
    assert (made.correct, made.answered, made.clean_accuracy) == (6, 7, 6 / 7)
    assert made.correct_words == "6 of 7 (85.7 %); 2 errors, 1 timeout"
    [_, point] = made.curve
    without, all_held = Share(10).point(0.5, 6), Share(10).point(0.5, 9)
    assert (point.certified_accuracy, point.low, point.low_simultaneous) == (0.6, without.low, without.low_simultaneous)
    assert (point.high, point.high_simultaneous) == (all_held.high, all_held.high_simultaneous)
    assert made.at(0.6) == Share(10, 3).point(0.6, 0)


@pytest.mark.parametrize(
    ("share", "code", "verb"), [(0.6, Exit.DONE, "meets"), (0.7, Exit.UNKNOWN, "leaves open"), (0.95, Exit.REFUTED, "misses")]
)
def test_a_gate_that_errors_could_decide_is_left_open(share: float, code: Exit, verb: str) -> None:
    ends = [Verdict.CERTIFIED] * 6 + [Verdict.UNKNOWN, Verdict.ERROR, Verdict.ERROR, Verdict.TIMEOUT]
    [gate] = check_gates([Requirement(share, 0.5)], rows(*ends))
    assert gate.code is code
    assert f"{verb} the gate: certified accuracy 60.0 % to 90.0 % at radius 0.5 (6 of 10, 3 without an answer)" in gate.sentence


def test_rows_that_depend_on_each_other_have_no_simultaneous_band() -> None:
    held = [row.model_copy(update={"statement": Statement.parse("S2-memory")}) for row in rows(Verdict.CERTIFIED, Verdict.UNKNOWN)]
    [made] = report(held, SPEC).certifiers
    assert all(point.low_simultaneous is None for point in made.curve)
    assert "Rows depend on those before them" in made.note


def test_a_part_of_a_run_is_not_called_all_examples() -> None:
    [part] = report(rows(Verdict.CERTIFIED, Verdict.UNKNOWN), SPEC, asked=5).certifiers
    [whole] = report(rows(Verdict.CERTIFIED, Verdict.UNKNOWN), SPEC, asked=2).certifiers
    assert part.basis == "the 2 rows that were answered, of 5 examples"
    assert whole.basis == "all 2 examples"
