"""How often is a certificate wrong? Simulated classifiers with known p, one-sided exact tests, and a negative control.

The published procedure may be wrong with probability alpha. Each setting runs the product's own decision on simulated votes; it
fails when the 99.99 % lower limit of the observed false rate exceeds alpha. The negative control, which reuses the selection
sample for the estimate, must fail the same test.
"""

from __future__ import annotations

import numpy as np
import pytest

from certify.sampling.noise.gaussian import l2_radius
from certify.statistics.binomial import lower_limit
from certify.statistics.sequential import Look, limits

RUNS = 20_000
SHARES = {
    "two classes, even": (0.5, 0.5),
    "two classes, close": (0.52, 0.48),
    "two classes, clear": (0.9, 0.1),
    "three classes, even": (1 / 3, 1 / 3, 1 / 3),
    "ten classes, one leads": (0.55, *(0.05,) * 9),
}


def false_rate_lower(shares: tuple[float, ...], alpha: float, n: int, *, reuse: bool = False) -> float:
    """The 99.99 % lower limit of the rate at which a certificate claims more than the truth."""
    rng = np.random.default_rng([n, len(shares), round(1000 * shares[0])])
    selections = rng.multinomial(n if reuse else 50, shares, size=RUNS)
    estimates = selections if reuse else rng.multinomial(n, shares, size=RUNS)
    wrong = 0
    for selection, counts in zip(selections.tolist(), estimates.tolist(), strict=True):
        top = max(range(len(selection)), key=selection.__getitem__)
        found = limits([Look(sum(counts), counts[top], 0, 1.0)], alpha, "one-sided")
        wrong += l2_radius(1.0, found.pA_lower, found.pB_upper) > l2_radius(1.0, shares[top], 1.0 - shares[top])
    return lower_limit(wrong, RUNS, 1e-4)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("name", SHARES)
def test_false_certificates_stay_within_alpha(name: str, n: int, alpha: float) -> None:
    assert false_rate_lower(SHARES[name], alpha, n) <= alpha


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_reusing_the_selection_sample_is_caught(alpha: float) -> None:
    assert false_rate_lower(SHARES["two classes, even"], alpha, 1000, reuse=True) > alpha
