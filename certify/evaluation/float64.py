"""What is assumed of float64 arithmetic, and the errors that follow for one operation or one sum.

Assumed: IEEE operations rounded to nearest, in any order, with or without fused multiplication and addition; convolutions and matrix
products as sums of products (not Winograd, Fourier or Strassen); library functions within `LIBRARY` units of their result.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNIT = 2.0**-53

# Error of sigmoid, tanh and other library functions, in unit roundoffs: an assumption about libraries, which promise nothing. Seen in
# float32: 1.5 in torch, 5.3 in onnxruntime (the rational approximation of tanh).
LIBRARY = 8

# Bounds are themselves sums of magnitudes of up to 2^24 terms (the largest tensor): relative error below 2^24 * 2^-53 * 5.
UP = 1 + 1e-8
# Roundings besides those of a sum itself: of an elementwise formula in whichever form.
EXTRA = 12

# No value and no sum of magnitudes may be larger. Then what products below the normal numbers lose, passed through the at most four
# constants of one operator, each up to 2^128 and summed 2^24 times, is less than 2^-1022 * 2^200 * 2^24 * 2^(4 * 152) < SMALL.
LARGEST = 2.0**200
SMALL = 2.0**-180


class Unknown(Exception):
    """No bound; the message says what an operator does."""


def gamma(terms: int) -> float:
    """The relative error of a sum with `terms` roundings on the way of each term (Higham 2002, 3.1), for up to 2^40 of them."""
    share = terms * UNIT
    return share / (1 - share) * UP


def in_range(*sizes: Tensor) -> None:  # sizes: (1, *shape) each, magnitudes
    """
    Raises:
        Unknown: one of them is too large for what is said about underflow, or NaN.
    """
    if not all(bool((size <= LARGEST).all()) for size in sizes):
        raise Unknown("makes NaN, infinity or values beyond 2^200")


def exact(value: Tensor) -> Tensor:  # value: (*shape), float32 or float64
    """The same numbers in float64."""
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"inputs of {value.dtype} are not exact in float64")
    return value.double()
