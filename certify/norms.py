"""The norms in which a ball is measured, and their duals."""

import math
from enum import StrEnum


class Norm(StrEnum):
    L1 = "l1"
    L2 = "l2"
    LINF = "linf"

    @property
    def dual(self) -> "Norm":
        """The norm q with max over ||d||_p <= 1 of w.d equal to ||w||_q (Hoelder)."""
        return {Norm.L1: Norm.LINF, Norm.L2: Norm.L2, Norm.LINF: Norm.L1}[self]


def conversion(proved: Norm, wanted: Norm, dimension: int) -> float:
    """The least c with ||d||_proved <= c * ||d||_wanted for all d of `dimension` entries, rounded up: a radius divided by it holds.

    Args:
        proved: norm of the ball that was proved.
        wanted: norm of the ball that is claimed inside it.
        dimension: number of entries, >= 1.
    """
    power = 1.0 / _ORDER[proved] - 1.0 / _ORDER[wanted]
    if power <= 0.0 or dimension == 1:
        return 1.0
    exact = math.isqrt(dimension)
    if power == 1.0 or (power == 0.5 and exact * exact == dimension):
        return float(dimension if power == 1.0 else exact)
    return math.nextafter(math.sqrt(dimension), math.inf)


_ORDER = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}
