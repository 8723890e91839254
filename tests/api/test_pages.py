"""Curves and pages never show more than was certified."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from api.pages.render import table
from api.pages.svg import Series, chart
from certify.curves import Share, curve
from certify.norms import Norm
from certify.report import CertifierReport
from certify.rounding import radius_down, show_distance_upper, show_radius, show_share, show_upper, step_down, step_up
from certify.statement import Statement
from certify.verdict import Verdict

radii = st.lists(st.floats(1e-6, 10, allow_nan=False), max_size=30).map(sorted)


def report(proved: list[float]) -> CertifierReport:
    return CertifierReport(
        certifier=0, kind="bounds",
        statement=Statement.parse("real-arithmetic"), norm=Norm.L2, alpha=None, method="crown", sigma=None, examples=40,
        correct=30, verdicts={Verdict.CERTIFIED: len(proved)}, clean_accuracy=0.75,
        curve=tuple(curve(proved, Share(40))), median_radius=0.0,
        average_radius=0.0, largest_radius=max(proved, default=0.0), at_cap=0, note="",
    )  # fmt: skip


@given(radii)
def test_the_table_shows_the_exact_share_at_the_shown_radius(proved: list[float]) -> None:
    for radius, share, _, _ in table(report(proved)):
        exact = sum(r >= float(radius) for r in proved) / 40
        assert share == show_share(exact)


@given(radii)
def test_a_curve_falls_and_its_band_holds_it(proved: list[float]) -> None:
    points = curve(proved, Share(40))
    shares = [p.certified_accuracy for p in points]
    assert shares == sorted(shares, reverse=True)
    assert all(p.low <= p.certified_accuracy <= p.high for p in points)
    assert chart([Series("a & b", points)], "l2").startswith("<svg")


@given(st.floats(0, 1e6, allow_nan=False), st.integers(0, 8))
def test_shown_radii_never_exceed_the_exact_ones(radius: float, digits: int) -> None:
    assert Decimal(show_radius(radius, digits)) <= Decimal(radius)
    assert Decimal(show_distance_upper(radius, digits)) >= Decimal(radius)


@given(st.floats(1e-300, 1e6))
def test_stored_radii_are_below_what_was_computed(radius: float) -> None:
    assert 0.0 <= radius_down(radius) < radius
    assert step_down(radius) < radius < step_up(radius)


def test_nan_and_negative_radii_become_zero() -> None:
    assert radius_down(float("nan")) == radius_down(-1.0) == radius_down(0.0) == 0.0


@given(st.floats(1e-300, 1e6), st.integers(0, 8))
def test_a_proved_radius_is_never_shown_as_zero(radius: float, digits: int) -> None:
    shown = Decimal(show_radius(radius, digits))
    assert 0 < shown <= Decimal(radius)
    assert shown >= Decimal(radius) / 2


@given(st.floats(1e-300, 1e15), st.integers(2, 8))
def test_upper_bounds_are_shown_rounded_up(bound: float, digits: int) -> None:
    shown = Decimal(show_upper(bound, digits))
    assert Decimal(bound) <= shown <= Decimal(bound) * (1 + Decimal(10) ** (1 - digits))
    assert show_upper(0.0) == "0"
