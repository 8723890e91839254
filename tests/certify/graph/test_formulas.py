"""Every formula against onnxruntime and ONNX's reference, which do not share it: from 1e-40 to 3e38 and with odd parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from certify.errors import ModelRejected
from certify.graph.graph import Graph
from certify.graph.operators import OPERATORS, Operator
from certify.graph.operators.activation import Activation, Parametric
from certify.graph.reader import read_onnx
from tests.certify.graph.test_operators import CASES as OF_EVERY_OPERATOR
from tests.certify.graph.wide_cases import one, resize
from tests.support.onnx_models import Array, model_bytes, node
from tests.support.onnx_reference import ours, reference

SIZES = np.logspace(-40, 38.47, 315)
SCAN = np.concatenate([SIZES, -SIZES, [0.0, -0.0, 3e38, -3e38], np.linspace(-12, 12, 961), np.arange(-6, 6.5, 0.5)])
SCAN = SCAN.astype(np.float32)[: len(SCAN) // 2 * 2].reshape(-1, 2)

OPSETS = {"Mish": 18, "Gelu": 20, "Swish": 24}
PARAMETERS: dict[str, list[dict[str, float | str]]] = {
    "Celu": [{"alpha": a} for a in (1.0, 0.3, 2.0, -1.0, -0.5, -3.0, -1e-3, 1e-30, 1e-40)],
    "Elu": [{"alpha": a} for a in (1.0, 0.0, 0.5, -1.0, -3.0, 1e-40)],
    "Gelu": [{"approximate": "none"}, {"approximate": "tanh"}],
    "HardSigmoid": [{"alpha": a, "beta": b} for a, b in ((0.2, 0.5), (-0.3, 0.5), (0.0, 0.4), (0.0, 2.0), (1e30, 0.5), (0.2, -5.0))],
    "LeakyRelu": [{"alpha": a} for a in (0.01, 0.0, 1.0, 2.0, -0.5, -3.0, 1e30)],
    "Selu": [{"alpha": a, "gamma": g} for a, g in ((1.2, 0.9), (-1.2, 0.9), (1.2, -0.9), (-1.2, -2.0), (0.0, 1.0), (1e-9, 1e9))],
    "Shrink": [{"lambd": k, "bias": b} for k, b in ((0.5, 0.0), (0.5, 0.5), (-0.5, 0.2), (-0.5, -0.5), (0.0, 0.3), (2.0, -3.0))],
    "Softplus": [{}],
    "Swish": [{"alpha": a} for a in (1.0, 1.5, -1.0, 0.0, 1e10)],
    "ThresholdedRelu": [{"alpha": a} for a in (1.0, 0.0, 0.2, -1.0, 1e30, -1e30)],
}
WITH_A_CONSTANT: dict[str, list[Any]] = {
    "Add": [0.7, -1e30],
    "Div": [3.0, -1e-30, 1e30],
    "Max": [0.7, -1e30],
    "Mean": [0.7, 1e30],
    "Min": [0.7, 1e30],
    "Mul": [3.0, 1e-30, -1e30],
    "PRelu": [0.25, -0.5, 2.0, 0.0, 1e30],
    "Pow": [2.0, 0.5, 0.0, -1.0, 3.0, -2.0, 1 / 3, 1000.0, 2, -1, 0, 3],
    "Sub": [0.7, 1e30],
    "Sum": [0.7, 1e30],
}


def function(kind: str, attributes: Mapping[str, Any], order: str = "x", **weights: Array) -> bytes:
    opset = OPSETS.get(kind, 17)
    nodes = [node(kind, order, "h", **attributes), node("Flatten", "h", "logits")]
    return model_bytes(nodes, weights, input_shape=("batch", 2), opset=opset)


def number(value: Any) -> Array:
    return np.asarray(value, np.int64 if isinstance(value, int) else np.float32)


FUNCTIONS: dict[str, bytes] = {
    **{kind: function(kind, {}) for kind in Activation.types if kind not in ("Not",)},
    **{f"{kind} {given}": function(kind, given) for kind, many in PARAMETERS.items() for given in many},
    **{f"{kind} {value!r}": function(kind, {}, "x c", c=number(value)) for kind, many in WITH_A_CONSTANT.items() for value in many},
    **{f"{kind} from {value}": function(kind, {}, "c x", c=number(value)) for kind in ("Sub", "Div", "Pow") for value in (2.0, 0.5)},
    **{f"Clip {low} {high}": function("Clip", {}, "x a b", a=number(low), b=number(high)) for low, high in ((-1.0, 1.0), (2.0, 2.0))},
}


def by_reference(data: bytes, x: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(ReferenceEvaluator(onnx.load_model_from_string(data)).run(None, {"x": x})[0])


def differing(mine: Array, other: Array, slack: float) -> Array:
    """Where two answers differ by more than rounding; infinity and NaN must stand at the same places."""
    a, b = mine.astype(np.float64), other.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(all="ignore"):
        close = np.abs(a - b) <= slack + 3e-4 * np.maximum(np.abs(a), np.abs(b))
    return ~(same | (close & np.isfinite(a) & np.isfinite(b)))


def slack_of(graph: Graph) -> float:
    """Runtimes round exp(x) - 1 to 2^-24 of 1, times what stands before it; approximations of sigmoids to 1e-7, times x."""
    (operator, *_) = graph.operators
    return 4e-7 * max(1.0, float(np.prod(np.abs(operator.parameters)))) if grows(operator) else 1e-6


def grows(operator: Operator) -> bool:
    return isinstance(operator, Parametric) and operator.type in ("Celu", "Elu", "Selu")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_over_all_sizes(name: str) -> None:
    data = FUNCTIONS[name]
    graph = read_onnx(data)
    mine = ours(graph, SCAN)
    for oracle in (reference, by_reference):
        other = oracle(data, SCAN)
        where = differing(mine, other, slack_of(graph))
        assert not where.any(), (oracle.__name__, SCAN[where][:5], mine[where][:5], other[where][:5])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_in_double_precision_where_the_answer_is_small(name: str) -> None:
    """What bounds and Lipschitz radii speak about: relative differences, where no runtime's float32 hides them."""
    data = FUNCTIONS[name]
    x = SCAN[(np.abs(SCAN) < 60).all(axis=1) & (np.abs(SCAN) > 1e-30).all(axis=1)]
    graph = read_onnx(data)
    mine, other = ours(graph, x, torch.float64), by_reference(data, x)
    fits = np.abs(mine) < 1e35  # elsewhere one of the two overflows
    assert fits.mean() > 0.2
    assert not differing(mine, other, slack_of(graph))[fits].any()


