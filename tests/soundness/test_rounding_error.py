"""Rounding error bounds against exact evaluation of the network, in rational arithmetic.

The property: no run in float32 or float64, by torch or onnxruntime, optimised or not, in any order of summation, is farther from the
exact logits than the bound; and the bound is not so large that it would say nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from certify.bounds import forward_terms, rounding_error
from certify.bounds.rounding_error import ErrorBound, forward_error
from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from tests.support import published
from tests.support.exact import EXACT, exact
from tests.support.onnx_models import Array, mlp, model_bytes, node, small_cnn

INPUTS = 12


def _random(*shape: int, scale: float = 1.0, seed: int = 1) -> Array:
    return (scale * np.random.default_rng((seed, *shape)).normal(size=shape)).astype(np.float32)


def _image(nodes: list[Any], channels: int, size: int, **weights: Array) -> bytes:
    """Nodes that read `x` of shape (2, 6, 6) and write `s` of shape (channels, size, size), then a product."""
    weights |= {"w": _random(3, channels * size * size, scale=0.4), "b": _random(3)}
    return model_bytes(
        [*nodes, node("Flatten", "s", "f"), node("Gemm", "f w b", "logits", transB=1)], weights, input_shape=("batch", 2, 6, 6)
    )


def _residual() -> bytes:
    """conv, normalisation, a product with a constant, and the skip path: what optimisers fold and fuse."""
    nodes = [node("Conv", "x c", "h", pads=[1, 1, 1, 1]), node("BatchNormalization", "h gain shift m v", "n"), node("Mul", "n k", "p")]
    nodes += [node("Add", "p x", "r"), node("Relu", "r", "s")]
    kept = {"gain": _random(2), "shift": _random(2), "m": _random(2, scale=5), "v": np.array([0.3, 1e-3], np.float32)}
    return _image(nodes, 2, 6, c=_random(2, 2, 3, 3), k=np.array([3.0, -0.7], np.float32).reshape(1, 2, 1, 1), **kept)


def _cancelling() -> bytes:
    """Logits near 1 from terms near 1e6 that cancel, and then a layer that makes their error larger."""
    large = _random(1, 20, scale=1e6)
    first = np.concatenate([large, -large], axis=1) + np.zeros((4, 1), np.float32)
    weights = {"a": first, "b": _random(3, 4, scale=30)}
    nodes = [node("Gemm", "x a", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r b", "logits", transB=1)]
    return model_bytes(nodes, weights, input_shape=("batch", 40))


def _scaled(scale: float) -> bytes:
    """Large or tiny weights, undone at the end."""
    weights = {"a": _random(8, 5, scale=scale), "b": _random(8, 8), "c": _random(3, 8, scale=1 / scale)}
    nodes = [node("Gemm", "x a", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r b", "g", transB=1, alpha=0.3)]
    return model_bytes([*nodes, node("Gemm", "g c", "logits", transB=1)], weights, input_shape=("batch", 5))


def _small_normal() -> bytes:
    moved = [node("Sub", "x mean", "m"), node("Div", "m std", "d"), node("LeakyRelu", "d", "s", alpha=0.2)]
    return _image(moved, 2, 6, mean=np.full((1, 2, 1, 1), 0.5, np.float32), std=np.array([0.2, 0.01], np.float32).reshape(1, 2, 1, 1))


GROUPED = [node("Conv", "x c", "h", group=2, strides=[2, 2], pads=[1, 1, 1, 1]), node("Tanh", "h", "s")]
NETWORKS: dict[str, Callable[[], bytes]] = {
    "mlp": lambda: mlp([6, 16, 16, 3]),
    "sigmoid": lambda: mlp([6, 12, 3], activation="Sigmoid"),
    "tanh": lambda: mlp([6, 12, 12, 3], activation="Tanh"),
    "cnn": lambda: small_cnn(mean=0.5, std=0.25),
    "residual": _residual,
    "cancelling": _cancelling,
    "large weights": lambda: _scaled(1e15),
    "tiny weights": lambda: _scaled(1e-15),
    "normalisation": _small_normal,
    "grouped": lambda: _image(GROUPED, 2, 3, c=_random(2, 1, 3, 3)),
    "max pool": lambda: _image([node("MaxPool", "x", "s", kernel_shape=[2, 2], strides=[2, 2])], 2, 3),
    "mean pool": lambda: _image([node("AveragePool", "x", "s", kernel_shape=[2, 2], strides=[2, 2])], 2, 3),
    "global mean": lambda: _image([node("GlobalAveragePool", "x", "s")], 2, 1),
    "transposed": lambda: _image([node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("Mul", "t k", "s")], 2, 6, k=_random(1, 2, 1, 1)),
}


@functools.cache
def case(name: str) -> tuple[bytes, Graph, Array, Array, list[Array]]:
    """The file, the graph, a box, inputs in it (float64: corners, and real numbers between float32 ones), and their exact logits."""
    data = NETWORKS[name]()
    graph, rng = read_onnx(data), np.random.default_rng(7)
    x, radius = rng.random(graph.input_shape), 0.05
    inputs = x + radius * rng.uniform(-1, 1, (INPUTS, *graph.input_shape))
    inputs[::3] = x + radius * np.sign(inputs[::3] - x) * (1 - 1e-9)
    return data, graph, x - radius, x + radius, inputs, [exact(graph, one) for one in inputs]  # type: ignore[return-value]


def bound(name: str, dtype: torch.dtype) -> Array:
    _, graph, low, high, *_ = case(name)
    found = forward_error(graph, torch.from_numpy(low), torch.from_numpy(high), dtype)
    assert found.reason == ""
    return found.logits.numpy()


def _session(data: bytes, level: Any, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.graph_optimization_level = 1, 4, level
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def runs(data: bytes, graph: Graph, x: Array, dtype: torch.dtype) -> Iterator[Array]:
    """The logits of several ways of running it; the input is rounded to `dtype`."""
    given = torch.from_numpy(x).to(dtype)
    module = GraphModule(graph, dtype)
    with torch.no_grad():
        yield module(given).numpy()
        yield torch.cat([module(one[None]) for one in given]).numpy()
    if dtype == torch.float32:
        for level in (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
            yield _session(data, level, given.numpy())


def distance(run: Array, truth: list[Array]) -> Array:
    """The largest distance from the exact values, of each logit, rounded up."""
    apart = [[float(abs(Fraction(float(a)) - b)) for a, b in zip(row, real, strict=True)] for row, real in zip(run, truth, strict=True)]
    return np.array(apart).max(axis=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_run_is_farther_from_the_exact_logits_than_the_bound(name: str, dtype: torch.dtype) -> None:
    data, graph, _, _, inputs, truth = case(name)  # type: ignore[misc]
    limit = bound(name, dtype)
    seen = np.max([distance(run, truth) for run in runs(data, graph, inputs, dtype)], axis=0)
    assert (seen <= limit).all()
    assert (seen > 0).all()
    assert limit.max() <= 3e3 * seen.max()


@pytest.mark.parametrize("name", ["tiny weights", "cnn", "residual"])
def test_taking_subnormal_numbers_for_zero_is_covered(name: str) -> None:
    _, graph, _, _, inputs, truth = case(name)  # type: ignore[misc]
    torch.set_flush_denormal(True)
    try:
        with torch.no_grad():
            run = GraphModule(graph)(torch.from_numpy(inputs).float()).numpy()
    finally:
        torch.set_flush_denormal(False)
    assert (distance(run, truth) <= bound(name, torch.float32)).all()


def _sum(terms: Array) -> float:
    """One after another, each partial sum rounded to float32."""
    return float(np.add.accumulate(terms, dtype=np.float32)[-1])


def _wide(weights: Array, x: Array) -> tuple[Graph, Array]:
    """One product, and its float64 bounds at the point x."""
    data = model_bytes([node("Gemm", "x w", "logits", transB=1)], {"w": weights}, input_shape=("batch", weights.shape[1]))
    return read_onnx(data), forward_error(read_onnx(data), torch.from_numpy(x), torch.from_numpy(x), torch.float32).logits.numpy()


def test_every_order_of_summation_is_covered() -> None:
    rng = np.random.default_rng(3)
    half = _random(300, scale=1000)
    weights = np.concatenate([half, -half * np.float32(1 + 1e-6)])[None].repeat(2, axis=0)
    x = rng.random(600).astype(np.float32)
    _, limit = _wide(weights, x.astype(np.float64))
    truth = (EXACT(weights[0]) * EXACT(x)).sum()
    seen = []
    for _ in range(200):
        order = rng.permutation(600)
        seen.append(abs(Fraction(_sum(weights[0][order] * x[order])) - truth))
    by_size = np.argsort(-weights[0] * x)  # all that is positive first: the largest partial sums
    seen.append(abs(Fraction(_sum((weights[0] * x)[by_size])) - truth))
    assert max(seen) <= limit[0] <= 1000 * max(seen)


SMALL, COUNT = 2.0**-24, 6000


def _worst() -> tuple[Array, float]:
    """1 and then thousands of terms that each fall just short of changing it: every one of them is lost."""
    weights = np.full((2, COUNT), SMALL, np.float32)
    weights[:, 0] = 1.0
    _, limit = _wide(weights, np.ones(COUNT))
    return limit, abs(_sum(weights[0]) - (1 + (COUNT - 1) * SMALL))


def test_a_sum_that_loses_almost_all_that_it_may() -> None:
    limit, seen = _worst()
    assert 0.9 * limit[0] < seen <= limit[0]


def test_gamma_of_too_few_terms_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst case above finds a bound for three quarters of the terms too small, and one without the sum altogether."""
    honest = forward_terms.Format.gamma
    for wrong in (lambda n: 3 * n // 4, lambda n: 2):
        monkeypatch.setattr(forward_terms.Format, "gamma", lambda self, n, wrong=wrong: honest(self, wrong(n)))
        limit, seen = _worst()
        assert seen > limit[0]


def test_a_layer_that_makes_errors_larger_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were errors not handed on through |W|, the cancelling network would be outside."""
    data, graph, _, _, inputs, truth = case("cancelling")  # type: ignore[misc]
    seen = np.max([distance(run, truth) for run in runs(data, graph, inputs, torch.float32)], axis=0)
    honest = rounding_error._outward

    def forgetful(*args: Any, **extra: Any) -> Any:
        return replace(honest(*args, **extra), error=args[3] * 1e-3)

    monkeypatch.setattr(rounding_error, "_outward", forgetful)
    assert (seen > bound("cancelling", torch.float32)).any()


def at_zero(data: bytes, dtype: torch.dtype = torch.float32, reach: float = 1.0) -> ErrorBound:
    graph = read_onnx(data)
    high = torch.full(graph.input_shape, reach, dtype=torch.float64)
    return forward_error(graph, -high, high, dtype)


def test_what_leaves_the_range_of_the_format_has_no_bound() -> None:
    weights = {"a": np.full((4, 4), 1e25, np.float32), "b": np.full((3, 4), 1e25, np.float32)}
    nodes = [node("Gemm", "x a", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r b", "logits", transB=1)]
    data = model_bytes(nodes, weights, input_shape=("batch", 4))
    short = at_zero(data)
    assert bool(short.logits.isinf().all())
    assert short.reason == "gemm_logits may leave the range of the floating-point format"
    assert bool(at_zero(data, torch.float64).logits.isfinite().all())
    for broken in (float("nan"), float("inf")):
        assert bool(at_zero(NETWORKS["mlp"](), reach=broken).logits.isinf().all())


def test_an_operator_without_a_rule_has_no_bound() -> None:
    found = at_zero(mlp([3, 4, 2], activation="Softplus"))
    assert found.margin(0) == float("inf")
    assert found.reason.startswith("softplus_a0")
    graph = read_onnx(small_cnn())
    folded = replace(graph, operators=tuple(operator.for_bounds() for operator in graph.operators))
    low = torch.zeros(graph.input_shape, dtype=torch.float64)
    assert forward_error(folded, low, low, torch.float32).reason == "batchnormalization_n1 has no rounding rule"


def test_a_margin_adds_the_errors_of_its_two_logits() -> None:
    found = ErrorBound(torch.tensor([1.0, 5.0, 3.0], dtype=torch.float64))
    assert found.margin(1) == pytest.approx(8.0, rel=1e-7)
    assert found.margin(1) >= 8.0
    assert found.margin(0) == pytest.approx(6.0, rel=1e-7)


def test_the_bound_says_something_about_a_network_of_published_size() -> None:
    """784 pixels, a fifth of them inked, and two layers of 256: float32 moves no logit by a tenth of their scale."""
    graph = read_onnx(mlp([784, 256, 256, 10]))
    generator = torch.Generator().manual_seed(0)
    x, ink = (torch.rand(784, generator=generator, dtype=torch.float64) for _ in range(2))
    x = x * (ink < 0.2)
    with torch.no_grad():
        scale = float(GraphModule(graph, torch.float64)(x[None]).abs().max())
    for radius in (0.001, 0.01):
        assert forward_error(graph, x - radius, x + radius, torch.float32).logits.max() < 0.1 * scale


@pytest.mark.parametrize("name", ["mnist_fc_2022/mnist-net_256x2.onnx", "oval21_2022/cifar_base_kw.onnx", "oval21_2022/cifar_deep_kw.onnx"])
def test_published_networks_run_within_the_bound_and_well_below_their_margins(name: str) -> None:
    path = published.folder() / name
    if not path.is_file():
        pytest.skip(f"{name} is not in ASSAY_NETWORKS")
    graph = published.load(path).graph
    for instance in [i for i in published.instances(path.parent) if i.net == path.name][:5]:
        x = instance.x.double()
        found = forward_error(graph, x - instance.epsilon, x + instance.epsilon, torch.float32)
        with torch.no_grad():
            short, long = (GraphModule(graph, dtype)(x[None].to(dtype))[0].double() for dtype in (torch.float32, torch.float64))
        assert bool(((short - long).abs() <= found.logits).all())
        assert found.margin(instance.label) < 0.1 * float(long.max() - long.min())


def _two_branches(kind: str) -> bytes:
    """kind(5 x, -5 x): branches that cancel in a sum and in no extreme."""
    nodes = [node("Mul", "x five", "a"), node("Mul", "x minus", "b"), node(kind, "a b", "y"), node("Gemm", "y w", "logits", transB=1)]
    weights = {"five": np.full(1, 5, np.float32), "minus": np.full(1, -5, np.float32), "w": np.eye(2, 3, dtype=np.float32)}
    return model_bytes(nodes, weights, input_shape=("batch", 3))


@pytest.mark.parametrize("kind", ["Max", "Min", "Mean", "Sum"])
def test_operators_that_only_look_like_a_sum_have_no_rule(kind: str) -> None:
    graph, box = read_onnx(_two_branches(kind)), torch.ones(3, dtype=torch.float64)
    found = forward_error(graph, box, box, torch.float32)
    assert found.margin(0) == math.inf
    assert "no rounding rule" in found.reason


@pytest.mark.parametrize("slope", [-1.0, 1.5, 100.0])
def test_a_slope_outside_0_to_1_has_no_rule(slope: float) -> None:
    nodes = [node("LeakyRelu", "x", "y", alpha=slope), node("Gemm", "y w", "logits", transB=1)]
    graph = read_onnx(model_bytes(nodes, {"w": np.eye(2, 3, dtype=np.float32)}, input_shape=("batch", 3)))
    box = -torch.ones(3, dtype=torch.float64)
    found = forward_error(graph, box, box, torch.float32)
    assert found.margin(0) == math.inf
    assert "slope" in found.reason
