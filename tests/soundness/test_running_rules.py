"""Rules for each kind of node: intervals that hold real values, weights that are rounded sums, the edges of what is known, and use.

The property: what stands on a node, and a margin minus `tau`, holds for the uploaded weights in real arithmetic; where a node has no rule,
nothing is proved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from certify import Examples, Model, certify
from certify.bounds import running_rules, running_terms
from certify.bounds.engine import LirpaEngine, MarginBound
from certify.bounds.running_error import RunningError
from certify.evaluation.float64 import LIBRARY
from certify.graph.reader import read_onnx
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.soundness.test_running_error import NETWORKS
from tests.support import bounds_cases, published
from tests.support.audit import RELAXED, affine, function, rational, real_values
from tests.support.exact import EXACT, exact
from tests.support.onnx_models import Array, mlp, model_bytes, node
from tests.support.runs import run_for

RADIUS = 0.2


def bounded(name: str, method: str) -> tuple[LirpaEngine, MarginBound, torch.Tensor]:
    engine = LirpaEngine(read_onnx(NETWORKS[name]()), Norm.LINF)
    x = torch.rand(engine._graph.input_shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return engine, engine.margin(x, 0, RADIUS, method), x


def intervals(engine: LirpaEngine) -> Iterator[tuple[Any, Array, Array]]:
    """All nodes that have one, and its ends, flat."""
    for one in engine._bounded._modules.values():
        low, high = getattr(one, "lower", None), getattr(one, "upper", None)
        if one.perturbed and low is not None and low.shape == one.output_shape:
            yield one, rational(low).reshape(-1), rational(high).reshape(-1)


def image(one: Any, ends: dict[str, tuple[Array, Array]]) -> tuple[Array, Array]:
    """The exact values that a node can make of the intervals of its inputs."""
    if type(one).__name__ == "BoundMaxPool":
        pytest.skip("a maximum rounds nothing")
    if type(one).__name__ in RELAXED:
        return function(one, ends[one.inputs[0].name][0]), function(one, ends[one.inputs[0].name][1])
    matrices, offset = affine(one)
    low = high = offset
    for value, matrix in zip(one.inputs, matrices, strict=False):
        if value.perturbed and matrix is not None:
            (least, most), up, down = ends[value.name], np.maximum(matrix, Fraction(0)), np.minimum(matrix, Fraction(0))
            low, high = low + up @ least + down @ most, high + up @ most + down @ least
    return low, high


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "max pool"])
def test_intervals_hold_the_exact_image_of_those_before_them(name: str) -> None:
    engine, bound, _ = bounded(name, "ibp")
    ends = {one.name: (low, high) for one, low, high in intervals(engine)}
    touched = 0
    for one in (one for one in engine._bounded._modules.values() if one.perturbed and one.inputs and one.name in ends):
        low, high = image(one, ends)
        assert (ends[one.name][0] <= low).all()
        assert (high <= ends[one.name][1]).all()
        touched += 1
    assert touched > 1
    # Margins: of the last interval, or of the product of the last matrix.
    last, rivals = engine._bounded.final_node(), rational(engine.rivals(0)[0])
    if type(last).__name__ == "BoundLinear":
        matrices, offset = affine(last)
        rows, constant, (low, high) = rivals @ matrices[0], rivals @ offset, ends[last.inputs[0].name]
        truth = np.minimum(rows * low, rows * high).sum(1) + constant
        assert Fraction(bound.lower) - Fraction(bound.tau) <= min(truth)


@pytest.mark.parametrize("name", ["shallow", "cancelling", "residual", "mean", "large, tiny, large"])
def test_intervals_that_are_not_made_wider_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunningError, "_slack", lambda *given: None)
    with pytest.raises(AssertionError):
        test_intervals_hold_the_exact_image_of_those_before_them(name)


def corners(x: torch.Tensor, count: int) -> Iterator[Array]:  # x: (*input)
    """Points of the ball: its centre, corners, and others."""
    centre, rng = rational(x).reshape(-1), np.random.default_rng(2)
    yield centre
    for i in range(count):
        signs = rng.choice([-1, 1], centre.size) if i % 2 else EXACT(rng.uniform(-1, 1, centre.size))
        yield centre + Fraction(RADIUS) * signs


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_real_value_lies_outside_its_interval_or_above_its_mass(name: str, method: str) -> None:
    engine, bound, x = bounded(name, method)
    ends, rounding = {one.name: (low, high) for one, low, high in intervals(engine)}, engine._rounding
    reach = {one.name: rational(rounding._reach(one)).reshape(-1) for one in engine._bounded._modules.values() if one.perturbed}
    for point in corners(x, 3):
        values = real_values(engine._bounded, point)
        for one, value in values.items():
            assert (abs(value) <= reach[one]).all()
            if one in ends:
                assert (ends[one][0] <= value).all()
                assert (value <= ends[one][1]).all()
        logits = values[engine._bounded.final_name]
        assert Fraction(bound.lower) - Fraction(bound.tau) <= min(logits[0] - logits[1:])


def _normalised() -> bytes:
    """A normalisation whose shift is the small rest of large numbers."""
    mean = np.array([3e4, -7e4], np.float32)
    kept = {"g": np.array([0.7, 1.3], np.float32), "m": mean, "v": np.array([0.3, 0.11], np.float32)}
    kept["h"] = (kept["m"] * kept["g"] / np.sqrt(kept["v"] + 1e-5)).astype(np.float32)
    nodes = [node("BatchNormalization", "x g h m v", "n"), node("Flatten", "n", "f"), node("Gemm", "f w b", "logits", transB=1)]
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(2, 4)).astype(np.float32), "b": np.zeros(2, np.float32)}
    return model_bytes(nodes, kept | weights, input_shape=("batch", 2, 2))


def test_a_shift_that_is_a_small_rest_of_large_numbers_is_charged_with_these() -> None:
    """The network is linear, so that its least margin in the ball is known exactly, at a corner."""
    graph, forgotten = read_onnx(_normalised()), []
    x = np.array([[0.3, 0.9], [0.5, 0.1]])
    engine = LirpaEngine(graph, Norm.LINF)
    slopes = [[exact(graph, x + unit)[0] - exact(graph, x + unit)[1] for unit in np.eye(4).reshape(4, 2, 2)]]
    rise = np.array(slopes[0]) - (exact(graph, x)[0] - exact(graph, x)[1])
    for label in (0, 1):
        sign = 1 if label == 0 else -1
        least = exact(graph, EXACT(x) - Fraction(RADIUS) * np.sign(sign * rise).reshape(2, 2))
        truth = sign * (least[0] - least[1])
        bound = engine.margin(torch.from_numpy(x), label, RADIUS, "crown")
        assert 0 <= truth - Fraction(bound.lower) + Fraction(bound.tau) < 1e-7
        engine._rounding._made_of = {}
        engine._rounding._constants.clear()
        blind = engine.margin(torch.from_numpy(x), label, RADIUS, "crown")
        forgotten.append(truth < Fraction(blind.lower) - Fraction(blind.tau))
        engine = LirpaEngine(graph, Norm.LINF)
    assert any(forgotten)


@pytest.mark.parametrize("kind", ["Sum", "Mean"])
def test_constants_that_cancel_are_charged_with_their_sizes(kind: str) -> None:
    constants = {"a": np.array([1e9, 3e8, 7.0], np.float32), "b": np.array([0.1, 0.3, 0.7], np.float32)}
    constants["c"] = -constants["a"]
    nodes = [node(kind, "x a b c", "s"), node("Gemm", "s w z", "logits", transB=1)]
    weights = {"w": np.eye(3, dtype=np.float32), "z": np.zeros(3, np.float32)}
    graph = read_onnx(model_bytes(nodes, constants | weights, input_shape=("batch", 3)))
    engine, share = LirpaEngine(graph, Norm.LINF), Fraction(1, 4 if kind == "Mean" else 1)
    x, total = np.array([0.5, 0.25, 0.125]), sum(EXACT(value) for value in constants.values())
    for label in range(3):
        values = share * (EXACT(x) + total)
        truth = min(values[label] - values[rival] for rival in range(3) if rival != label) - 2 * share * Fraction(RADIUS)
        bound = engine.margin(torch.from_numpy(x), label, RADIUS, "crown")
        assert 0 <= truth - Fraction(bound.lower) + Fraction(bound.tau) < 1e-4
    spread = engine.rewritten.made_of["w0_constant"].numpy()
    assert (spread >= float(share) * sum(np.abs(value.astype(float)) for value in constants.values())).all()


def test_the_matrix_of_an_einsum_knows_the_sizes_of_its_sums() -> None:
    weights = {"p": np.array([[1e6, -1e6], [1.0, 2.0]], np.float32), "q": np.array([3.0, 3.0], np.float32)}
    nodes = [node("Einsum", "x p q", "s", equation="bi,ij,j->bi"), node("Gemm", "s w z", "logits", transB=1)]
    graph = read_onnx(
        model_bytes(nodes, weights | {"w": np.eye(2, dtype=np.float32), "z": np.zeros(2, np.float32)}, input_shape=("batch", 2))
    )
    module = LirpaEngine(graph, Norm.LINF).rewritten
    assert np.allclose(module.get_parameter("w0_0_0").detach().numpy().squeeze(), [[0, 0], [0, 9]])
    assert np.allclose(module.made_of["w0_0_0"].numpy().squeeze(), [[6e6, 0], [0, 9]])


def _two_branches(weight: float, share: float) -> bytes:
    """logit 0 - logit 1 = -1e6 sigmoid(h) + share h, of h = weight x - 5."""
    kept = {"w": np.full((1, 1), weight, np.float32), "c": np.full(1, -5.0, np.float32), "s": np.array([[-1e6], [0]], np.float32)}
    kept |= {"t": np.array([[share], [0]], np.float32), "z": np.zeros(2, np.float32)}
    nodes = [node("Gemm", "x w c", "h", transB=1), node("Sigmoid", "h", "a"), node("Gemm", "a s z", "p", transB=1)]
    return model_bytes([*nodes, node("Gemm", "h t z", "q", transB=1), node("Add", "p q", "logits")], kept, input_shape=("batch", 1))


@pytest.mark.parametrize("place", [-0.45, -0.05])
def test_a_line_that_cuts_its_curve_is_measured(place: float) -> None:
    """auto-LiRPA 0.3 itself takes the chord from -500 for one from further out, where it lies below the curve: such a bound is wrong."""
    engine, stock = (LirpaEngine(read_onnx(_two_branches(1000.0, 20.0)), Norm.LINF) for _ in range(2))
    [curve] = [one for one in stock._bounded._modules.values() if type(one).__name__ == "BoundSigmoid"]
    curve.__class__ = type(curve).__mro__[1]  # without our heights
    x, truth = torch.tensor([place], dtype=torch.float64), 20.0 * (2000.0 * place - 5.0)
    ours, theirs = (one.margin(x, 0, -place, "crown") for one in (engine, stock))
    assert max(bound.lower - bound.tau for bound in (ours, theirs)) <= truth
    assert ours.tau < 1e-6
    if place == -0.45 and stock.version == "auto-LiRPA 0.3":
        assert theirs.lower > truth + 1000


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_what_has_no_rule_proves_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = read_onnx(mlp([4, 8, 3], seed=1)), torch.full((4,), 0.5)
    label = int(LirpaEngine(graph, Norm.LINF).logits(x).argmax())
    known = LirpaEngine(graph, Norm.LINF).margin(x, label, 1e-4, method)
    assert known.proved
    for kind in ("BoundRelu", "BoundLinear"):
        with monkeypatch.context() as patch:
            patch.delitem(running_rules._RULES, kind)
            engine = LirpaEngine(graph, Norm.LINF)
            bound = engine.margin(x, label, 1e-4, method)
        assert bound.lower == pytest.approx(known.lower)
        assert (bound.tau, bound.proved) == (math.inf, False)
        assert engine._rounding.reason == f"{kind} has no rounding rule"


def test_without_a_rule_the_verdict_is_unknown_and_there_is_no_tau(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(running_rules._RULES, "BoundRelu")
    model, x = Model.from_onnx(mlp([4, 8, 3], seed=1)), torch.full((1, 4), 0.5)
    examples = Examples((0,), x, model.module()(x).argmax(1))
    for question in ({"epsilon": 1e-4}, {"max_radius": 0.1}):
        spec = parse_spec({"certifiers": [{"kind": "bounds", "method": "crown", "norm": "linf", **question}]})
        [certificate] = certify(model, examples, spec, run_for(spec, model, 1))
        assert (certificate.verdict, certificate.radius) == (Verdict.UNKNOWN, 0.0)
        assert certificate.evidence.tau in (None, 0.0)
        json.loads(certificate.line(), parse_constant=pytest.fail)


@pytest.mark.parametrize("change", [{"alpha": 2.0}, {"beta": 0.5}, {"transA": 1}, {"transB": 0}])
def test_a_product_in_another_form_is_not_taken_for_one(change: dict[str, Any]) -> None:
    engine = LirpaEngine(read_onnx(mlp([3, 3, 3, 3], seed=1)), Norm.LINF)
    [first, *_] = [one for one in engine._bounded._modules.values() if type(one).__name__ == "BoundLinear"]
    around = engine._rounding._around(first)
    engine.margin(torch.full((3,), 0.5), 0, 0.01, "crown")
    plain = running_rules._RULES["BoundLinear"].mass(first, around)
    for name, value in change.items():
        setattr(first, f"{name}_linear" if hasattr(first, f"{name}_linear") else name, value)
    if "transB" in change:
        assert not torch.equal(running_rules._RULES["BoundLinear"].mass(first, around), plain)
    else:
        with pytest.raises(running_terms.Unknown):
            running_rules._RULES["BoundLinear"].mass(first, around)


@pytest.mark.parametrize(("name", "relative"), [("tanh", False), ("sigmoid", False), ("cosh", True)])
def test_curves_of_the_library_are_as_near_as_is_assumed(name: str, relative: bool) -> None:
    real = {"sigmoid": lambda x: 1 / (1 + mpmath.exp(-x))}.get(name) or getattr(mpmath, name)
    rng, units = np.random.default_rng(0), []
    x = np.concatenate([rng.normal(size=200) * scale for scale in (1e-3, 0.1, 1.0, 5.0, 30.0, 150.0)])
    for place, value in zip(x, getattr(torch, name)(torch.from_numpy(x)).tolist(), strict=True):
        with mpmath.workdps(40):
            truth = real(mpmath.mpf(float(place)))
            units.append(float(abs(truth - value) / (truth if relative else 1) / running_terms.UNIT))
    assert max(units) <= LIBRARY / 4


def _finite(data: bytes, methods: tuple[str, ...] = ("crown",)) -> None:
    graph = read_onnx(data)
    engine, x = LirpaEngine(graph, Norm.LINF), torch.rand(graph.input_shape, generator=torch.Generator().manual_seed(1))
    scale = max(1.0, float(engine.logits(x).abs().max()))
    for method in methods:
        assert 0 < engine.margin(x, 0, 0.1, method).tau < 1e-10 * scale, engine._rounding.reason


@pytest.mark.parametrize("case", bounds_cases.CASES)
def test_every_supported_form_has_rules(case: str) -> None:
    _finite(bounds_cases.network(case, "middle"), ("ibp", "crown"))


@pytest.mark.slow
@pytest.mark.parametrize("place", bounds_cases.POSITIONS)
@pytest.mark.parametrize("case", bounds_cases.CASES)
def test_every_supported_form_has_rules_wherever_it_stands(case: str, place: str) -> None:
    _finite(bounds_cases.network(case, place), ("ibp", "crown-ibp", "crown"))


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("mnist_fc_2022/mnist-net_256x6.onnx", ("ibp", "crown-ibp", "crown")),
        ("cifar10_resnet_2021/resnet_2b.onnx", ("ibp", "crown-ibp")),
        ("cifar10_resnet_2021/resnet_4b.onnx", ("ibp", "crown-ibp")),
        ("oval21_2022/cifar_deep_kw.onnx", ("crown-ibp",)),
        ("sri_resnet_a_2022/resnet_3b2_bn_mixup_adv_4.0_bs128_lr-1.onnx", ("crown-ibp",)),
    ],
)
def test_the_error_is_small_for_deep_published_networks(name: str, methods: tuple[str, ...], record_property: Callable[..., None]) -> None:
    path = published.folder() / name
    if not path.is_file():
        pytest.skip(f"{name} is not in ASSAY_NETWORKS")
    graph = published.load(path).graph
    engine = LirpaEngine(graph, Norm.LINF)
    for instance in [i for i in published.instances(path.parent) if i.net == path.name][:2]:
        x = instance.x.reshape(graph.input_shape)
        logits = engine.logits(x)
        scale = float(logits.max() - logits.min())
        for method in methods:
            tau = engine.margin(x, instance.label, instance.epsilon, method).tau
            record_property(f"{method} {instance.index}", tau / scale)
            assert 0 < tau < 1e-6 * scale
