"""Rounding that never says more than was proved, for numbers that are stored and for numbers that are shown."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction


def step_down(value: float, steps: int = 1) -> float:
    """The float64 `steps` places below `value`: covers the last-place error of one elementary operation a step."""
    for _ in range(steps):
        value = math.nextafter(value, -math.inf)
    return value


def step_up(value: float, steps: int = 1) -> float:
    """The float64 `steps` places above `value`."""
    return -step_down(-value, steps)


def radius_down(value: float) -> float:
    """A radius to store: at most `value`, never negative, never NaN (NaN proves nothing, so it becomes 0).

    Two places in the last digit are given away, more than the error of the multiplication that made the radius.
    """
    if not value > 0.0:
        return 0.0
    if math.isinf(value):
        raise ValueError("an infinite radius is no certificate")
    return max(0.0, step_down(value, 2))


def beyond(radius: float) -> float:
    """A radius to verify, so that `radius_down` of it still covers `radius`: two places for what is given away, two to spare."""
    return step_up(radius, 4)


def show_radius(radius: float, digits: int = 4, *, at_least: bool = False) -> str:
    """A radius as text with `digits` decimals, cut toward zero so that it never shows more than was certified.

    One that would be cut to zero is shown with three significant digits instead. `at_least` marks a radius that stopped at the cap of
    its search.
    """
    exact = Decimal(radius)
    small = 0 < exact < Decimal(1).scaleb(-digits)
    shown = exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2 if small else -digits), rounding=ROUND_FLOOR)
    text = f"{shown:.2e}" if small else str(shown)
    return f">= {text}" if at_least else text


def show_given(radius: float) -> str:
    """A radius that somebody gave, as text: the shortest decimal that reads back as the same float64. Nothing is rounded.

    What is said "at radius 0.25" is said of 0.25 and of no smaller one: 0.24999989 keeps all its digits.
    """
    return repr(float(radius)).removesuffix(".0")


def show_distance_upper(distance: float, digits: int = 4) -> str:
    """A distance at which an attack succeeded, as text rounded up: it never shows less than was found."""
    return str(Decimal(distance).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING))


def show_upper(value: float | Fraction, digits: int = 6) -> str:
    """An upper bound as text with so many significant digits, rounded up: it never shows less than was proved."""
    exact = _quotient_up(value) if isinstance(value, Fraction) else Decimal(value)
    if not exact:
        return "0"
    shown = exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=ROUND_CEILING)
    if not -4 <= shown.adjusted() < digits:
        return f"{shown:.{digits - 1}e}"
    text = f"{shown:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _quotient_up(value: Fraction) -> Decimal:
    with localcontext(prec=40, rounding=ROUND_CEILING):
        return Decimal(value.numerator) / Decimal(value.denominator)


def show_share_upper(share: float, digits: int = 1) -> str:
    """An upper limit of a share as a percentage, rounded up: nothing lies above what is shown."""
    return f"{(Decimal(repr(share)) * 100).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING)} %"


def show_given_share(share: float) -> str:
    """A share that somebody gave, as a percentage with all its digits, at least one decimal."""
    percent = (Decimal(repr(share)) * 100).normalize()
    tenths = percent.quantize(Decimal("0.1"))
    return f"{tenths if tenths == percent else percent:f} %"


def show_share(share: float, digits: int = 1) -> str:
    """A certified accuracy as a percentage, cut toward zero; the share's shortest decimal is taken, so that 3 of 10 is 30.0 %."""
    return f"{(Decimal(repr(share)) * 100).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR)} %"
