"""The largest radius that a verifier proves, in few calls. Only radii at which the full verification succeeded are ever returned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from certify.bounds.engine import MarginBound

MAX_CALLS = 80
# Below this share of the cap the search gives up: such a radius would be of no use and rounding would dominate it.
_SMALLEST = 1e-9


@dataclass(frozen=True)
class Found:
    """The largest verified radius, the bound that proved it, and whether it is the cap of the search."""

    radius: float
    bound: MarginBound
    at_cap: bool


def largest_radius(verify: Callable[[float], MarginBound], centre_margin: float, cap: float, tolerance: float) -> Found | None:
    """The largest radius in (0, cap] that `verify` proves, to a relative `tolerance`; null when none was proved.

    The verifier need not be monotone: whatever is returned was itself verified. Steps interpolate the margin (exact for a linear
    model), safeguarded by geometric bisection; the number of calls is bounded.

    Args:
        verify: the margin bound at a radius.
        centre_margin: the margin at radius 0.
        cap: the largest radius asked for.
        tolerance: stop when the bracket is narrower than this share of the radius.
    """
    bound = verify(cap)
    if bound.proved:
        return Found(cap, bound, True)
    return _narrow(verify, None, 0.0, centre_margin, cap, bound, tolerance)


def extend(verify: Callable[[float], MarginBound], start: Found, cap: float, tolerance: float) -> Found:
    """`start`, or a larger radius up to `cap` that `verify` proves: from where a cheaper method ended, in growing steps, then narrowed.

    Args:
        verify: the margin bound at a radius, by a tighter method.
        start: what a cheaper method proved.
        cap: the largest radius asked for.
        tolerance: as in `largest_radius`.
    """
    best, step = start, 4.0 * tolerance
    for _ in range(MAX_CALLS):
        radius = min(cap, best.radius * (1.0 + step))
        bound = verify(radius)
        if not bound.proved:
            margin = best.bound.lower - best.bound.tau if best is not start else math.nan
            return _narrow(verify, best, best.radius, margin, radius, bound, tolerance) or best
        best, step = Found(radius, bound, radius == cap), 2.0 * step
        if best.at_cap:
            break
    return best


def _narrow(
    verify: Callable[[float], MarginBound],
    best: Found | None,
    low: float,
    low_margin: float,
    high: float,
    failed: MarginBound,
    tolerance: float,
) -> Found | None:
    """The best radius between `low`, verified unless it is 0, and `high`, where `failed` was the answer."""
    high_margin, smallest = failed.lower - failed.tau, high * _SMALLEST
    for call in range(MAX_CALLS):
        if high - low <= tolerance * low or high <= smallest:
            break
        radius = _next(low, low_margin, high, high_margin, tolerance, interpolate=call % 3 != 2)
        bound = verify(radius)
        if bound.proved:
            best, low, low_margin = Found(radius, bound, False), radius, bound.lower - bound.tau
        else:
            high, high_margin = radius, bound.lower - bound.tau
    return best


def _next(low: float, low_margin: float, high: float, high_margin: float, tolerance: float, *, interpolate: bool) -> float:
    middle = math.sqrt(low * high) if low > 0 and high > 2 * low else (low + high) / 2 if low > 0 else high / 8
    if not interpolate or not math.isfinite(high_margin) or not low_margin > 0:
        return middle
    root = low + (high - low) * low_margin / (low_margin - high_margin)
    # Probe just inside the root; once the inside is known, just outside, so that the bracket closes from both ends.
    inside = root * (1 - tolerance / 4)
    guess = inside if inside > low else root * (1 + tolerance / 4)
    return guess if low < guess < high else middle
