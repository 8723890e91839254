"""Interpolation weights against rational arithmetic: of Resize itself, and in the radii of what stands behind it."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch

from certify import Examples, Model, certify
from certify.errors import ModelRejected
from certify.graph.module import GraphModule, bounds_module
from certify.graph.operators import Operator
from certify.graph.operators.base import Loose
from certify.graph.reader import read_onnx
from certify.lipschitz.bound import Bounds, NoConstant
from certify.spec import parse_spec
from tests.support.onnx_models import Array, model_bytes, node
from tests.support.runs import run_for

PLACES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric")
SIZES = ((3, 7), (7, 3), (5, 5 * 3), (4, 8), (6, 1))


def _model(mode: str, place: str, size: int, wanted: int, scale: float | None = None, **attributes: str) -> bytes:
    inputs = "x roi scales sizes" if scale is None else "x roi scales"
    resize = node("Resize", inputs, "y", mode=mode, coordinate_transformation_mode=place, **attributes)
    kept = {"roi": np.zeros(0, np.float32), "scales": np.array([] if scale is None else [1, 1, scale], np.float32)}
    kept |= {} if scale is not None else {"sizes": np.array([1, 1, wanted])}
    head = [node("Flatten", "y", "f"), node("Gemm", "f w", "logits", transB=1)]
    weight = np.random.default_rng(0).normal(size=(2, wanted)).astype(np.float32)
    return model_bytes([resize, *head], kept | {"w": weight}, input_shape=("batch", 1, size))


def _place(place: str, row: int, size: int, wanted: int, scale: Fraction) -> Fraction:
    """As the ONNX standard writes it."""
    half = Fraction(1, 2)
    match place:
        case "align_corners":
            return Fraction(row * (size - 1), wanted - 1) if wanted > 1 else Fraction(0)
        case "asymmetric":
            return row / scale
        case "pytorch_half_pixel" if wanted == 1:
            return Fraction(0)
        case "half_pixel_symmetric":
            return Fraction(size, 2) * (1 - wanted / (scale * size)) + (row + half) / scale - half
    return (row + half) / scale - half


def _hat(t: Fraction) -> Fraction:
    return max(Fraction(0), 1 - abs(t))


def _keys(t: Fraction) -> Fraction:
    """Keys 1981 with a = -3/4."""
    a, t = Fraction(-3, 4), abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else Fraction(0)


def _exact(mode: str, place: str, size: int, wanted: int, scale: Fraction) -> Array:
    found = np.full((wanted, size), Fraction(0))
    for row in range(wanted):
        x = _place(place, row, size, wanted, scale)
        x = min(max(x, Fraction(0)), Fraction(size - 1)) if mode == "linear" else x
        for k in range(math.floor(x) - 2, math.floor(x) + 4):
            weight = _hat(x - k) if mode == "linear" else _keys(x - k)
            found[row, min(max(k, 0), size - 1)] += weight
    return found


def _resize(data: bytes) -> Operator:
    return read_onnx(data).operators[0]


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_no_weight_is_farther_from_the_exact_one_than_its_bound(mode: str, place: str, size: int, wanted: int) -> None:
    operator = _resize(_model(mode, place, size, wanted))
    assert not operator.loose.unknown
    [(key, weights)] = operator.weights.items()
    error = operator.loose.errors().get(key, np.zeros_like(weights))
    truth = _exact(mode, place, size, wanted, Fraction(wanted, size))
    away = np.vectorize(lambda a, b: float(abs(Fraction(float(a)) - b)), otypes=[float])(weights, truth)
    assert np.all(away <= error)
    assert error.max() <= 1e-12


def test_scales_of_the_file_are_taken_as_they_stand_there() -> None:
    scale = np.nextafter(np.float32(7 / 3), np.float32(3))
    operator = _resize(_model("linear", "half_pixel", 3, 7, float(scale)))
    [(key, weights)] = operator.weights.items()
    truth = _exact("linear", "half_pixel", 3, 7, Fraction(float(scale)))
    away = np.vectorize(lambda a, b: float(abs(Fraction(float(a)) - b)), otypes=[float])(weights, truth)
    assert np.all(away <= operator.loose.errors()[key])
    assert np.any(np.abs(weights - _exact("linear", "half_pixel", 3, 7, Fraction(7, 3)).astype(np.float64)) > 1e-9)


def test_weights_that_float32_has_are_exact() -> None:
    operator = _resize(_model("linear", "half_pixel", 4, 8))
    assert not operator.loose.sizes
    assert all(np.array_equal(operator.weights[key], kept) for key, kept in operator.loose.deployed.items())


def test_the_network_that_runs_keeps_the_weights_of_float32() -> None:
    graph = read_onnx(_model("linear", "half_pixel", 3, 7))
    x = torch.rand(4, 1, 3)
    [(key, kept)] = graph.operators[0].loose.deployed.items()
    assert kept.dtype == np.float32
    made = (x.numpy() @ kept.T).reshape(4, -1) @ graph.operators[-1].weights["weight"].T
    assert np.allclose(GraphModule(graph)(x).numpy(), made, rtol=1e-6, atol=1e-6)
    assert not np.array_equal(kept, graph.operators[0].weights[key])


def test_a_neighbour_that_float32_takes_and_real_arithmetic_does_not_leaves_no_claim() -> None:
    """1 / (2 / 14) is 7, and 6.9999995 in float32."""
    graph = read_onnx(_model("nearest", "asymmetric", 14, 2, nearest_mode="floor"))
    assert "another neighbour" in graph.operators[0].loose.unknown
    with pytest.raises(ModelRejected, match="another neighbour"):
        bounds_module(graph)
    with pytest.raises(NoConstant, match="another neighbour"):
        Bounds.of(graph).at(graph.output)
    assert not read_onnx(_model("nearest", "asymmetric", 14, 7, nearest_mode="floor")).operators[0].loose.unknown


def _radii(data: bytes, x: Array, *, bounded: bool = True, deployed: bool = False) -> list[tuple[float, mpmath.mpf]]:
    """Radii and the exact ones, in l2 and linf."""
    model = Model.from_onnx(data)
    graph = model.graph
    if not bounded:
        resize = graph.operators[0]
        weights = {**resize.weights, **(resize.loose.deployed if deployed else {})}
        bare = replace(resize, weights=weights, loose=Loose(deployed=resize.loose.deployed))
        model.__dict__["graph"] = replace(graph, operators=(bare, *graph.operators[1:]))
    w = np.vectorize(lambda v: Fraction(float(v)))(graph.operators[-1].weights["weight"])
    found = []
    for entry in ({"kind": "lipschitz"}, {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 1e6, "tolerance": 1e-9}):
        spec = parse_spec({"certifiers": [entry]})
        rows = torch.from_numpy(x[None])
        labels = GraphModule(model.graph, torch.float64)(rows.double()).argmax(1)
        [one] = certify(model, Examples((0,), rows, labels), spec, run_for(spec, model, 1))
        d = (w[one.prediction] - w[1 - one.prediction]) @ _exact("linear", "half_pixel", 3, 7, Fraction(7, 3))
        margin = sum(a * Fraction(float(v)) for a, v in zip(d, x[0], strict=True))
        with mpmath.workdps(60):
            numbers = [mpmath.mpf(v.numerator) / v.denominator for v in d]
            length = mpmath.sqrt(sum(v * v for v in numbers)) if entry["kind"] == "lipschitz" else sum(abs(v) for v in numbers)
            found.append((one.radius, mpmath.mpf(margin.numerator) / margin.denominator / length))
    return found


def test_no_radius_behind_it_is_beyond_the_exact_one() -> None:
    data, broken = _model("linear", "half_pixel", 3, 7), 0
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(1, 3)).astype(np.float32)
        for radius, truth in _radii(data, x):
            assert 0.999999 * truth <= radius <= truth
        broken += sum(radius > truth for radius, truth in _radii(data, x, bounded=False, deployed=True))
    assert broken > 0  # were float32 weights taken for the exact ones