def test_every_function_of_the_registry_is_scanned() -> None:
    elementwise = {kind for kind in (*Activation.types, *Parametric.types) if kind != "Not"} | set(WITH_A_CONSTANT) | {"Clip", "LeakyRelu"}
    assert elementwise <= set(OPERATORS)
    assert {name.split()[0] for name in FUNCTIONS} | set(PARAMETERS) >= elementwise


# ONNX's reference is wrong, or stops, where onnxruntime follows the standard's text: these have one oracle only.
NOT_IN_THE_REFERENCE = {
    "batchnorm opset 9": "it takes the statistics of the batch",
    "concat with a token": "a batch of one",
    "lpnorm 1": "it divides by the sum, not by the sum of magnitudes",
    "lrn": "it runs over the examples, not over the channels",
    "resize cubic align_corners down": "its corners are those of the length before it is rounded down",
    "resize linear align_corners down": "its corners are those of the length before it is rounded down",
    "softmax opset 11": "it has the softmax of opset 13",
    "softmax opset 11 default": "it has the softmax of opset 13",
}
FAILS_IN_THE_REFERENCE = {
    "convtranspose groups", "convtranspose output shape", "maxpool asymmetric", "pad crop", "reshape away a batch of one",
    "resize opset 10", "squeeze a batch of one", "upsample opset 8",
}  # fmt: skip
ODD: dict[str, bytes] = {
    "batchnorm, epsilon 0": one(
        "BatchNormalization",
        s=np.array([1, -2, 0, 3], np.float32),
        b=np.zeros(4, np.float32),
        m=np.ones(4, np.float32),
        v=np.array([1e-9, 1, 2, 1e9], np.float32),
        attributes={"epsilon": 0.0},
    ),
    "layernorm, epsilon 1e10": one("LayerNormalization", s=np.ones(6, np.float32), attributes={"epsilon": 1e10}),
    "rmsnorm, epsilon 3": one("RMSNormalization", s=np.ones(6, np.float32), attributes={"epsilon": 3.0}, opset=23),
    "cumsum from the end": one("CumSum", a=np.int64(-1)),
    "resize symmetric": resize("linear", "half_pixel_symmetric", scales=np.array([1, 1, 1.3, 0.7], np.float32), opset=19),
    "resize cubic -0.5": resize("cubic", "half_pixel", scales=np.array([1, 1, 1.3, 0.7], np.float32), cubic_coeff_a=-0.5),
    "averagepool ceil uneven": one(
        "AveragePool",
        attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0], "ceil_mode": 1, "count_include_pad": 1},
        opset=19,
    ),
}
WHOLE = {**OF_EVERY_OPERATOR, **ODD}


