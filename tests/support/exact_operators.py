"""Further operators in exact arithmetic, for `tests.support.exact`."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from typing import Any

import mpmath
import numpy as np
import torch

from certify.graph.operators import Operator
from certify.graph.operators.base import as_tensor
from tests.support.onnx_models import Array

EXACT = np.vectorize(Fraction, otypes=[object])


def _fraction(value: Any) -> Fraction:
    sign, mantissa, exponent, _ = value._mpf_
    return Fraction(-mantissa if sign else mantissa) * Fraction(2) ** exponent


def by_mpmath(function: Callable[..., Any]) -> Callable[..., Array]:
    """A function of numbers, to 60 digits, as one of arrays of fractions; further arguments are floats."""

    def one(value: Fraction, *parameters: float) -> Fraction:
        with mpmath.workdps(60):
            return _fraction(mpmath.mpf(function(mpmath.mpf(value.numerator) / value.denominator, *map(mpmath.mpf, parameters))))

    return np.vectorize(one, otypes=[object])


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Abs": abs,
    "Asinh": mpmath.asinh,
    "Atan": mpmath.atan,
    "Celu": lambda x, a: max(x, 0) + min(0, a * mpmath.expm1(x / a)),
    "Cos": mpmath.cos,
    "Elu": lambda x, a: max(x, 0) + a * mpmath.expm1(min(x, 0)),
    "Erf": mpmath.erf,
    "HardSigmoid": lambda x, a, b: min(max(a * x + b, 0), 1),
    "HardSwish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "Mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    "Neg": lambda x: -x,
    "Not": lambda x: 1 - x,
    "Selu": lambda x, a, g: g * (max(x, 0) + a * mpmath.expm1(min(x, 0))),
    "Sin": mpmath.sin,
    "Softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "Softsign": lambda x: x / (1 + abs(x)),
    "Swish": lambda x, a: x * _sigmoid(a * x),
}
GELU = {
    "none": lambda x: x * (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2,
    "tanh": lambda x: x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))),
}


def _axes(operator: Any) -> tuple[int, ...]:
    return tuple(dim - 1 for dim in operator.dims)


def _log_sum_exp(values: Array, axes: tuple[int, ...]) -> Array:
    exponentials = by_mpmath(mpmath.exp)(values)
    return by_mpmath(mpmath.log)(exponentials.sum(axes, keepdims=True))


REDUCTIONS: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "ReduceL1": lambda x, axes: abs(x).sum(axes, keepdims=True),
    "ReduceL2": lambda x, axes: by_mpmath(mpmath.sqrt)((x * x).sum(axes, keepdims=True)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": lambda x, axes: x.max(axes, keepdims=True),
    "ReduceMean": lambda x, axes: x.sum(axes, keepdims=True) / Fraction(int(np.prod([x.shape[axis] for axis in axes]))),
    "ReduceMin": lambda x, axes: x.min(axes, keepdims=True),
}
COMBINATIONS: dict[str, Callable[[list[Array]], Array]] = {
    "Max": lambda values: reduce(np.maximum, values),
    "Min": lambda values: reduce(np.minimum, values),
    "Sum": lambda values: reduce(np.add, values),
    "Mean": lambda values: reduce(np.add, values) / Fraction(len(values)),
    "Where": lambda values: np.where(values[0] != 0, values[1], values[2]),
}


def _by_columns(operator: Operator, *x: Array) -> Array:
    """A linear operator whose matrix has single weights as entries: they are read off unit vectors, without any rounding."""
    weights = {name: as_tensor(value, torch.float64) for name, value in operator.weights.items()}
    zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in operator.sources]
    offset = operator.evaluate(weights, *zeros)[0].numpy()
    plain = {name: value for name, value in weights.items() if name != "bias"}
    nothing = operator.evaluate(plain, *zeros)[0].numpy()
    total = EXACT(offset).reshape(-1)
    for i, value in enumerate(x):
        size = value.size
        units = [zero.expand(size, *zero.shape[1:]) for zero in zeros]
        units[i] = torch.eye(size, dtype=torch.float64).reshape(size, *value.shape)
        columns = operator.evaluate(plain, *units).numpy().reshape(size, -1) - nothing.reshape(1, -1)
        total = total + value.reshape(-1) @ EXACT(columns)
    return total.reshape(operator.shape)


def _by_ranks(operator: Operator, x: Array) -> Array:
    """An operator that only compares its values, by their places in order."""
    ordered = np.unique(x)
    ranks = torch.from_numpy(np.searchsorted(ordered, x).astype(np.float64))
    return ordered[operator.evaluate({}, ranks[None])[0].numpy().astype(int)]


def _averages(operator: Operator, x: Array) -> Array:
    """As `_by_columns`, for a matrix whose entries are one over a number."""
    units = torch.eye(x.size, dtype=torch.float64).reshape(x.size, *x.shape)
    weights = {name: as_tensor(value, torch.float64) for name, value in operator.weights.items()}
    columns = operator.evaluate(weights, units).numpy().reshape(x.size, -1)
    shares = {value: Fraction(value).limit_denominator(10**4) for value in np.unique(columns)}
    return (x.reshape(-1) @ np.vectorize(shares.__getitem__, otypes=[object])(columns)).reshape(operator.shape)


def step(operator: Any, w: dict[str, Array], *x: Array) -> Array:
    """One operator on one example."""
    kind = operator.type
    if kind in FUNCTIONS:
        return by_mpmath(FUNCTIONS[kind])(x[0], *getattr(operator, "parameters", ()))
    if kind == "Gelu":
        return by_mpmath(GELU[operator.approximate])(x[0])
    if kind == "Clip":
        above = x[0] if operator.low == -math.inf else np.maximum(x[0], Fraction(operator.low))
        return above if operator.high == math.inf else np.minimum(above, Fraction(operator.high))
    if kind == "PRelu":
        return np.where(x[0] > 0, x[0], x[0] * w["slope"])
    if kind in REDUCTIONS:
        return REDUCTIONS[kind](x[0], _axes(operator)).reshape(operator.shape)
    if kind in ("GlobalMaxPool", "MaxPool"):
        return _by_ranks(operator, x[0])
    if kind == "AveragePool":
        return _averages(operator, x[0])
    if kind in COMBINATIONS:
        rest = iter(x)
        return COMBINATIONS[kind]([w[str(i)] if view is None else next(rest) for i, view in enumerate(operator.views)])
    if kind in ("Softmax", "LogSoftmax"):
        logarithms = x[0] - _log_sum_exp(x[0], tuple(range(operator.first - 1, operator.last)))
        return logarithms if kind == "LogSoftmax" else by_mpmath(mpmath.exp)(logarithms)
    if kind == "Resize":
        value = x[0]
        for dim in operator.dims:
            value = np.moveaxis(np.tensordot(w[str(dim)], value, (1, dim - 1)), 0, dim - 1)
        return value
    return _by_columns(operator, *x)
