"""What nodes on constants do to the errors of their operands, and what they round: one rule for each kind.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.1 (gamma_n), 3.3 (running error analysis), 4.3 (the exact error of a
sum); each rule is derived beside it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, Any]
Run = Callable[..., Array]  # the node in ONNX's reference, for other operands

UNIT = 2.0**-53
UNIT32 = 2.0**-24
TINY32 = 2.0**-126  # smallest normal float32: the most that is lost where a subnormal is taken for zero
LARGEST32 = float(np.finfo(np.float32).max)
# Assumed of library functions, in unit roundoffs of their result (docs/rounding.md); of sums, besides the terms themselves.
LIBRARY = 8
EXTRA = 4
# Bounds are sums of up to 2^24 magnitudes in float64.
UP = 1 + 1e-8
# Beyond these float64 itself could overflow, or lose what is too small: then nothing is known.
_FARTHEST = 2.0**500
_NEAREST = 2.0**-500


@dataclass(frozen=True)
class Rule:
    """What a node does to errors.

    Args:
        carried: from one bound for each operand, how far the result in real arithmetic moves at most.
        mass: the sum of the magnitudes that are added up for each number of the result; at least its own.
        units: roundings on the way of a term.
        exact: where nothing is rounded in float64.
        lost: what float32 may lose below its normal numbers.
    """

    carried: Callable[[Sequence[Array]], Array]
    mass: Array
    units: float = 1
    exact: Array | bool = False
    lost: Array | float = field(default=0.0)

    def bounds(self, value: Array, errors: Sequence[Array], spreads: Sequence[Array]) -> tuple[Array, Array]:
        """Of the distance from real arithmetic, and from any float32 runtime."""
        rounded = np.where(self.exact, 0.0, _gamma(self.units, UNIT) * self.mass)
        error = (self.carried(errors) + rounded) * UP
        carried = self.carried(spreads)
        fits = np.asarray(self.exact) & (value == value.astype(np.float32)) & (np.asarray(carried) == 0)
        rounded32 = np.where(fits, 0.0, _gamma(self.units, UNIT32) * (self.mass + carried))
        spread = (carried + rounded + rounded32 + self.lost) * UP
        beyond = (np.abs(value) + spread + self.mass > LARGEST32 / 2) & (spread > 0)
        far = ~(self.mass <= _FARTHEST)
        return np.where(far, np.inf, error), np.where(beyond | far, np.inf, spread)


def _gamma(terms: float, unit: float) -> float:
    share = terms * unit
    return share / (1 - share) * UP if share < 0.5 else math.inf


def _representable(x: Array) -> Array:
    """Numbers of float32, far from where products of two leave float64."""
    found: Array = (x == 0) | ((x == x.astype(np.float32)) & (np.abs(x) >= TINY32 * 2.0**-30))
    return found


def _lost(z: Array, *x: Array) -> Array:
    """What float32 may lose where a number or the result is below its normal range, as each factor may be taken for zero."""
    small = functools.reduce(np.logical_or, [(v != 0) & (np.abs(v) < 2 * TINY32) for v in (z, *x)])
    size = functools.reduce(np.add, [np.abs(v) for v in x], np.ones(()))
    vanished = (z == 0) & functools.reduce(np.logical_and, [v != 0 for v in x], np.asarray(bool(x)))
    found: Array = np.where(small | vanished, 2 * TINY32 * size, 0.0)
    return found


def _add(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    a, b = x[0], x[1] if node.op_type == "Add" else -x[1]
    # The error of a sum of two numbers is a number itself (Knuth; Higham 2002, 4.3).
    part = z - a
    exact = (a - (z - part)) + (b - part) == 0
    return Rule(lambda e: e[0] + e[1], np.abs(z), exact=exact, lost=_lost(z, *x))


def _mul(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    a, b = np.abs(x[0]), np.abs(x[1])
    exact = (_representable(x[0]) & _representable(x[1])) | (x[0] == 0) | (x[1] == 0)
    return Rule(lambda e: a * e[1] + b * e[0] + e[0] * e[1], _not_too_small(z, *x), exact=exact, lost=_lost(z, *x))


def _not_too_small(z: Array, *x: Array) -> Array:
    """Its magnitudes; infinite where float64 may have lost some of it."""
    some = functools.reduce(np.logical_and, [v != 0 for v in x], np.asarray(True))
    return np.where(some & (np.abs(z) < _NEAREST), np.inf, np.abs(z))


def _div(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    """|a / b - a' / b'| <= (|a - a'| + |a / b| |b - b'|) / |b'|."""
    a, b = x
    exact = _representable(z) & _representable(b) & (z * b == a)
    low = (np.abs(b) < 2 * TINY32) & (b != 0)
    lost = np.where(low, np.inf, _lost(z, a) * (1 + 1 / np.abs(b)))
    return Rule(functools.partial(_quotient, z, b), _not_too_small(z, a), exact=exact, lost=lost)


