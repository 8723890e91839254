"""When an adaptive run has seen enough of an example. It only costs power when it is wrong: every look is paid for beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from certify.statistics.sequential import Bound

Array = np.ndarray[Any, Any]
# How often, at each look, an example may be given up that further samples would have decided.
_FUTILITY = 0.003


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """A rule for many examples at once.

    Args:
        looks: all sample counts at which the run may look, ascending.
        levels: the error level of each look.
        bound: as in `limits`.
        reach: radius by (pA, pB), arrays; need not be exact.
        radii: what is asked, or null for the largest radius.
        tolerance: without `radii`, how far below the best attainable radius one may stop, relative.
    """

    looks: Sequence[int]
    levels: Sequence[float]
    bound: Bound
    reach: Callable[[Array, Array], Array]
    radii: Sequence[float] | None
    tolerance: float

    def proved(self, look: int, top: Array, rival: Array) -> Array:
        """The radius that counts prove at a look, to float64 accuracy."""
        n, level = self.looks[look], self.levels[look]
        if self.bound == "one-sided":
            pA = _lower(top, n, level)
            return self.reach(pA, 1.0 - pA)
        pA = _lower(top, n, level / 2)
        return self.reach(pA, np.minimum(1.0 - pA, _upper(rival, n, level / 2)))

    def attainable(self, look: int, top: Array, rival: Array) -> Array:
        """What the last look will prove at best: every sample to come may vote for the top class, but no more often than is likely."""
        n, last = self.looks[look], self.looks[-1]
        best = np.minimum(top + (last - n), np.ceil(_upper(top, n, _FUTILITY) * last))
        worst = np.maximum(rival, np.floor(_lower(rival, n, _FUTILITY) * last))
        return self.proved(len(self.looks) - 1, best, worst)

    def settled(self, look: int, top: Array, rival: Array, proved: Array) -> Array:
        """Which examples need no more samples.

        Args:
            look: index of the look just taken.
            top: cumulative votes of the selected class, one entry for each example.
            rival: largest cumulative votes of another class.
            proved: the largest radius proved at any look so far.
        """
        if look == len(self.looks) - 1:
            return np.ones(len(top), dtype=bool)
        best = np.maximum(proved, self.attainable(look, top, rival))
        if self.radii is None:
            return (best <= 0.0) | (proved >= (1.0 - self.tolerance) * best)
        asked = np.asarray(self.radii)[:, None]
        # A little more than asked: the exact radius, computed at the end from the noise as drawn in float32, lies below this estimate.
        decided = (proved >= asked * (1 + 1e-6)) | (best < asked)
        return np.asarray(decided.all(axis=0))


def _lower(successes: Array, trials: int, level: float) -> Array:
    return np.where(successes > 0, special.betaincinv(np.maximum(successes, 1), trials - successes + 1, level), 0.0)


def _upper(successes: Array, trials: int, level: float) -> Array:
    below = np.minimum(successes, trials - 1)
    return np.where(successes < trials, special.betaincinv(below + 1, trials - below, 1.0 - level), 1.0)
