"""Weights that optimisers fuse may leave the normal range of float32: what that costs is in `float32_error`.

Each network is harmless in real arithmetic: factors far from 1 undo one another. onnxruntime with default options fuses some of them into
the weights beside them, which become subnormal or zero; its logits are then far from the exact ones, and never farther than the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from certify import Examples, Model, certify
from certify.bounds import forward_terms
from certify.bounds.rounding_error import forward_error
from certify.graph.reader import read_onnx
from certify.spec import parse_spec
from tests.support.exact import exact
from tests.support.onnx_models import Array, model_bytes, node
from tests.support.runs import run_for

CHANNELS, SIZE = 2, 3


def _random(*shape: int, scale: float = 1.0) -> Array:
    return (scale * np.random.default_rng((3, *shape)).normal(size=shape)).astype(np.float32)


def _full(value: float, *shape: int) -> Array:
    return np.full(shape, value, np.float32)


def _network(nodes: list[Any], undo: float, **weights: Array) -> bytes:
    """Nodes that make `s` of an image; a product that undoes their scale."""
    head = [node("Flatten", "s", "flat"), node("Gemm", "flat undo bias", "logits", transB=1)]
    size = CHANNELS * SIZE * SIZE
    kept = weights | {"undo": _random(3, size, scale=undo), "bias": _random(3)}
    return model_bytes([*nodes, *head], kept, input_shape=("batch", CHANNELS, SIZE, SIZE))


def _statistics(scale: float, var: float = 1.0) -> dict[str, Array]:
    return {"g": _full(scale, CHANNELS), "h": _full(0, CHANNELS), "m": _full(0, CHANNELS), "v": _full(var, CHANNELS)}


def conv_normalised() -> bytes:
    nodes = [node("Mul", "x up", "a"), node("Conv", "a k", "b"), node("BatchNormalization", "b g h m v", "s", epsilon=0.0)]
    return _network(nodes, 1e23, up=_full(1e20, 1), k=_random(2, 2, 1, 1, scale=1e-25), **_statistics(5e-20))


def conv_normalised_by_a_variance() -> bytes:
    nodes = [node("Mul", "x up", "a"), node("Conv", "a k", "b"), node("BatchNormalization", "b g h m v", "s", epsilon=0.0)]
    return _network(nodes, 1e20, up=_full(1e20, 1), k=_random(2, 2, 1, 1, scale=1e-25), **_statistics(1.0, var=1e30))


def conv_times_constant() -> bytes:
    nodes = [node("Mul", "x up", "a"), node("Conv", "a k", "b"), node("Mul", "b f", "s")]
    return _network(nodes, 1e23, up=_full(1e20, 1), k=_random(2, 2, 1, 1, scale=1e-25), f=_full(5e-20, 1, 2, 1, 1))


def conv_shifted_and_scaled() -> bytes:
    nodes = [node("Mul", "x up", "a"), node("Conv", "a k", "b"), node("Add", "b c", "d"), node("Mul", "d f", "s")]
    kept = {"up": _full(1e20, 1), "k": _random(2, 2, 1, 1, scale=1e-25), "c": _full(1e-6, 1, 2, 1, 1), "f": _full(5e-20, 1, 2, 1, 1)}
    return _network(nodes, 1e23, **kept)


def conv_twice_scaled() -> bytes:
    nodes = [node("Mul", "x up", "a"), node("Conv", "a k", "b"), node("Mul", "b f", "d"), node("Mul", "d f", "s")]
    return _network(nodes, 1e24, up=_full(1e20, 1), k=_random(2, 2, 1, 1, scale=1e-24), f=_full(3e-10, 1, 2, 1, 1))


def conv_divided() -> bytes:
    nodes = [node("Mul", "x up", "a"), node("Conv", "a k", "b"), node("Div", "b f", "s")]
    return _network(nodes, 1e23, up=_full(1e20, 1), k=_random(2, 2, 1, 1, scale=1e-25), f=_full(2e19, 1, 2, 1, 1))


def scaled_product() -> bytes:
    """A scale before a product, which is applied after it when they are fused."""
    nodes = [node("Mul", "x up", "a"), node("MatMul", "a k", "s")]
    return _network(nodes, 1e5, up=_full(1e32, 1), k=_random(SIZE, SIZE, scale=4e-38))


def product_scaled() -> bytes:
    nodes = [node("Mul", "x up", "a"), node("MatMul", "a k", "b"), node("Mul", "b f", "s")]
    return _network(nodes, 1e23, up=_full(1e20, 1), k=_random(SIZE, SIZE, scale=1e-25), f=_full(5e-20, 1))


def scale_before_convolution() -> bytes:
    nodes = [node("Mul", "x up", "a"), node("Mul", "a f", "b"), node("Conv", "b k", "s")]
    return _network(nodes, 1e23, up=_full(1e20, 1), k=_random(2, 2, 1, 1, scale=1e-25), f=_full(5e-20, 1, 2, 1, 1))


def row_of_factors() -> bytes:
    nodes = [node("Mul", "x up", "a"), node("Mul", "a f", "b"), node("Mul", "b f", "c"), node("Mul", "c f", "s")]
    return _network(nodes, 1e19, up=_full(1e20, 1), f=_full(1e-13, 1))


def transposed_convolution() -> bytes:
    """No rule for float32: nothing may be said."""
    nodes = [node("Mul", "x up", "a"), node("ConvTranspose", "a k", "b"), node("BatchNormalization", "b g h m v", "s", epsilon=0.0)]
    return _network(nodes, 1e23, up=_full(1e20, 1), k=_random(2, 2, 1, 1, scale=1e-25), **_statistics(5e-20))


FUSIONS: dict[str, Callable[[], bytes]] = {
    made.__name__: made
    for made in (
        conv_normalised,
        conv_normalised_by_a_variance,
        conv_times_constant,
        conv_shifted_and_scaled,
        conv_twice_scaled,
        conv_divided,
        scaled_product,
        product_scaled,
        scale_before_convolution,
        row_of_factors,
        transposed_convolution,
    )
}
LEVELS = (
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
)


def _answers(data: bytes, x: Array) -> list[Array]:
    found = []
    for level in LEVELS:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level, options.graph_optimization_level = 1, 4, level
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found.append(session.run(None, {"x": x[None]})[0][0])
    return found


def _input() -> Array:
    return np.random.default_rng(2).random((CHANNELS, SIZE, SIZE)).astype(np.float32)


def _limit(data: bytes, x: Array) -> Array:
    point = torch.from_numpy(x.astype(np.float64))
    return forward_error(read_onnx(data), point, point, torch.float32).logits.numpy()


def _seen(name: str) -> tuple[Array, Array]:
    """The largest distance of any run of onnxruntime from the exact logits, and the bound."""
    data, x = FUSIONS[name](), _input()
    if name == "transposed_convolution":
        return np.zeros(3), _limit(data, x)
    truth = exact(read_onnx(data), x)
    apart = [[float(abs(Fraction(float(a)) - b)) for a, b in zip(run, truth, strict=True)] for run in _answers(data, x)]
    return np.array(apart).max(axis=0), _limit(data, x)


@pytest.mark.parametrize("name", FUSIONS)
def test_no_runtime_is_farther_from_the_exact_logits_than_the_bound(name: str) -> None:
    seen, limit = _seen(name)
    assert (seen <= limit).all()


def test_what_is_lost_below_the_normal_range_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, those that onnxruntime fuses are outside."""
    monkeypatch.setattr(forward_terms.Row, "lost", lambda self, rule: 0.0)
    outside = []
    for name in FUSIONS:
        seen, limit = _seen(name)
        outside += [name] if (seen > limit).any() else []
    assert {"conv_normalised", "conv_times_constant", "conv_shifted_and_scaled", "conv_twice_scaled"} <= set(outside)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_no_such_network_gets_a_certificate_for_float32_runtimes_that_one_contradicts(name: str, method: str) -> None:
    data, x = FUSIONS[name](), _input()
    model = Model.from_onnx(data)
    entry = {"kind": "bounds", "method": method, "norm": "linf", "max_radius": 1.0}
    spec = parse_spec({"certifiers": [entry]})
    labels = model.module()(torch.from_numpy(x[None])).argmax(1)
    [found] = certify(model, Examples((0,), torch.from_numpy(x[None]), labels), spec, run_for(spec, model, 1))
    if found.statement == "float32-runtime":
        assert {int(answer.argmax()) for answer in _answers(data, x)} == {found.prediction}