@pytest.mark.parametrize("name", WHOLE)
def test_an_operator_on_small_and_large_values(name: str) -> None:
    """Far from overflow; differences count relative to the largest value, as sums in another order make them."""
    data, rng = WHOLE[name], np.random.default_rng(1)
    graph = read_onnx(data)
    oracles = [reference]
    if name not in NOT_IN_THE_REFERENCE and name not in FAILS_IN_THE_REFERENCE and not name.startswith("resize"):
        oracles.append(by_reference)
    rounded = slack_of(graph) if grows(graph.operators[0]) else 0.0
    for exponent in (-38, -30, -8, 0, 8, 14):
        x = (rng.normal(size=(1, *graph.input_shape)) * 10.0**exponent).astype(np.float32)
        mine = ours(graph, x)
        for oracle in oracles:
            other = oracle(data, x)
            assert other.shape == mine.shape
            largest = float(np.abs(other[np.isfinite(other)]).max(initial=0.0))
            where = differing(mine, other, 3e-5 * min(largest, 1e30) + 1e-6 * min(1.0, largest) + 1e-37 + rounded)
            # Softmaxes and angles of large numbers, and powers of them, differ by the rounding of their arguments.
            assert where.mean() < 0.01 or exponent > 0, (exponent, oracle.__name__, mine[where][:4], other[where][:4])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (function("Celu", {"alpha": 1e30}), "factor 1e\\+30"),
        (function("Elu", {"alpha": -2000.0}), "factor -2000"),
        (function("Selu", {"alpha": 2000.0, "gamma": 2.0}), "factor 4000"),
        (function("Celu", {"alpha": 0.0}), "alpha = 0"),
        (function("Clip", {}, "x a b", a=number(1.0), b=number(-1.0)), "min = 1 above max = -1"),
        (one("LRN", attributes={"size": 3, "bias": -1.0}), "negative number"),
        (one("LRN", attributes={"size": 3, "alpha": -1.0}), "negative number"),
        (one("CumSum", a=np.int64(1), attributes={"exclusive": 1}), "exclusive"),
        (one("CumSum", a=np.int64(1), attributes={"reverse": 1}), "reverse"),
        (function("LeakyRelu", {"alpha": float("nan")}), "NaN or infinite"),
    ],
)
def test_parameters_on_which_runtimes_differ_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(ModelRejected, match=says):
        read_onnx(data)


def test_an_even_local_response_is_the_formula_of_the_standard() -> None:
    """onnxruntime has odd sizes only, the reference none: floor((size - 1) / 2) channels before, ceil((size - 1) / 2) after."""
    data = one("LRN", attributes={"size": 4, "alpha": 2.0, "beta": 0.6, "bias": 0.5})
    x = np.random.default_rng(0).normal(size=(2, 4, 7, 6)).astype(np.float32)
    expected = np.empty_like(x, np.float64)
    for c in range(4):
        near = x[:, max(0, c - 1) : c + 3].astype(np.float64)
        expected[:, c] = x[:, c] / (0.5 + 2.0 / 4 * np.square(near).sum(axis=1)) ** 0.6
    np.testing.assert_allclose(ours(read_onnx(data), x, torch.float64), expected.reshape(2, -1), rtol=1e-6)  # its attributes are float32
