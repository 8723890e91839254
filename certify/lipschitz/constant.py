"""What stands where an operator has no Lipschitz constant, and the rounding errors that every constant carries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

UNIT = 2.0**-53  # half a unit in the last place of a float64


class NoConstant(Exception):
    """No Lipschitz constant is known: the operator that has none, and why. Never a number in its place."""

    def __init__(self, operator: str, reason: str) -> None:
        self.operator, self.reason = operator, reason
        super().__init__(f"{operator}: {reason}" if operator else reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.operator, self.reason)

    def named(self, operator: str) -> NoConstant:
        """The same with the operator's name, where it had none."""
        return self if self.operator else NoConstant(operator, self.reason)


def finite(value: float) -> float:
    """The value, which must be a finite number.

    Raises:
        NoConstant: it is not; weights may be too large for float64.
    """
    if not math.isfinite(value):
        raise NoConstant("", "its norm is beyond float64: check the weights")
    return float(value)


def gamma(terms: int) -> float:
    """At least n u / (1 - n u): the relative error of a sum of n products in float64, in any order (Higham 2002, section 3.1)."""
    return 1.01 * terms * UNIT if terms < 2**40 else math.inf


@dataclass(frozen=True)
class Rounding:
    """How far a linear map made in float64 may lie from the one it stands for, in the l2 operator norm.

    Every entry is off by at most gamma(terms) times the same entry of the product of the magnitudes |A_k| ... |A_1|, and the norm of
    that product is at most `magnitude`: so the error has at most the norm gamma(terms) * magnitude.
    """

    terms: int = 0
    magnitude: float = 1.0

    def then(self, other: Rounding) -> Rounding:
        """Of the composition."""
        return Rounding(self.terms + other.terms, self.magnitude * other.magnitude)

    def plus(self, other: Rounding) -> Rounding:
        """Of the sum."""
        return Rounding(max(self.terms, other.terms) + 1, self.magnitude + other.magnitude)

    @property
    def error(self) -> float:
        return finite(1.0001 * gamma(self.terms) * self.magnitude)


class Work:
    """Floating-point operations that may still be spent. Counted, never timed: the same question has the same answer everywhere."""

    def __init__(self, flops: float) -> None:
        self.left = float(flops)

    def affords(self, flops: float, share: float = 0.25) -> bool:
        """Whether this much is at most a share of what is left; nothing is spent yet."""
        return flops <= share * self.left

    def spend(self, flops: float) -> None:
        self.left -= flops
