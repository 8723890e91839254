"""Linear classifiers whose weights nodes on constants make, and the same weights to 80 digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mpmath
import numpy as np
import onnx

from tests.support.onnx_models import Array, model_bytes, node

DIGITS = 80
INPUTS = 6


def _random(*shape: int, scale: float = 1.0, seed: int = 1) -> Array:
    return (scale * np.random.default_rng((seed, *shape)).normal(size=shape)).astype(np.float32)


Case = tuple[list[onnx.NodeProto], dict[str, Array]]  # nodes that make `w` of shape (2, INPUTS), and what stands in the file


def weight_norm() -> Case:
    nodes = [node("ReduceL2", "v", "n", axes=[1], keepdims=1), node("Div", "v n", "u"), node("Mul", "u g", "w")]
    return nodes, {"v": _random(2, INPUTS), "g": np.array([[1.3], [0.7]], np.float32)}


def weight_norm_by_squares() -> Case:
    nodes = [node("Mul", "v v", "q"), node("ReduceSum", "q axes", "s", keepdims=1), node("Sqrt", "s", "n"), node("Div", "v n", "w")]
    return nodes, {"v": _random(2, INPUTS, seed=2), "axes": np.array([1])}


def weight_norm_by_powers() -> Case:
    nodes = [node("Pow", "v two", "q"), node("ReduceMean", "q", "s", axes=[1], keepdims=1), node("Pow", "s half", "n")]
    kept = {"v": _random(2, INPUTS, seed=3), "two": np.array(2, np.float32), "half": np.array(-0.5, np.float32)}
    return [*nodes, node("Mul", "v n", "w")], kept


def cancelling_sum() -> Case:
    large = _random(2, INPUTS, scale=3e9)
    return [node("Add", "p q", "s"), node("Sub", "s p", "w")], {"p": large, "q": _random(2, INPUTS, seed=4)}


def cancelling_product() -> Case:
    a, b = _random(2, 12, scale=1e6), _random(12, INPUTS)
    off = _random(12, INPUTS, seed=5, scale=1e-5)
    kept = {"a": np.concatenate([a, -a], axis=1), "b": np.concatenate([b, b + off])}
    return [node("MatMul", "a b", "w")], kept


def cancelling_product_scaled() -> Case:
    nodes, kept = cancelling_product()
    scaled = node("Mul", "product g", "w")
    return [node(nodes[0].op_type, "a b", "product"), scaled], kept | {"g": np.array([[30.0], [0.07]], np.float32)}


def cancelling_gemm() -> Case:
    _, kept = cancelling_product()
    return [node("Gemm", "a bt c", "w", alpha=0.3, beta=-2.0, transB=1)], {
        "a": kept["a"],
        "bt": kept["b"].T.copy(),
        "c": _random(2, INPUTS),
    }


def spectral_norm() -> Case:
    nodes = [node("MatMul", "v x1", "y"), node("MatMul", "u y", "s"), node("Div", "v s", "w")]
    return nodes, {"v": _random(2, INPUTS), "x1": _random(INPUTS, 1), "u": _random(1, 2)}


def dequantised() -> Case:
    whole = np.random.default_rng(0).integers(-128, 128, (2, INPUTS)).astype(np.int32)
    nodes = [node("Cast", "q", "f", to=1), node("Cast", "zero", "z", to=1), node("Sub", "f z", "d"), node("Mul", "d s", "w")]
    return nodes, {"q": whole, "zero": np.array([[3], [-5]], np.int32), "s": np.array([[0.013], [0.0071]], np.float32)}


def narrowed() -> Case:
    return [node("Cast", "d", "w", to=1)], {"d": np.random.default_rng(1).normal(size=(2, INPUTS))}


def narrowed_on_the_way() -> Case:
    nodes = [node("Cast", "d", "f", to=1), node("Cast", "p", "e", to=1), node("Sub", "f e", "w")]
    d = np.random.default_rng(2).normal(size=(2, INPUTS))
    return nodes, {"d": d, "p": d + 1e-6 * np.random.default_rng(3).normal(size=d.shape)}


def tiny_factors() -> Case:
    nodes = [node("Mul", "t s", "p"), node("Mul", "p v", "q"), node("Mul", "q big", "w")]
    kept = {"t": np.array(1e-22, np.float32), "s": np.array(1e-18, np.float32), "v": _random(2, INPUTS), "big": np.array(1e38, np.float32)}
    return nodes, kept


def normalised_by_hand() -> Case:
    nodes = [node("Add", "var eps", "ve"), node("Sqrt", "ve", "std"), node("Div", "gain std", "f"), node("Mul", "v f", "w")]
    kept = {"var": np.array([[1e-3], [2.0]], np.float32), "eps": np.array(1e-5, np.float32), "gain": np.array([[0.8], [1.1]], np.float32)}
    return nodes, kept | {"v": _random(2, INPUTS)}


def by_functions() -> Case:
    nodes = [node("Exp", "v", "a"), node("Log", "a", "b"), node("Tanh", "b", "c"), node("Sigmoid", "v", "d"), node("Sub", "c d", "w")]
    return nodes, {"v": _random(2, INPUTS)}


def by_the_error_function() -> Case:
    """Of which ONNX's reference has float32 numbers only, whatever it is given."""
    return [node("Erf", "v", "w")], {"v": _random(2, INPUTS)}


