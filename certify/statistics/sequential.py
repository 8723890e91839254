"""Confidence limits from counts that were looked at several times, each look paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from certify.rounding import step_down, step_up
from certify.statistics.binomial import lower_limit, upper_limit

Bound = Literal["one-sided", "top-two"]


@dataclass(frozen=True)
class Look:
    """Cumulative counts at `n` estimation samples: votes of the selected class, most votes of any rival, and the share of alpha."""

    n: int
    top: int
    rival: int
    share: float


@dataclass(frozen=True)
class Limits:
    """pA_lower: at most the probability of the selected class; pB_upper: at least that of every other class."""

    pA_lower: float
    pB_upper: float


def limits(looks: Sequence[Look], alpha: float, bound: Bound, slack: float = 0.0) -> Limits:
    """Limits that hold together with probability at least 1 - alpha, whatever rule chose when to stop looking.

    Each look spends its own share of alpha on Clopper-Pearson limits of the cumulative counts, so by the union bound all looks hold at
    once and the best of them may be taken. `top-two` halves each look's level: half for pA, half for pB, whose limit is that of the
    *largest* rival count of the estimation sample. That count is at least the true runner-up's and the limit grows with it, so no union
    over rivals is needed; a runner-up picked from the selection sample would prove nothing.

    Args:
        looks: in any order; the sum of their shares, with those of looks not taken, is at most 1.
        alpha: failure probability of this certificate.
        bound: `one-sided` (pB = 1 - pA) or `top-two`.
        slack: total variation between the law that was sampled and that of the theorem; taken off pA_lower and added to pB_upper.

    Source: docs/statistics.md; Clopper & Pearson 1934.
    """
    part = 0.5 if bound == "top-two" else 1.0
    levels = [step_down(step_down(alpha * part) * look.share) for look in looks]
    lower = max(lower_limit(look.top, look.n, level) for look, level in zip(looks, levels, strict=True))
    lower = max(0.0, step_down(lower - slack)) if slack else lower
    upper = min(1.0, step_up(1.0 - lower))
    if bound == "top-two":
        rival = min(upper_limit(look.rival, look.n, level) for look, level in zip(looks, levels, strict=True))
        upper = min(upper, step_up(rival + slack) if slack else rival)
    return Limits(lower, upper)
