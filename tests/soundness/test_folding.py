"""Constants that nodes make of constants: the weights that are certified, against 80 digits and against what onnxruntime folds.

The property: no folded weight is farther from the exact one than its bound, no runtime's farther than its spread, and no radius beyond the
exact one. The float32 weights that run, taken for the exact ones, do break the first; bounds of zero break all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from certify import Examples, Model, certify
from certify.certificate import Certificate
from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.operators.base import Loose
from certify.graph.reader import read_onnx
from certify.spec import parse_spec
from tests.support.constant_graphs import CASES, DIGITS, INPUTS, Case, classifier, exact
from tests.support.onnx_models import Array, node
from tests.support.runs import run_for

every_case = pytest.mark.parametrize("name", CASES)


def _away(a: Array, b: Array) -> Array:
    """|a - b|, both exact numbers, as floats."""
    with mpmath.workdps(DIGITS):
        return np.vectorize(lambda v, w: float(abs(mpmath.mpf(float(v)) - w)), otypes=[float])(a, b)


@every_case
def test_no_weight_is_farther_from_the_exact_one_than_its_bound(name: str) -> None:
    case = CASES[name]()
    [linear] = read_onnx(classifier(case)).operators
    assert not linear.loose.unknown
    error = linear.loose.errors().get("weight", np.zeros((2, INPUTS)))
    truth = exact(case)
    assert np.all(_away(linear.weights["weight"], truth) <= error)
    # What runs is no such weight, and the bound is worth having.
    deployed = linear.loose.deployed.get("weight", linear.weights["weight"])
    assert np.any(_away(deployed, truth) > error)
    assert np.max(error) <= 1e-4


def test_the_network_that_runs_has_the_weights_of_the_reference() -> None:
    apart = 0
    for made in CASES.values():
        graph = read_onnx(classifier(made()))
        deployed = graph.operators[0].loose.deployed["weight"]
        assert np.array_equal(GraphModule(graph).w0_weight.numpy(), deployed)
        apart += not np.array_equal(graph.operators[0].weights["weight"].astype(np.float32), deployed)
    assert apart > 0


def _folds(case: Case, level: Any) -> Array:
    """What onnxruntime makes of the constants."""
    model = onnx.load_model_from_string(classifier(case))
    model.graph.output.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["w"], {"x": np.zeros((1, INPUTS), np.float32)})[0]


LEVELS = (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)


@every_case
def test_no_runtime_folds_to_anything_beyond_the_spread(name: str) -> None:
    case = CASES[name]()
    [linear] = read_onnx(classifier(case)).operators
    found = [_folds(case, level).astype(np.float64) for level in LEVELS]
    if linear.loose.undecided:
        return  # then nothing is said about float32 runtimes
    spread = linear.loose.spreads["weight"]
    for weights in (*found, *_in_float32(case)):
        assert np.all(np.abs(weights - linear.weights["weight"]) <= spread)


def _in_float32(case: Case) -> Iterator[Array]:
    """Matrix products in other orders of summation."""
    nodes, kept = case
    if [each.op_type for each in nodes] != ["MatMul"]:
        return
    a, b = kept["a"], kept["b"]
    for seed in range(20):
        order, total = np.random.default_rng(seed).permutation(a.shape[1]), np.zeros((2, INPUTS), np.float32)
        for k in order:
            total += a[:, k, None] * b[None, k]
        yield total.astype(np.float64)


def _certified(model: Model, x: Array, **entry: Any) -> Certificate:
    spec = parse_spec({"certifiers": [entry]})
    rows = torch.from_numpy(x[None])
    labels = GraphModule(model.graph, torch.float64)(rows.double()).argmax(1)
    [found] = certify(model, Examples((0,), rows, labels), spec, run_for(spec, model, 1))
    return found


def _exact_radius(case: Case, x: Array, label: int, norm: str) -> mpmath.mpf:
    with mpmath.workdps(DIGITS):
        w = exact(case)
        bias = [mpmath.mpf(float(np.float32(v))) for v in (0.4, -0.3)]
        d = w[label] - w[1 - label]
        margin = sum((a * mpmath.mpf(float(v)) for a, v in zip(d, x, strict=True)), bias[label] - bias[1 - label])
        length = mpmath.sqrt(sum(v * v for v in d)) if norm == "l2" else sum(abs(v) for v in d)
        return margin / length


def _close(case: Case) -> Array:
    """An input with a small margin, so that a weight that is off shows in the radius."""
    return (100 * np.random.default_rng(5).normal(size=INPUTS)).astype(np.float32)


@every_case
def test_no_radius_is_beyond_the_exact_one(name: str) -> None:
    case = CASES[name]()
    model, x = Model.from_onnx(classifier(case)), _close(case)
    for entry in ({"kind": "lipschitz"}, {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 1e6, "tolerance": 1e-9}):
        found = _certified(model, x, **entry)
        assert found.verdict == "certified", found.reason
        truth = _exact_radius(case, x, found.prediction, "l2" if entry["kind"] == "lipschitz" else "linf")
        assert found.radius <= truth
        assert found.radius >= 0.9999 * float(truth) or found.radius > 9e5


def _without_bounds(graph: Graph) -> Graph:
    """The weights that run, taken for the exact ones: as if folding were exact."""
    operators = tuple(
        replace(o, weights={**o.weights, **o.loose.deployed}, loose=Loose(deployed=o.loose.deployed)) for o in graph.operators
    )
    return replace(graph, operators=operators)


def test_weights_that_run_taken_for_the_exact_ones_break_radii() -> None:
    broken = 0
    for made in CASES.values():
        case = made()
        model, x = Model.from_onnx(classifier(case)), _close(case)
        model.__dict__["graph"] = _without_bounds(model.graph)
        found = _certified(model, x, kind="lipschitz")
        broken += found.radius > _exact_radius(case, x, found.prediction, "l2")
    assert broken >= 4


def test_bounds_of_zero_break_radii() -> None:
    """In float64 alone, without a bound, sums that cancel are off by more than all other slack."""
    case = CASES["cancelling_product"]()
    model = Model.from_onnx(classifier(case))
    graph = replace(model.graph, operators=tuple(replace(o, loose=Loose(deployed=o.loose.deployed)) for o in model.graph.operators))
    honest, broken = 0, 0
    for seed in range(8):
        x = (1e4 * np.random.default_rng(seed).normal(size=INPUTS)).astype(np.float32)
        for bounded in (True, False):
            fresh = Model.from_onnx(classifier(case))
            if not bounded:
                fresh.__dict__["graph"] = graph
            found = _certified(fresh, x, kind="lipschitz")
            beyond = found.radius > _exact_radius(case, x, found.prediction, "l2")
            honest, broken = honest + (bounded and beyond), broken + (not bounded and beyond)
    assert honest == 0
    assert broken > 0


def _floored(shift: float, *, places: bool) -> Case:
    """v times floor(1 / 3 * 3 + shift), or rows of v at that place."""
    nodes = [node("Div", "one three", "r"), node("Mul", "r three", "p"), node("Add", "p shift", "q"), node("Floor", "q", "f")]
    nodes += [node("Cast", "f", "i", to=7), node("Gather", "v3 i", "w")] if places else [node("Mul", "v f", "w")]
    kept = {"one": np.ones(1, np.float32), "three": np.full(1, 3, np.float32), "shift": np.full(1, shift, np.float32)}
    rows = np.random.default_rng(0).normal(size=(2, INPUTS)).astype(np.float32)
    return nodes, kept | {"v": rows, "v3": np.stack([rows, rows + 1, rows + 2])}


@pytest.mark.parametrize("places", [False, True])
def test_what_rounding_decides_leaves_no_claim(places: bool) -> None:
    nodes, kept = _floored(0.0, places=places)
    if places:
        nodes = [*nodes[:-1], node("Gather", "v3 i", "w3"), node("Squeeze", "w3 first", "w")]
        kept |= {"first": np.array([0])}
    [linear] = read_onnx(classifier((nodes, kept))).operators
    assert "no bound" in linear.loose.unknown
    kept["shift"] += np.float32(0.5)
    [linear] = read_onnx(classifier((nodes, kept))).operators
    assert not linear.loose.unknown


def test_moves_of_what_stands_in_the_file_are_exact() -> None:
    rows = np.random.default_rng(0).normal(size=(INPUTS, 2)).astype(np.float32)
    nodes = [node("Transpose", "v", "t", perm=[1, 0]), node("Neg", "t", "n"), node("Mul", "n one", "m"), node("Sub", "m zero", "w")]
    case = nodes, {"v": rows, "one": np.array(1, np.float32), "zero": np.array(0, np.float32)}
    [linear] = read_onnx(classifier(case)).operators
    assert linear.loose == Loose()
    assert np.array_equal(linear.weights["weight"], -rows.T)


def test_a_constant_that_no_rule_follows_leaves_smoothing_alone() -> None:
    """A product along an axis has no rule; the classifier that runs is read as ever."""
    nodes = [node("ReduceProd", "v", "p", axes=[0], keepdims=0), node("Mul", "rows p", "w")]
    kept = {"v": np.full((3, INPUTS), 1.1, np.float32), "rows": np.ones((2, INPUTS), np.float32)}
    model = Model.from_onnx(classifier((nodes, kept)))
    assert "no bound" in model.graph.operators[0].refused
    assert np.allclose(model.module()(torch.ones(1, INPUTS)).numpy(), 6 * 1.331 + np.array([0.4, -0.3]), atol=1e-5)
