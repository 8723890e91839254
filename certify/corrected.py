"""A radius for a noise level that changes slowly with the input: what is left when the next input is answered under another level."""

from __future__ import annotations

import math
from functools import lru_cache

from scipy import optimize, special, stats

from certify.rounding import step_down, step_up
from certify.sampling.noise.gaussian import l2_radius
from certify.statistics.binomial import normal_quantile_lower

# SciPy's noncentral chi-square is accurate to about 1e-10 relative for up to 2e5 degrees of freedom and noncentralities of 1e10 (tests
# compare it with quadrature); probabilities must lie this far, relatively, on the safe side.
_MARGIN, _HALF_MARGIN = 1e-7, 1e-8
# Two levels that are float32 numbers may differ by this factor although sigma(x) does not.
_FLOAT32 = 2.5e-7
# A slower sigma(x) is taken for one that is this slow, per unit of distance / sigma: noncentralities stay below 2.5e9.
_SLOWEST = 1e-5
_SMALL = 400.0
# No level this many times another, by its logarithm, is looked at: nothing is claimed there.
_FAR = 5.0


def corrected_radius(sigma: float, pA_lower: float, dimension: int, semi_elasticity: float) -> float:
    """An open l2 ball around x in which g(x') = argmax_c P(f(x' + N(0, sigma(x')^2 I)) = c) is the top class of x; 0 when none is proved.

    Holds if the top class has at least `pA_lower` at x under sigma(x) and |log sigma(x) - log sigma(x')| <= semi_elasticity * ||x - x'||
    for all x', which is the user's to prove. For each x' the worst classifier that the votes at x allow is the Neyman-Pearson test of
    N(x, sigma(x)^2 I) against N(x', sigma(x')^2 I); the ball is one in which even that answers A with more than 1/2. Why it is enough to
    look at the two extreme levels at its surface: docs/instance.md.

    Args:
        sigma: level at x, raw-input units.
        pA_lower: lower bound of the top class's probability.
        dimension: elements of an input.
        semi_elasticity: per unit of l2 distance in raw-input units; 0 for a constant level.

    Returns:
        Rounded down; never above the radius of a constant level.

    Source: Sukenik, Kuvshinov & Guennemann 2022, "Intriguing properties of input-dependent randomized smoothing"; derived again there.
    """
    plain = l2_radius(sigma, pA_lower, step_up(1.0 - pA_lower))
    if semi_elasticity == 0.0 or plain <= 0.0:
        return plain
    reach = _reach(pA_lower, dimension, semi_elasticity * sigma * (1.0 + _FLOAT32))
    return max(0.0, min(plain, step_down(reach * sigma, 2)))


def admissible_ratios(pA_lower: float, dimension: int) -> tuple[float, float]:
    """Factors between which sigma(x') / sigma(x) must lie: outside nothing is certified, however near x' is. To four digits, narrowed.

    Args:
        pA_lower: lower bound of the top class's probability, above 1/2.
        dimension: elements of an input.
    """
    tail, median = step_up(1.0 - pA_lower), stats.chi2.median(dimension)
    low, high = (math.sqrt(edge / median) for edge in (stats.chi2.ppf(tail, dimension), stats.chi2.isf(tail, dimension)))
    return min(1.0, math.ceil(low * 1e4) / 1e4), max(1.0, math.floor(high * 1e4) / 1e4)


def worst_share(distance: float, ratio: float, pA: float, dimension: int) -> float:
    """The most votes that other classes may have at a distance, under a level `ratio` times that of x, when A has pA at x.

    To float64 accuracy, not rounded to a side.

    Args:
        distance: l2, in units of sigma(x).
        ratio: sigma(x') / sigma(x).
        pA: probability of the top class at x.
        dimension: elements of an input.
    """
    if ratio == 1.0:
        return float(special.ndtr(distance - special.ndtri(pA)))
    here, there = _noncentralities(distance, math.log(ratio))
    if ratio < 1.0:
        return float(stats.ncx2.cdf(stats.ncx2.ppf(1.0 - pA, dimension, here) / ratio**2, dimension, there))
    return float(stats.ncx2.sf(stats.ncx2.isf(1.0 - pA, dimension, here) / ratio**2, dimension, there))


@lru_cache(maxsize=4096)
def _reach(pA: float, dimension: int, elasticity: float) -> float:
    """The radius in units of sigma(x): a point at which both extreme levels are safe, near the last one."""
    tail = step_up(1.0 - pA)

    def spare(distance: float) -> float:
        slack = elasticity * distance + _FLOAT32
        return min(_spare(distance, sign * max(slack, _SLOWEST * distance), tail, dimension) for sign in (-1, 1))

    far, near = normal_quantile_lower(pA), 0.0
    if spare(far) > 0.0:
        return far  # the margins are coarser than what the slow level costs; the caller takes the smaller
    near = far
    while spare(near) <= 0.0:
        far, near = near, near / 2
        if near < 1e-9:
            return 0.0
    found = optimize.brentq(spare, near, far, xtol=1e-7 * near, rtol=1e-9)
    step = 1e-9
    while spare(found) <= 0.0:
        found, step = max(near, found - step * far), step * 2
    return float(found)


def _spare(distance: float, log_ratio: float, tail: float, dimension: int) -> float:
    """Positive only if no region with at most `tail` of the votes at x can have half of them at that distance under that level.

    The regions that gain most on the way are balls (the level falls) or what is outside of one (it rises). The one that has half of the
    votes there, or a little less, must have more than `tail` here.
    """
    if abs(log_ratio) > _FAR:
        return -1.0
    here, there = _noncentralities(distance, log_ratio)
    scale = math.exp(2.0 * log_ratio)
    if log_ratio < 0.0:
        edge = _median(dimension, there, -1)
        share = float(stats.ncx2.cdf(edge * scale, dimension, here))
    else:
        edge = _median(dimension, there, +1)
        share = float(stats.ncx2.sf(edge * scale, dimension, here))
    return share / (tail * (1.0 + _MARGIN)) - 1.0


def _noncentralities(distance: float, log_ratio: float) -> tuple[float, float]:
    """Of the squared distance to the region's centre: seen from x, and from x' in units of its own level."""
    apart = abs(math.expm1(2.0 * log_ratio))
    return (distance / apart) ** 2, (distance * math.exp(log_ratio) / apart) ** 2


def _median(dimension: int, noncentrality: float, side: int) -> float:
    """A little below (side -1) or above (+1) the median of the noncentral chi-square law, checked on its distribution function."""
    spread = math.sqrt(2.0 * (dimension + 2.0 * noncentrality))
    value = dimension + noncentrality - 0.67
    if dimension + noncentrality < _SMALL:
        value = float(stats.ncx2.ppf(0.5, dimension, noncentrality))
    else:  # nearly normal: a few steps of Newton's, far quicker than a search
        for _ in range(4):
            value -= (float(stats.ncx2.cdf(value, dimension, noncentrality)) - 0.5) * spread * math.sqrt(2.0 * math.pi)
    step = spread * _HALF_MARGIN
    while side * (float(stats.ncx2.cdf(value, dimension, noncentrality)) - 0.5) < 0.5 * _HALF_MARGIN:
        value, step = max(0.0, value + side * step), step * 2
    return value
