"""Random networks: our module against onnxruntime, bounds and Lipschitz constants against what sampling finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from certify.bounds.engine import LirpaEngine
from certify.errors import NumericalError
from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from certify.lipschitz.bound import Bounds, NoConstant
from certify.norms import Norm
from tests.support.onnx_models import Array, model_bytes, node
from tests.support.onnx_reference import ours, reference
from tests.support.random_graphs import random_graph


def inputs(graph: Graph, rng: np.random.Generator, count: int) -> Array:
    return (rng.normal(size=(count, *graph.input_shape)) * rng.choice([0.3, 1.0, 3.0], (count, 1, 1, 1))).astype(np.float32)


def agrees(data: bytes, graph: Graph, seed: int) -> None:
    x = inputs(graph, np.random.default_rng(seed), 16)
    expected, mine = reference(data, x), ours(graph, x)
    # Functions that jump may be on either side of it; a whole row counts, as what follows mixes its values.
    largest = max(1.0, float(np.abs(expected).max()))
    wrong = np.abs(mine - expected).max(axis=1) > 1e-3 * largest
    assert wrong.mean() <= 0.1, (mine[wrong][:2], expected[wrong][:2])


def steepness(graph: Graph, seed: int) -> float:
    """The largest difference quotient of random pairs near and far, and of pairs along the steepest direction at a point."""
    model, rng = GraphModule(graph, torch.float64).eval(), np.random.default_rng(seed)
    a = torch.from_numpy(inputs(graph, rng, 64).astype(np.float64))
    slopes = torch.func.jacrev(lambda v: model(v[None])[0])(a[0]).reshape(graph.classes, -1)  # type: ignore[no-untyped-call]
    way = torch.linalg.svd(torch.nan_to_num(slopes), full_matrices=False).Vh[0].reshape(graph.input_shape)
    sizes = torch.from_numpy(10.0 ** rng.uniform(-4, 0.5, (64, 1, 1, 1)))
    steps = [sizes * torch.from_numpy(rng.normal(size=a.shape)), sizes * way]
    found = 0.0
    for start, step in ((a, steps[0]), (a[:1].expand_as(a), steps[1])):
        with torch.no_grad():
            moved = model(start + step) - model(start)
        quotients = torch.linalg.vector_norm(moved, dim=1) / torch.linalg.vector_norm(step.flatten(1), dim=1)
        found = max(found, float(quotients[torch.isfinite(quotients)].max()))
    return found


def lipschitz(graph: Graph, seed: int) -> bool:
    """Whether there is a constant; then no pair found is further apart."""
    try:
        most = Bounds.of(graph).at(graph.output)
    except NoConstant:
        return False
    assert steepness(graph, seed) <= most * (1 + 1e-7)
    return True


def bounded(graph: Graph, seed: int) -> int:
    """How many margins were bounded; no sampled or stepped input in the ball falls below one."""
    if any(operator.unbounded for operator in graph.operators):
        return 0
    rng, model = np.random.default_rng(seed), GraphModule(graph, torch.float64).eval()
    x = torch.from_numpy(inputs(graph, rng, 1)[0])
    radius = float(rng.choice([0.02, 0.2, 1.0]))
    corners = torch.from_numpy(rng.choice([-1.0, 1.0], (150, *graph.input_shape)))
    ball = x.double() + radius * corners * torch.from_numpy(rng.choice([1.0, 0.5, 0.1], (150, 1, 1, 1)))
    engine = LirpaEngine(graph, Norm.LINF)
    label = int(engine.logits(x).argmax())
    for _ in range(3):
        ball = ball.detach().requires_grad_()
        logits = model(ball)
        margins = torch.cat([logits[:, [label]] - logits[:, :label], logits[:, [label]] - logits[:, label + 1 :]], 1).min(1).values
        (slope,) = torch.autograd.grad(margins.sum(), ball)
        with torch.no_grad():
            ball = (ball - 0.5 * radius * slope.sign()).clamp(x.double() - radius, x.double() + radius)
    with torch.no_grad():
        logits = model(ball)
    margins = logits[:, [label]] - logits
    margins[:, label] = float("inf")
    worst = min(float(margins.min()), 1e300)
    for method in ("ibp", "crown"):
        try:
            bound = engine.margin(x, label, radius, method)
        except NumericalError:  # the engine cannot, and says so: nothing is claimed
            return 0
        assert bound.lower <= worst + 1e-9 * max(1.0, abs(worst)), (method, radius)
    return 2


def all_of(seeds: range) -> dict[str, int]:
    counts = {"graphs": 0, "constants": 0, "bounds": 0}
    for seed in seeds:
        data = random_graph(seed)
        graph = read_onnx(data)
        agrees(data, graph, seed)
        counts["graphs"] += 1
        counts["constants"] += lipschitz(graph, seed)
        counts["bounds"] += bounded(graph, seed)
    return counts


@pytest.mark.parametrize("group", range(4))
def test_random_networks(group: int) -> None:
    counts = all_of(range(10 * group, 10 * group + 10))
    assert counts["constants"] >= 4
    assert counts["bounds"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("group", range(10))
def test_many_random_networks(group: int) -> None:
    all_of(range(1000 + 400 * group, 1400 + 400 * group))


@pytest.mark.parametrize("first", ["Div", "Transpose"])
def test_divisions_by_negative_numbers_and_moved_axes_are_bounded(first: str) -> None:
    """The bound engine divides by positive numbers only, and views intervals as one line, which a transpose breaks."""
    nodes = {
        "Div": [node("Div", "x c", "h")],
        "Transpose": [node("Transpose", "x", "t", perm=[0, 2, 3, 1]), node("LeakyRelu", "t", "l"), node("Div", "l d", "h")],
    }
    rest = [node("Relu", "h", "r"), node("Flatten", "r", "f"), node("Gemm", "f w", "logits")]
    rng = np.random.default_rng(0)
    weights = {
        "c": np.array([-0.5, 2.0, -3.0], np.float32),
        "d": np.array([0.5, 2.0], np.float32),
        "w": rng.normal(size=(24, 3)).astype(np.float32),
    }
    graph = read_onnx(model_bytes([*nodes[first], *rest], weights, input_shape=("batch", 2, 4, 3)))
    assert bounded(graph, 1) == 2
