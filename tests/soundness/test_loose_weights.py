"""Weights that are off: what bounds, Lipschitz constants, values and float32 errors make of them, for each operator that may have them.

The property, for weights anywhere within their errors (which are made large here): real logits stay within the error of the value, no
Lipschitz constant is below that of the network, no margin below its bound minus `tau`, and no float32 logit beyond `float32_error`. Each is
broken once the errors are taken away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from certify.bounds.engine import LirpaEngine
from certify.bounds.rounding_error import forward_error
from certify.evaluation.value import measured
from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.operators import Operator
from certify.graph.operators.base import Loose
from certify.graph.reader import read_onnx
from certify.lipschitz.bound import Bounds
from certify.lipschitz.constant import Work
from certify.lipschitz.parts import loosened
from certify.lipschitz.symbol import kernel_norm
from certify.norms import Norm
from tests.support.onnx_models import Array, model_bytes, node

SHAPE = (2, 4, 4)
OFF = 1e-3


def _random(*shape: int, scale: float = 1.0) -> Array:
    return (scale * np.random.default_rng((9, *shape)).normal(size=shape)).astype(np.float32)


def _positive(*shape: int) -> Array:
    return (0.5 + np.random.default_rng((8, *shape)).random(shape)).astype(np.float32)


def _image(nodes: list[Any], values: int, **weights: Array) -> bytes:
    """Nodes that make `s`, and an exact product behind it."""
    head = [node("Flatten", "s", "flat"), node("Gemm", "flat head", "logits", transB=1)]
    return model_bytes([*nodes, *head], weights | {"head": _random(3, values)}, input_shape=("batch", *SHAPE))


def _one(kind: str, values: int, *weights: Array, first: bool = True, **attributes: Any) -> Callable[[], bytes]:
    names = [f"w{i}" for i in range(len(weights))]
    inputs = ["x", *names] if first else [*names, "x"]
    return lambda: _image([node(kind, " ".join(inputs), "s", **attributes)], values, **dict(zip(names, weights, strict=True)))


def _gemm() -> bytes:
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f w c", "s", alpha=-0.7, beta=1.5, transB=1)]
    return _image(nodes, 5, w=_random(5, 32), c=_random(5))


def _volume() -> bytes:
    nodes = [node("Reshape", "x five", "v"), node("Conv", "v w c", "s", pads=[1, 0, 0, 0, 0, 1])]
    return _image(nodes, 3 * 2 * 2 * 4, five=np.array([0, 1, 2, 4, 4]), w=_random(3, 1, 2, 3, 2), c=_random(3))


def _line() -> bytes:
    nodes = [node("Reshape", "x three", "v"), node("Conv", "v w", "s", dilations=[2], pads=[1, 0])]
    return _image(nodes, 3 * 15, three=np.array([0, 2, 16]), w=_random(3, 2, 2))


CASES: dict[str, Callable[[], bytes]] = {
    "gemm": _gemm,
    "matmul": _one("MatMul", 24, _random(4, 3)),
    "left matmul": _one("MatMul", 24, _random(3, 4), first=False),
    "stacked matmul": _one("MatMul", 24, _random(1, 2, 4, 3)),
    "einsum": _one("Einsum", 24, _random(2, 4, 3), equation="bchw,cwk->bchk"),
    "conv": _one("Conv", 3 * 16, _random(3, 2, 3, 3), _random(3), pads=[1, 1, 1, 1]),
    "grouped uneven conv": _one("Conv", 4 * 9, _random(4, 1, 3, 3), _random(4), group=2, pads=[1, 1, 0, 0]),
    "line": _line,
    "volume": _volume,
    "transposed conv": _one("ConvTranspose", 3 * 36, _random(2, 3, 3, 3), _random(3)),
    "add": _one("Add", 32, _random(2, 1, 4)),
    "sub": _one("Sub", 32, _random(4), first=False),
    "mul": _one("Mul", 32, _random(2, 1, 1)),
    "div": _one("Div", 32, _positive(2, 1, 4)),
    "sum": _one("Sum", 32, _random(4), _random(2, 1, 1)),
    "mean": _one("Mean", 32, _random(4), _random(2, 1, 1)),
    "normalisation": _one("BatchNormalization", 32, _random(2), _random(2), _random(2, scale=3), _positive(2), epsilon=1e-3),
}
every_case = pytest.mark.parametrize("name", CASES)


def _loosened(graph: Graph, only: str = "") -> Graph:
    """The network with weights of its first operator of their own that are off by a thousandth."""
    place = next(i for i, operator in enumerate(graph.operators) if operator.weights)
    operator = graph.operators[place]
    assert operator.follows
    off = {key: OFF * np.abs(value.astype(np.float64)) + 1e-5 for key, value in operator.weights.items() if only in ("", key)}
    known = Loose(sizes={key: value / Loose.UNITS for key, value in off.items()})
    return _with(graph, place, replace(operator, loose=known))


def _with(graph: Graph, place: int, operator: Operator) -> Graph:
    return replace(graph, operators=(*graph.operators[:place], operator, *graph.operators[place + 1 :]))


def _ends(graph: Graph) -> list[Graph]:
    """Networks of exact weights at the ends of what they can be: all larger, all smaller in magnitude, and some of either sort."""
    place = next(i for i, operator in enumerate(graph.operators) if operator.loose.sizes)
    operator, rng, found = graph.operators[place], np.random.default_rng(1), []
    for choice in range(12):
        weights = {}
        for key, value in operator.weights.items():
            size = np.sign(value) if choice < 2 else rng.choice([-1.0, 1.0], value.shape)
            weights[key] = value + (1 - 2 * (choice == 1)) * size * operator.loose.errors().get(key, 0.0) * (1 - 1e-9)
        found.append(_with(graph, place, replace(operator, weights=weights, loose=Loose())))
    return found


def _exactly(graph: Graph) -> Graph:
    return replace(graph, operators=tuple(replace(operator, loose=Loose()) for operator in graph.operators))


def _x(rows: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(4).random((rows, *SHAPE)).astype(np.float32))


def _logits(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return GraphModule(graph, torch.float64)(x.double())


@every_case
def test_values_at_an_input_stay_within_their_error(name: str) -> None:
    graph, [x] = _loosened(read_onnx(CASES[name]())), _x()
    found, bare = measured(graph, x), measured(_exactly(graph), x)
    moved = torch.stack([(_logits(end, x[None])[0] - found.value).abs() for end in _ends(graph)])
    assert not found.reason
    assert bool((moved <= found.each * (1 + 1e-9)).all())
    assert bool((moved.amax(0) > bare.each).all())
    assert float(found.each.max()) <= 30 * float(moved.max())


def _norm(graph: Graph) -> float:
    zero = torch.zeros(1, *SHAPE)
    units = torch.eye(zero.numel()).reshape(-1, *SHAPE)
    columns = (_logits(graph, units) - _logits(graph, zero)).flatten(1)
    return float(torch.linalg.matrix_norm(columns, 2))


@pytest.mark.parametrize("only", ["scale", "bias", "mean", "var"])
def test_each_statistic_of_a_normalisation_counts(only: str) -> None:
    graph, [x] = _loosened(read_onnx(CASES["normalisation"]()), only), _x()
    operator = graph.operators[0]
    found = measured(graph.until(operator.output), x)
    moved = torch.stack([(_logits(end.until(operator.output), x[None])[0] - found.value).abs() for end in _ends(graph)])
    assert bool((moved <= found.each * (1 + 1e-9)).all())
    assert bool((moved.amax(0) > measured(_exactly(graph).until(operator.output), x).each).all())


@pytest.mark.parametrize("name", ["conv", "grouped uneven conv", "transposed conv", "mul", "div", "matmul", "normalisation"])
def test_each_step_of_an_operator_has_the_norm_of_the_largest_weights(name: str) -> None:
    graph = _loosened(read_onnx(CASES[name]()))
    operator = graph.operators[0]
    part = graph.until(operator.output)
    norms = [_norm(end.until(operator.output)) for end in _ends(graph)]
    [[step]] = loosened(operator.parts(), operator.sized().parts())
    assert max(norms) <= step.norm(Work(1e12)).norm
    assert max(norms) > _norm(part)
    kernel = step.kernel(SHAPE)
    assert kernel is None or max(norms) <= kernel_norm(kernel).norm
    assert (kernel is not None) == (name in ("conv", "grouped uneven conv", "mul", "normalisation"))


@every_case
def test_no_lipschitz_constant_is_below_that_of_the_network(name: str) -> None:
    graph = _loosened(read_onnx(CASES[name]()))
    norms = [_norm(end) for end in _ends(graph)]
    for known in (Bounds.of(graph), Bounds.of(graph, 1e3)):  # by one matrix, and step by step where work is short
        assert max(norms) <= known.at(graph.output) <= 100 * max(norms)
    if name not in ("add", "sub", "sum", "mean"):  # where constants only shift
        assert max(norms) > Bounds.of(_exactly(graph)).at(graph.output)


@every_case
def test_pairs_of_logits_move_no_faster_than_their_constants(name: str) -> None:
    graph = _loosened(read_onnx(CASES[name]()))
    constants = Bounds.of(graph).pairwise(0)
    zero, units = torch.zeros(1, *SHAPE), torch.eye(32).reshape(-1, *SHAPE)
    for end in _ends(graph):
        columns = _logits(end, units) - _logits(end, zero)
        for rival in (1, 2):
            assert float(torch.linalg.vector_norm(columns[:, 0] - columns[:, rival])) <= constants[rival]


@every_case
@pytest.mark.parametrize("radius", [1e-9, 0.01])
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_no_margin_is_below_its_bound_minus_tau(name: str, method: str, radius: float) -> None:
    graph, [x] = _loosened(read_onnx(CASES[name]())), _x()
    engine = LirpaEngine(graph, Norm.LINF)
    label = int(engine.logits(x).argmax())
    bound = engine.margin(x, label, radius, method)
    signs = torch.from_numpy(np.random.default_rng(2).choice([-1.0, 1.0], (64, *SHAPE)))
    inputs = torch.cat([x.double()[None], x.double() + radius * signs])
    for end in _ends(graph):
        logits = _logits(end, inputs)
        margins = logits[:, [label]] - torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
        assert float(margins.min()) >= bound.lower - bound.tau
    assert bound.tau < np.inf


def test_without_their_errors_margins_do_fall_below() -> None:
    below = 0
    for made in CASES.values():
        graph, [x] = _loosened(read_onnx(made())), _x()
        engine = LirpaEngine(_exactly(graph), Norm.LINF)
        label = int(engine.logits(x).argmax())
        bound = engine.margin(x, label, 1e-9, "crown")
        for end in _ends(graph):
            logits = _logits(end, x[None])[0]
            rivals = [float(logits[label] - logits[rival]) for rival in range(3) if rival != label]
            below += min(rivals) < bound.lower - bound.tau
    assert below >= len(CASES)


FLOAT32 = ("gemm", "conv", "grouped uneven conv", "add", "sub", "mul", "div", "normalisation")


@pytest.mark.parametrize("name", FLOAT32)
@pytest.mark.parametrize("kind", ["sizes", "spreads"])
def test_no_float32_logit_is_beyond_its_error(name: str, kind: str) -> None:
    """Whether the weights are off from real arithmetic, or those of a runtime from them."""
    graph, [x] = _loosened(read_onnx(CASES[name]())), _x()
    ends, known = _ends(graph), graph
    if kind == "spreads":
        operators = [replace(o, loose=Loose(spreads=o.loose.errors())) if o.loose.sizes else o for o in graph.operators]
        known = replace(graph, operators=tuple(operators))
    point = x.double()
    found, bare = forward_error(known, point, point, torch.float32), forward_error(_exactly(graph), point, point, torch.float32)
    centre = _logits(graph, x[None])[0]
    with torch.no_grad():
        runs = [GraphModule(end, torch.float32)(x[None])[0].double() for end in ends]
    moved = torch.stack([(run - centre).abs() for run in runs]).amax(0)
    assert not found.reason
    assert bool((moved <= found.logits).all())
    assert bool((moved > bare.logits).all())


def test_an_operator_of_which_nothing_is_known_gets_no_bound() -> None:
    graph = read_onnx(CASES["mul"]())
    graph = _with(graph, 0, replace(graph.operators[0], loose=Loose(unknown="reads what nobody knows")))
    [x] = _x()
    assert "nobody knows" in measured(graph, x).reason
    assert "nobody knows" in forward_error(graph, x.double(), x.double(), torch.float32).reason
    with pytest.raises(Exception, match="nobody knows"):
        Bounds.of(graph).at(graph.output)
    with pytest.raises(Exception, match="nobody knows"):
        LirpaEngine(graph, Norm.LINF)


def test_what_a_runtime_may_fold_to_anything_gets_no_float32_error() -> None:
    graph = read_onnx(CASES["mul"]())
    graph = _with(graph, 0, replace(graph.operators[0], loose=Loose(undecided="may be anything")))
    [x] = _x()
    assert "may be anything" in forward_error(graph, x.double(), x.double(), torch.float32).reason
    assert not measured(graph, x).reason
