"""The norms in which a ball is measured, and their duals."""

from enum import StrEnum


class Norm(StrEnum):
    L1 = "l1"
    L2 = "l2"
    LINF = "linf"

    @property
    def dual(self) -> "Norm":
        """The norm q with max over ||d||_p <= 1 of w.d equal to ||w||_q (Hoelder)."""
        return {Norm.L1: Norm.LINF, Norm.L2: Norm.L2, Norm.LINF: Norm.L1}[self]