def test_factors_folded_before_they_meet_the_data_are_covered() -> None:
    """As onnxruntime does not do it: 3e-22 * 3e-22 is subnormal, and what it meets is large."""
    nodes = [node("Mul", "x up", "a"), node("Mul", "a f", "b"), node("Mul", "b f", "c"), node("Relu", "c", "s")]
    data, x = _network(nodes, 1e13, up=_full(1e30, 1), f=_full(3e-22, 1)), _input()
    graph = read_onnx(data)
    truth = exact(graph, x).astype(np.float64)
    up, f = np.float32(1e30), np.float32(3e-22)
    for factor in (f * f, np.float32(0)):  # gradual, and taken for zero
        made = np.maximum(x * up * factor, 0).reshape(-1) @ graph.operators[-1].weights["weight"].T + graph.operators[-1].weights["bias"]
        assert (np.abs(made - truth) > 0).all()
        assert (np.abs(made - truth) <= _limit(data, x)).all()


def test_a_scale_that_is_applied_after_the_product_is_covered() -> None:
    """Products with data as it was are subnormal, or taken for zero; what is left is scaled up."""
    nodes = [node("Mul", "x up", "a"), node("MatMul", "a k", "s")]
    data = _network(nodes, 1e5, up=_full(1e32, 1), k=_random(SIZE, SIZE, scale=3e-36))
    x = _input() * np.float32(1e-3)
    graph = read_onnx(data)
    kernel, head = (operator.weights["weight"] for operator in graph.operators if "weight" in operator.weights)
    truth = exact(graph, x).astype(np.float64)
    made = x @ kernel.T
    for product in (made, np.where(np.abs(made) < 2.0**-126, np.float32(0), made)):
        logits = (product * np.float32(1e32)).reshape(-1) @ head.T + graph.operators[-1].weights["bias"]
        assert (np.abs(logits - truth) <= _limit(data, x)).all()


def test_ordinary_normalised_convolutions_keep_their_certificates() -> None:
    nodes = [node("Conv", "x k", "b"), node("BatchNormalization", "b g h m v", "s")]
    data = _network(nodes, 1.0, k=_random(2, 2, 1, 1), **_statistics(0.7, var=0.01))
    assert (_limit(data, _input()) <= 1e-3).all()


def test_more_constants_in_a_row_than_are_paid_for_get_no_bound() -> None:
    nodes = [node("Conv", "x k", "b0"), *(node("Mul", f"b{i} f", f"b{i + 1}") for i in range(9)), node("Identity", "b9", "s")]
    data = _network(nodes, 1.0, k=_random(2, 2, 1, 1), f=_full(1.01, 1))
    point = torch.from_numpy(_input().astype(np.float64))
    found = forward_error(read_onnx(data), point, point, torch.float32)
    assert "constants in a row" in found.reason
