"""A band around a whole curve of certified accuracy at once, for the population that the examples were drawn from."""

from __future__ import annotations

import math

from certify.rounding import step_down, step_up


def half_width(count: int, level: float) -> float:
    """A distance that an empirical distribution function keeps to the true one, everywhere at once, with probability at least 1 - level.

    Let R_1, ..., R_n be independent draws of one distribution, continuous or not, F its distribution function and F_n the empirical
    one. Then P(sup |F_n - F| > e) <= 2 exp(-2 n e^2) for every e > 0, so that e = sqrt(ln(2 / level) / (2 n)) will do.

    Args:
        count: number of draws n, >= 1.
        level: failure probability, 0 < level < 1.

    Returns:
        That e, rounded up; at most 1.

    Source: Dvoretzky, Kiefer and Wolfowitz 1956; with this constant, Massart 1990, "The tight constant in the
    Dvoretzky-Kiefer-Wolfowitz inequality", Corollary 1.
    """
    return min(1.0, step_up(math.sqrt(step_up(math.log(2.0 / level), 4) / (2.0 * count)), 4))


def simultaneous(wins: int, missing: int, count: int, level: float) -> tuple[float, float]:
    """The ends of the band at one radius; the whole curve lies within them with probability at least 1 - level.

    The curve is A(r) = P(a fresh example is proved correct at least to r), over the draw of the example and of its noise. With R the
    certified radius of a correct example and -1 where none is proved, 1 - A is the left limit of R's distribution function, which keeps
    the same distance as the function itself. Rows without an answer are taken for -1 in the low end and for infinity in the high one:
    the band covers A whatever their answers would have been.

    Args:
        wins: examples proved correct at least to the radius.
        missing: rows without an answer.
        count: all rows, each an independent draw.
        level: failure probability, 0 < level < 1.
    """
    width = half_width(count, level)
    low = step_down(wins / count - width, 2)
    high = step_up((wins + missing) / count + width, 2)
    return max(0.0, low), min(1.0, high)