def by_shares() -> Case:
    return [node("Softmax", "v", "p", axis=1), node("Neg", "p", "n"), node("Abs", "n", "w")], {"v": _random(2, INPUTS)}


def chosen() -> Case:
    nodes = [node("Reciprocal", "v", "r"), node("Min", "r top", "m"), node("Greater", "v zero", "c"), node("Where", "c m v", "w")]
    return nodes, {"v": _random(2, INPUTS), "top": np.array(3, np.float32), "zero": np.array(0, np.float32)}


def moved() -> Case:
    """Only moves around one rounding: bounds go with the numbers."""
    nodes = [node("Mul", "v s", "p"), node("Transpose", "p", "t", perm=[1, 0]), node("Slice", "t from to axes", "half")]
    nodes += [node("Slice", "t to end axes", "other"), node("Concat", "other half", "c", axis=0), node("Transpose", "c", "w", perm=[1, 0])]
    places = {"from": np.array([0]), "to": np.array([2]), "end": np.array([INPUTS]), "axes": np.array([0])}
    return nodes, {"v": _random(2, INPUTS), "s": np.array([[0.3], [1e7]], np.float32)} | places


CASES: dict[str, Callable[[], Case]] = {
    made.__name__: made
    for made in (
        weight_norm,
        weight_norm_by_squares,
        weight_norm_by_powers,
        cancelling_sum,
        cancelling_product,
        cancelling_product_scaled,
        cancelling_gemm,
        spectral_norm,
        dequantised,
        narrowed,
        narrowed_on_the_way,
        tiny_factors,
        normalised_by_hand,
        by_functions,
        by_the_error_function,
        by_shares,
        chosen,
        moved,
    )
}


def classifier(case: Case, bias: Array | None = None) -> bytes:
    """x @ w.T + bias."""
    nodes, kept = case
    shift = np.array([0.4, -0.3], np.float32) if bias is None else bias
    head = node("Gemm", "x w bias", "logits", transB=1)
    return model_bytes([*nodes, head], kept | {"bias": shift}, input_shape=("batch", INPUTS), opset=13)


def exact(case: Case) -> Array:
    """`w` to 80 digits, by formulas that share nothing with the product."""
    nodes, kept = case
    with mpmath.workdps(DIGITS):
        values: dict[str, Array] = {name: _mp(value) for name, value in kept.items()}
        for each in nodes:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in each.attribute}
            values[each.output[0]] = _OPERATORS[each.op_type](attributes, *(values[name] for name in each.input))
        return values["w"]


def _mp(value: Array) -> Array:
    if value.dtype.kind == "i" and value.ndim == 1:
        return value
    return np.vectorize(lambda v: mpmath.mpf(float(v)), otypes=[object])(value)


def _each(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda attributes, *x: np.vectorize(function, otypes=[object])(*x)


def _axes(attributes: Mapping[str, Any], rest: tuple[Array, ...]) -> tuple[int, ...]:
    return tuple(int(v) for v in (rest[0] if rest else attributes["axes"]))


def _softmax(attributes: Mapping[str, Any], x: Array) -> Array:
    powers = np.vectorize(mpmath.exp, otypes=[object])(x)
    return powers / powers.sum(axis=attributes["axis"], keepdims=True)


def _gemm(attributes: Mapping[str, Any], a: Array, b: Array, c: Array) -> Array:
    # Attributes are float32 numbers.
    alpha, beta = (mpmath.mpf(float(np.float32(attributes[name]))) for name in ("alpha", "beta"))
    return a.dot(b.T) * alpha + c * beta


_OPERATORS: dict[str, Callable[..., Array]] = {
    "Abs": _each(abs),
    "Add": lambda attributes, a, b: a + b,
    "Cast": lambda attributes, x: x,
    "Concat": lambda attributes, *x: np.concatenate(x, axis=attributes["axis"]),
    "Div": lambda attributes, a, b: a / b,
    "Erf": _each(mpmath.erf),
    "Exp": _each(mpmath.exp),
    "Gemm": _gemm,
    "Greater": _each(lambda a, b: a > b),
    "Log": _each(mpmath.log),
    "MatMul": lambda attributes, a, b: a.dot(b),
    "Min": _each(min),
    "Mul": lambda attributes, a, b: a * b,
    "Neg": _each(lambda v: -v),
    "Pow": _each(lambda a, b: a**b),
    "Reciprocal": _each(lambda v: 1 / v),
    "ReduceL2": lambda attributes, x, *rest: _each(mpmath.sqrt)({}, (x * x).sum(axis=_axes(attributes, rest), keepdims=True)),
    "ReduceMean": lambda attributes, x, *rest: (x.sum(axis=_axes(attributes, rest), keepdims=True)) / mpmath.mpf(x.shape[1]),
    "ReduceSum": lambda attributes, x, *rest: x.sum(axis=_axes(attributes, rest), keepdims=True),
    "Sigmoid": _each(lambda v: 1 / (1 + mpmath.exp(-v))),
    "Slice": lambda attributes, x, start, stop, axes: x[int(start[0]) : int(stop[0])],
    "Softmax": _softmax,
    "Sqrt": _each(mpmath.sqrt),
    "Sub": lambda attributes, a, b: a - b,
    "Tanh": _each(mpmath.tanh),
    "Transpose": lambda attributes, x: x.T,
    "Where": _each(lambda c, a, b: a if c else b),
}
