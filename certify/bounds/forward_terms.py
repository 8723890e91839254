"""A floating-point format, and what folding constants into products costs in it: the terms that forward error bounds are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# All numbers here are sums of magnitudes of up to 2^24 terms (the largest tensor), in float64: relative error below 2^24 * 2^-53 * 5.
UP = 1 + 1e-8
# Constants around one product: each rounds once more what was added up in it, and `EXTRA` roundings of the whole sum are paid for there.
IN_A_ROW = 8


class Unknown(Exception):
    """No bound; the message says what an operator does."""


@dataclass(frozen=True)
class Format:
    """A floating-point format.

    Args:
        unit: unit roundoff.
        tiny: smallest normal number; the most that is lost when a subnormal is taken for zero.
        largest: largest number.
    """

    unit: float
    tiny: float
    largest: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> Format:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"no rounding error bounds for {dtype}")
        info = torch.finfo(dtype)
        return cls(info.eps / 2, info.tiny, info.max)

    def gamma(self, terms: int) -> float:
        """The relative error of a sum with `terms` roundings on the way of each term."""
        share = terms * self.unit
        if share >= 0.5:
            raise Unknown("adds up too many terms for the floating-point format")
        return share / (1 - share) * UP

    def check(self, *sizes: Tensor) -> None:  # sizes: (1, *shape) each
        """No intermediate result may leave the range of the format; NaN does not pass either."""
        if not all(bool((size <= self.largest / 2).all()) for size in sizes):
            raise Unknown("may leave the range of the floating-point format")


@dataclass(frozen=True)
class Row:
    """Constants in a row that a runtime may fold into one another, and into a product before or after them.

    A folded weight that leaves the normal range may be off by the smallest normal number, whatever it is multiplied by in the end.

    Args:
        bare: the largest magnitude of what any of the constants since the last product may be multiplied by.
        lever: the largest sum of the magnitudes that the weights of the last product are multiplied by; zero when there is none.
        gain: the largest factor that some of the constants since the last product are together, at least 1.
        peak: the largest magnitude of any folded weight.
        count: how many constants there are before and after the last product.
        since: how many of these came after it.
    """

    bare: float
    lever: float = 0.0
    gain: float = 1.0
    peak: float = 1.0
    count: int = 0
    since: int = 0

    def scaled(self, rule: Format, factor: float, reach: Tensor) -> Row:  # reach: (1, *shape)
        """After one more constant."""
        grown = max(1.0, factor)
        found = replace(
            self,
            bare=max(self.bare, float(reach.max())),
            gain=self.gain * grown,
            peak=self.peak * grown,
            count=self.count + 1,
            since=self.since + 1,
        )
        return found.checked(rule)

    def multiplied(self, rule: Format, weight: float, terms: int, mass: Tensor) -> Row:  # mass: (1, *shape)
        """After a product with weights of that size and a sum of so many terms."""
        lever = terms * self.bare
        # As a factor before it may also be applied after it.
        rule.check(torch.tensor(weight * lever * self.gain))
        return Row(float(mass.max()), lever, 1.0, max(1.0, weight) * self.gain, self.since).checked(rule)

    def plus(self, other: Row) -> Row:
        """After a sum of both."""
        both = (self, other)
        return Row(
            bare=sum(run.bare for run in both),
            lever=max(run.lever for run in both),
            gain=max(run.gain for run in both),
            peak=max(run.peak for run in both),
            count=1 + max(run.count for run in both),
            since=1 + max(run.since for run in both),
        )

    def checked(self, rule: Format) -> Row:
        rule.check(torch.tensor(self.peak), torch.tensor(self.gain))
        if self.count > IN_A_ROW:
            raise Unknown(f"follows more than {IN_A_ROW} constants in a row")
        return self

    def lost(self, rule: Format) -> float:
        """What it may cost that one more constant is folded into those before."""
        return 2 * rule.tiny * (self.bare + self.lever + 1.0)