def _quotient(z: Array, b: Array, e: Sequence[Array]) -> Array:
    least = np.abs(b) - e[1]
    found: Array = np.where(least > 0, (e[0] + np.abs(z) * UP * e[1]) / np.where(least > 0, least, 1.0), np.inf)
    return found


def _reciprocal(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    whole = _div(node, z, [np.ones(()), x[0]], run)
    return Rule(lambda e: whole.carried([np.zeros(()), e[0]]), whole.mass, exact=whole.exact, lost=whole.lost)


def _sqrt(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    """|sqrt(a) - sqrt(a')| = |a - a'| / (sqrt(a) + sqrt(a')); below zero it is not defined."""

    def carried(e: Sequence[Array]) -> Array:
        inside = np.where(z > 0, e[0] / np.where(z > 0, z, 1.0), 0.0)
        return np.where(e[0] == 0, 0.0, np.where(e[0] <= x[0], inside, np.inf))

    lost = np.where((x[0] != 0) & (np.abs(x[0]) < 2 * TINY32), math.sqrt(2 * TINY32), 0.0)
    return Rule(carried, np.abs(z), exact=_representable(z) & (z * z == x[0]), lost=lost)


def _pow(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule | None:
    """By the mean value theorem: the exponent times the largest power of one less between the ends."""
    exponents = np.unique(x[1])
    if exponents.size != 1:
        return None
    p, a = float(exponents[0]), x[0]

    def carried(e: Sequence[Array]) -> Array:
        if p >= 1 and p == int(p):
            moved: Array = p * e[0] * np.power(np.abs(a) + e[0], p - 1)
        else:
            ends = [np.power(np.maximum(a - e[0], 0.0), p - 1), np.power(a + e[0], p - 1)]
            moved = np.where(a - e[0] > 0, abs(p) * e[0] * np.maximum(*ends), np.inf)
        return np.where(e[1] == 0, np.where(e[0] == 0, 0.0, moved), np.inf)

    # As products in float32, each of which may lose what is too small.
    small = np.abs(z) < 2 * TINY32
    lost = np.where(small, np.inf if not 1 <= p <= 4 else 8 * TINY32 * (1 + np.abs(a)) ** 3, 0.0)
    return Rule(carried, _not_too_small(z, a), units=LIBRARY, lost=np.where(a == 0, 0.0, lost))


def _same(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    """Compares, chooses or changes a sign."""
    return Rule(lambda e: functools.reduce(np.maximum, list(e)), np.abs(z), exact=True)


def _cast(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    """In real arithmetic nothing happens; float64 rounds integers beyond 2^53, and float32 rounds what is no number of it."""
    exact = True if x[0].dtype.kind != "i" else np.abs(z) <= 2.0**53
    return Rule(lambda e: e[0], np.abs(z), exact=exact, lost=_lost(z))


def _linear(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    """Sums and means: of the errors, and of the magnitudes."""
    mass = run(*(np.abs(v) for v in x))
    terms = len(x) if node.op_type in ("Sum", "Mean") else x[0].size // max(1, z.size) if node.op_type != "CumSum" else x[0].size
    return Rule(lambda e: run(*e), mass, units=terms + EXTRA, lost=2 * TINY32 * (terms + 1))


def _root_of_squares(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    """The norm moves by no more than the norm of what its argument moves by."""
    terms = x[0].size // max(1, z.size)
    lost = 4 * terms * TINY32 * (1 + float(np.abs(x[0]).max(initial=0.0)))
    small = np.where(z > 0, np.minimum(math.sqrt(lost), lost / np.where(z > 0, z, 1.0)), math.sqrt(lost))
    beyond = z * z > LARGEST32 / 4
    return Rule(lambda e: run(e[0], *e[1:]), z, units=terms + EXTRA, lost=np.where(beyond, np.inf, small))


def _squares(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    """Of (x + d)^2, the sum of 2 x d is at most twice the product of the norms of x and d."""
    terms = x[0].size // max(1, z.size)

    def carried(e: Sequence[Array]) -> Array:
        squares = run(*e)
        moved: Array = 2 * np.sqrt(z * squares) + squares
        return moved

    return Rule(carried, z, units=terms + EXTRA, lost=4 * terms * TINY32 * (1 + float(np.abs(x[0]).max(initial=0.0))))


def _extreme(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    return Rule(lambda e: run(*e, kind="ReduceMax"), np.abs(z), exact=True)


def _product(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    """A B and alpha A B + beta C."""
    factors = {a.name: abs(a.f) for a in node.attribute if a.name in ("alpha", "beta")}
    a, b, *c = (np.abs(v) for v in x)
    nothing = [np.zeros_like(v) for v in c]

    def carried(e: Sequence[Array]) -> Array:
        ends = run(a, e[1], *e[2:], **factors) + run(e[0], b, *nothing, **factors)
        return ends + run(e[0], e[1], *nothing, **factors)

    terms = max(x[0].shape[-2:], default=1)  # at least what is added up, whichever operand is transposed
    largest = float(a.max(initial=0.0)) + float(b.max(initial=0.0))
    lost = 4 * terms * TINY32 * (1 + largest) * (1 + sum(factors.values()))
    return Rule(carried, run(a, b, *c, **factors), units=terms + 2 * EXTRA, lost=lost)


def _steepest(slope: float) -> Callable[[onnx.NodeProto, Array, Sequence[Array], Run], Rule]:
    """Bounded functions with a largest slope."""
    return lambda node, z, x, run: Rule(lambda e: slope * e[0], np.ones(()), units=LIBRARY, lost=2 * TINY32)


def _exp(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    return Rule(lambda e: np.abs(z) * np.expm1(e[0]) * UP, _not_too_small(z), units=LIBRARY * 4, lost=2 * TINY32)


def _log(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    a = x[0]
    lost = np.where(a < 2 * TINY32, np.inf, 0.0)
    return Rule(lambda e: np.where(e[0] < a, -np.log1p(-np.minimum(e[0] / a, 1.0)) * UP, np.inf), 1 + np.abs(z), units=LIBRARY, lost=lost)


def _shares(node: onnx.NodeProto, z: Array, x: Sequence[Array], run: Run) -> Rule:
    """A share p moves by at most 2 p (1 - p) <= 1 / 2 of the largest error."""
    size = 1 + 2 * float(np.abs(x[0]).max(initial=0.0))
    return Rule(lambda e: np.asarray(e[0].max(initial=0.0)), np.full(z.shape, size), units=2 * z.size + 100, lost=2 * TINY32)


# What makes each number of the result of one of each operand.
ELEMENTWISE = frozenset(
    {"Abs", "Add", "Cast", "Cos", "Div", "Erf", "Exp", "Log", "Max", "Min"}
    | {"Mul", "Neg", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sin", "Sqrt", "Sub", "Tanh"}
)

RULES: dict[str, Callable[[onnx.NodeProto, Array, Sequence[Array], Run], Rule | None]] = {
    "Add": _add,
    "Sub": _add,
    "Mul": _mul,
    "Div": _div,
    "Reciprocal": _reciprocal,
    "Sqrt": _sqrt,
    "Pow": _pow,
    **dict.fromkeys(("Abs", "Clip", "Max", "Min", "Neg", "Relu"), _same),
    "Cast": _cast,
    **dict.fromkeys(("CumSum", "Mean", "ReduceL1", "ReduceMean", "ReduceSum", "Sum"), _linear),
    "ReduceL2": _root_of_squares,
    "ReduceSumSquare": _squares,
    **dict.fromkeys(("ReduceMax", "ReduceMin"), _extreme),
    **dict.fromkeys(("MatMul", "Gemm"), _product),
    "Exp": _exp,
    "Log": _log,
    "Softmax": _shares,
    "Tanh": _steepest(1.0),
    "Sigmoid": _steepest(0.25),
    "Erf": _steepest(1.13),
    **dict.fromkeys(("Cos", "Sin"), _steepest(1.0)),
}
