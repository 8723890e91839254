"""What rules for rounding errors are made of: sums in any order, the range that is accounted for, and what a rule is told and says.

Two things are known of a node of the engine's graph. `mass` bounds, for each of its values and every input of the ball, the sum of the
magnitudes of the terms that are added up for it, hence the value itself. A *charge* is a vector d: when coefficients A of a linear bound
pass the node on their way back, the bound is off by at most |A| d because of it, whatever A is.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.1 (gamma_n); the charges are derived in docs/rounding.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

UNIT = 2.0**-53
# Products below 2^-1022 and factors taken for zero cost at most that times `_LARGEST`, squares under a root 2^-511 times `FARTHEST`; there
# are fewer than 2^100 of them in a walk.
_LARGEST = 2.0**500
FARTHEST = 2.0**100
LOST = 2.0**-300
# The numbers here are sums of up to 2^24 magnitudes in float64; they are made larger by more than their own rounding.
UP = 1 + 1e-8
# Roundings besides those of a sum: the ends of an interval, the parts of a formula, and up to 8 in the making of a weight.
EXTRA = 24


class Unknown(Exception):
    """There is no rule; the message says for what."""


def checked(size: Tensor, largest: float = _LARGEST) -> Tensor:  # size: (*any)
    """The same; where all sizes pass, what is lost because it is too small adds up to less than `LOST`.

    Raises:
        Unknown: something is too large, or NaN.
    """
    if not float(size.max()) <= largest:
        raise Unknown("numbers beyond the range that is accounted for")
    return size


def gamma(terms: float) -> float:
    """The relative error of a sum with so many roundings on the way of each term."""
    share = terms * UNIT
    if share >= 0.5:
        raise Unknown("a sum of too many terms")
    return share / (1 - share) * UP


class Around(NamedTuple):
    """What a rule can ask besides the node.

    Args:
        reach: the largest magnitudes of each value of an input, (1, *shape) for data, (*shape) for a constant.
        interval: a real interval of the first input, (1, *shape) each end; null where the engine has none.
        before: the charge of the node before, for those that bend, where it leads here alone.
        sums: how many terms a bound is made of.
    """

    reach: Callable[[int], Tensor]
    interval: Callable[[], tuple[Tensor, Tensor] | None]
    before: Callable[[], Tensor | None]
    sums: int

    def constant(
        self,
        size: Tensor,  # (*shape of the node)
    ) -> Tensor:
        return constant(size, self.sums)

    def known_interval(self) -> tuple[Tensor, Tensor]:
        """As `interval`.

        Raises:
            Unknown: the engine has none.
        """
        ends = self.interval()
        if ends is None:
            raise Unknown("what is relaxed without an interval")
        return ends


def constant(
    size: Tensor,  # (*any)
    sums: int,
) -> Tensor:
    """The charge for a constant of that size: it is multiplied with A and summed up, and the sum is one of those that make the bound."""
    return gamma(size.numel() + sums + EXTRA) * size


class Rule(NamedTuple):
    """How a class of nodes computes.

    Args:
        mass: (1, *shape), from the node and what is around it.
        roundings: on the way of a term of an interval that passes it; 0 where nothing is rounded.
        charge: for linear bounds on their way back, from the mass too; of lower (side 0) or upper ones (1), asked after the node has
            made its step; (1, *shape), or with one for each row in front; null where nothing is computed.
        again: the charge is not the same for every walk back.
        bends: coefficients are multiplied one for one, so that the charge can take in that of the node before.
    """

    mass: Callable[[Any, Around], Tensor]
    roundings: Callable[[Any], int]
    charge: Callable[[Any, Around, Tensor, int], Tensor | None] | None = None
    again: bool = False
    bends: bool = False
