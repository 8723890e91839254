"""Exact confidence limits for a binomial share, rounded to the safe side."""

from __future__ import annotations

from scipy import special

from certify.errors import Problem, SpecError
from certify.rounding import step_down, step_up

# SciPy's incomplete beta function is accurate to about 1e-13 relative for n up to 1e7 (tests compare it with exact rationals and
# 60-digit arithmetic). The tail is required to stay this factor below alpha, so that an error of that size cannot matter.
_TAIL_MARGIN = 1.0 - 1e-11
_FIRST_STEP = 1e-15


def lower_limit(successes: int, trials: int, alpha: float) -> float:
    """A number that is at most p with probability at least 1 - alpha over the trials.

    Holds for every p; no normal approximation. The float64 quantile is only a first guess: it is lowered until the binomial
    tail P(X >= successes) at the returned value is at most alpha.

    Args:
        successes: count of wins, 0 <= successes <= trials.
        trials: number of independent draws, >= 1.
        alpha: failure probability, dimensionless, 0 < alpha < 1.

    Returns:
        One-sided lower Clopper-Pearson limit for p, in [0, 1].

    Raises:
        SpecError: an argument is outside its range (the field is named).

    Source: Clopper & Pearson 1934; used as LowerConfBound in Cohen, Rosenfeld & Kolter 2019, section 3.2.2.
    """
    _check(successes, trials, alpha)
    if successes == 0:
        return 0.0
    # P(Bin(n, p) >= k) = I_p(k, n - k + 1)
    guess = float(special.betaincinv(successes, trials - successes + 1, alpha))
    value, step = min(max(guess, 0.0), 1.0), _FIRST_STEP
    while value > 0.0 and not special.betainc(successes, trials - successes + 1, value) <= alpha * _TAIL_MARGIN:
        value = max(0.0, min(step_down(value), value * (1.0 - step)))
        step *= 2.0
    return value


def upper_limit(successes: int, trials: int, alpha: float) -> float:
    """A number that is at least p with probability at least 1 - alpha over the trials.

    The mirror image of `lower_limit`: one minus the lower limit of the failures, rounded up.
    """
    return min(1.0, step_up(1.0 - lower_limit(trials - successes, trials, alpha)))


def normal_quantile_lower(p: float) -> float:
    """A number at most Phi^-1(p), Phi the standard normal distribution function.

    The float64 quantile is lowered until Phi at the returned value is at most p.

    Args:
        p: probability, 0 < p < 1.
    """
    if not 0.0 < p < 1.0:
        raise SpecError(Problem(field="p", detail=f"must lie strictly between 0 and 1, got {p}"))
    value, step = float(special.ndtri(p)), _FIRST_STEP
    while not _phi_at_most(value, p):
        value -= step * max(abs(value), 1.0)
        step *= 2.0
    return value


def _phi_at_most(value: float, p: float) -> bool:
    if p <= 0.5:
        return bool(special.ndtr(value) <= p * _TAIL_MARGIN)
    # Above one half compare the upper tails: 1 - p is exact there (Sterbenz), and the tail keeps its relative accuracy.
    return bool(special.ndtr(-value) * _TAIL_MARGIN >= 1.0 - p)


def _check(successes: int, trials: int, alpha: float) -> None:
    if trials < 1:
        raise SpecError(Problem(field="trials", detail=f"must be at least 1, got {trials}"))
    if not 0 <= successes <= trials:
        raise SpecError(Problem(field="successes", detail=f"must lie in [0, {trials}], got {successes}"))
    if not 0.0 < alpha < 1.0:
        raise SpecError(Problem(field="alpha", detail=f"must lie strictly between 0 and 1, got {alpha}"))
