"""When an adaptive run looks at its counts, and what each look costs: fixed before the first sample is drawn."""

from __future__ import annotations

import math

# Chosen by simulation (`scripts/bench samples`): a finer grid overshoots less but splits alpha further and packs batches worse.
FIRST, FACTOR, LAST_SHARE = 64, 1.4, 0.5


def default_looks(n: int) -> tuple[int, ...]:
    """Sample counts of the looks, growing geometrically, the last one at `n`."""
    looks, size = [], FIRST
    while size * (1 + FACTOR) / 2 < n:  # the last step is never a tiny one
        looks.append(size)
        size = math.ceil(size * FACTOR)
    return (*looks, n)


def shares(looks: int) -> tuple[float, ...]:
    """The share of alpha that each look may spend; they add up to at most 1.

    Half stays for the last look, so that a run to the end pays little for having looked; the others share the rest evenly.
    """
    if looks == 1:
        return (1.0,)
    early = math.nextafter((1.0 - LAST_SHARE) / (looks - 1), 0.0)  # so that the sum is at most 1 exactly
    return (*(early,) * (looks - 1), LAST_SHARE)
