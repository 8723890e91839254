"""Did something fall between two nights? The exact test on pairs, in integers: no approximation and no rounding anywhere."""

from __future__ import annotations

from fractions import Fraction


def p_value(lost: int, gained: int) -> Fraction:
    """The probability of at least this many losses among the pairs that changed, were losses and gains equally likely.

    P(Bin(lost + gained, 1/2) >= lost), exactly. For any level a, P(p <= a) <= a whenever, given which independent pairs changed,
    each change is a loss with probability at most 1/2. It falls with every loss and rises with every gain; with no change it is 1.

    Args:
        lost: pairs that held before and do not now, >= 0.
        gained: pairs that did not hold before and do now, >= 0.

    Source: McNemar 1947, in the exact conditional form; docs/gates.md has the derivation.
    """
    changed = lost + gained
    return Fraction(_at_most(changed, gained), 1 << changed)


def _at_most(n: int, k: int) -> int:
    """The number of subsets of n things with at most k members, k <= n; whichever tail is shorter is summed."""
    if k == n:
        return 1 << n
    if 2 * k >= n:
        return (1 << n) - _at_most(n, n - k - 1)
    if k == 0:
        return 1
    _, divisor, total = _series(n, 0, k)
    return 1 + total // divisor


def _series(n: int, first: int, last: int) -> tuple[int, int, int]:
    """(P, Q, T) with P / Q the product of (n - i) / (i + 1) over first <= i < last, and T / Q the sum of its partial products.

    Halving keeps the factors of each multiplication of one size, where Python multiplies fast: 100,000 changes take under a second.
    """
    if last - first == 1:
        return n - first, first + 1, n - first
    middle = (first + last) // 2
    p, q, t = _series(n, first, middle)
    p_behind, q_behind, t_behind = _series(n, middle, last)
    return p * p_behind, q * q_behind, t * q_behind + p * t_behind
