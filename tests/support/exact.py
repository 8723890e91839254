"""Networks in exact arithmetic: rational numbers, with square roots and activations to 60 digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np

from certify.graph.graph import Graph
from certify.graph.operators.linear import Linear
from certify.graph.operators.pooling import MaxPool
from tests.support.exact_operators import EXACT, by_mpmath, step
from tests.support.onnx_models import Array

SQRT = by_mpmath(mpmath.sqrt)
ACTIVATIONS = {
    "Relu": lambda x: np.maximum(x, Fraction(0)),
    "Sigmoid": by_mpmath(lambda x: 1 / (1 + mpmath.exp(-x))),
    "Tanh": by_mpmath(mpmath.tanh),
}
ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


def _windows(x: Array, operator: Any) -> Iterator[tuple[int, int, Array]]:
    """Every window of an image (channels, height, width) and its place in the output; the padding is zero."""
    (top, left), (high, wide), (down, right) = operator.window.begins, operator.window.kernel, operator.window.strides
    padded = np.pad(x, ((0, 0), (top, top), (left, left)), constant_values=Fraction(0))
    for row in range(operator.shape[1]):
        for column in range(operator.shape[2]):
            yield row, column, padded[:, row * down : row * down + high, column * right : column * right + wide]


def _conv(operator: Any, x: Array, w: dict[str, Array]) -> Array:
    out = np.empty(operator.shape, dtype=object)
    per_group, made = w["weight"].shape[1], len(w["weight"]) // operator.groups
    for row, column, window in _windows(x, operator):
        for i, filters in enumerate(w["weight"]):
            first = i // made * per_group
            out[i, row, column] = (filters * window[first : first + per_group]).sum() + (w["bias"][i] if "bias" in w else 0)
    return out


def _pooled(operator: Any, x: Array, of_window: Callable[[Array], Array]) -> Array:
    out = np.empty(operator.shape, dtype=object)
    for row, column, window in _windows(x, operator):
        out[:, row, column] = of_window(window.reshape(len(window), -1))
    return out


def _plain(pool: Any) -> bool:
    return len(pool.window.kernel) == 2 and not any(pool.window.pads) and set(pool.window.dilations) == {1}


def exact_step(operator: Any, *x: Array) -> Array:
    """One operator in exact arithmetic on one example; square roots and activations to 60 digits."""
    w = {name: EXACT(value) for name, value in operator.weights.items() if np.isfinite(value).all() and value.dtype.kind == "f"}
    if operator.type in ACTIVATIONS:
        return ACTIVATIONS[operator.type](x[0])
    if operator.type in ARITHMETIC:
        rest = iter(x)
        return ARITHMETIC[operator.type](*(w[str(i)] if view is None else next(rest) for i, view in enumerate(operator.views)))
    if operator.type == "LeakyRelu":
        return np.maximum(x[0], Fraction(operator.slope) * x[0])
    if operator.type == "BatchNormalization":
        c = {name: value.reshape(-1, *(1,) * (x[0].ndim - 1)) for name, value in w.items()}
        return (x[0] - c["mean"]) / SQRT(c["var"] + Fraction(operator.epsilon)) * c["scale"] + c["bias"]
    if isinstance(operator, Linear):
        return x[0] @ w["weight"].T * Fraction(operator.alpha) + (w["bias"] * Fraction(operator.beta) if "bias" in w else 0)
    if operator.type == "Conv" and len(operator.shape) == 3 and operator.window.symmetric:
        return _conv(operator, x[0], w)
    if operator.type in ("MaxPool", "AveragePool") and _plain(operator):
        return _pooled(operator, x[0], lambda v: v.max(-1) if isinstance(operator, MaxPool) else v.sum(-1) / Fraction(v.shape[-1]))
    if operator.type == "GlobalAveragePool":
        return (x[0].reshape(len(x[0]), -1).sum(-1) / Fraction(x[0][0].size)).reshape(operator.shape)
    if operator.type == "Transpose":
        return np.transpose(x[0], [axis - 1 for axis in operator.order[1:]])
    return x[0].reshape(operator.shape) if operator.type in ("Flatten", "Reshape") else step(operator, w, *x)


def exact(graph: Graph, x: Array) -> Array:
    """The logits at one input, as fractions."""
    values = {graph.input: EXACT(x)}
    for operator in graph.operators:
        values[operator.output] = exact_step(operator, *(values[name] for name in operator.inputs))
    return values[graph.output]
