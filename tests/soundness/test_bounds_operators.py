"""Every operator that bound propagation accepts in a rewritten form: the same values, and bounds that no input in the ball breaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from certify import Model
from certify.bounds.engine import METHODS, LirpaEngine
from certify.errors import ModelRejected, NumericalError
from certify.graph.graph import Graph
from certify.graph.module import GraphModule, bounds_module
from certify.graph.operators.pooling import AveragePool
from certify.graph.reader import read_onnx
from certify.norms import Norm
from tests.soundness.test_bounds_matrix import RADII, SLACK, in_ball, worst_margin
from tests.support import bounds_table
from tests.support.bounds_cases import CASES, POSITIONS, SHAPE, ints, made, network, one, random
from tests.support.onnx_models import model_bytes, node


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost far more than they bring on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(seed: int = 3) -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


CHEAP = tuple(method for method in METHODS if method != "alpha-crown")


def check(name: str, position: str, norm: Norm, methods: Sequence[str], radii: Sequence[float] = RADII) -> None:
    model = Model.from_onnx(network(name, position))
    engine, module, x = LirpaEngine(model.graph, norm), model.module("cpu", torch.float64), start()
    label = int(engine.logits(x).argmax())
    for radius in radii:
        worst = worst_margin(module, x, label, norm, radius)
        with torch.no_grad():
            logits = module(in_ball(x, norm, radius, 2000, seed=5))
        margins = logits[:, [label]] - logits
        margins[:, label] = float("inf")
        worst = min(worst, float(margins.min()))
        for method in methods:
            try:
                # A failed alpha-CROWN leaves traces in the engine: it gets one of its own.
                bound = (engine if method in CHEAP else LirpaEngine(model.graph, norm)).margin(x, label, radius, method)
            except NumericalError:
                assert method == "alpha-crown"  # of which nothing is then claimed
                continue
            assert np.isfinite(bound.lower)
            assert bound.lower <= worst + SLACK * max(1.0, abs(worst)), (method, radius)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", CASES)
def test_no_input_in_the_ball_falls_below_the_bound(name: str, position: str) -> None:
    """One norm for each case and position, in turn; the slow test has them all."""
    turn = list(CASES).index(name) + POSITIONS.index(position)
    check(name, position, list(Norm)[turn % len(Norm)], CHEAP)


@pytest.mark.slow
@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", CASES)
def test_in_every_norm_by_every_method(name: str, position: str, norm: Norm) -> None:
    check(name, position, norm, tuple(METHODS))


@pytest.mark.parametrize("name", ["AveragePool padded, padding left out", "Clip", "Concat of a ReLU and the input", "PRelu"])
def test_by_alpha_crown(name: str) -> None:
    check(name, "middle", Norm.L2, ("alpha-crown",), RADII[1:])


def dual(norm: Norm) -> float:
    return {Norm.LINF: 1.0, Norm.L2: 2.0, Norm.L1: float("inf")}[norm]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.linear])
def test_linear_operators_are_bounded_exactly(name: str) -> None:
    """Of a linear network the smallest margin over a ball is known: CROWN must find it, neither more nor less."""
    case, width = CASES[name], made(name)
    weights = {**case.weights, "w2": random(4, width, scale=1.0 / np.sqrt(width)), "b2": random(4)}
    nodes = [*case.nodes, node("Flatten", "s", "flat"), node("Gemm", "flat w2 b2", "logits", transB=1)]
    model = Model.from_onnx(model_bytes(nodes, weights, input_shape=("batch", *SHAPE), opset=case.opset))
    module, x = model.module("cpu", torch.float64), start()
    slopes = torch.func.jacrev(lambda v: module(v.unsqueeze(0))[0])(x.double()).reshape(4, -1)  # type: ignore[no-untyped-call]
    logits = module(x.double().unsqueeze(0))[0]
    label = int(logits.argmax())
    rivals = [k for k in range(4) if k != label]
    for norm in Norm:
        engine = LirpaEngine(model.graph, norm)
        for radius in RADII:
            steepness = (slopes[label] - slopes[rivals]).norm(dual(norm), dim=1)
            exact = float((logits[label] - logits[rivals] - radius * steepness).min())
            assert engine.margin(x, label, radius, "crown").lower == pytest.approx(exact, rel=1e-10, abs=1e-10)


def assert_same_values(graph: Graph) -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(5, *graph.input_shape)))
    plain, rewritten = GraphModule(graph, torch.float64)(x), bounds_module(graph)(x)
    scale = max(1.0, float(plain.abs().max()))
    assert plain.shape == rewritten.shape
    assert float((plain - rewritten).abs().max()) <= 1e-12 * scale


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", CASES)
def test_the_rewriting_keeps_the_values(name: str, position: str) -> None:
    assert_same_values(read_onnx(network(name, position)))


@st.composite
def pools(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    """An image shape, and the attributes of a pooling that fits it."""
    sizes = draw(st.lists(st.integers(2, 8), min_size=1, max_size=2))
    kernel = [draw(st.integers(1, size)) for size in sizes]
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    strides = [draw(st.integers(1, 3)) for _ in sizes]
    ceil = draw(st.integers(0, 1))
    return (draw(st.integers(1, 3)), *sizes), {"kernel_shape": kernel, "pads": pads, "strides": strides, "ceil_mode": ceil}


@settings(max_examples=60, deadline=None)
@given(pools(), st.sampled_from(["AveragePool", "AveragePool counted", "MaxPool"]))
def test_any_pooling_keeps_its_values(drawn: tuple[tuple[int, ...], dict[str, Any]], kind: str) -> None:
    shape, attributes = drawn
    counted = {"count_include_pad": 1} if kind == "AveragePool counted" else {}
    nodes = [node(kind.split(maxsplit=1)[0], "x", "s", **attributes, **counted), node("Flatten", "s", "logits")]
    try:
        graph = read_onnx(model_bytes(nodes, {}, input_shape=("batch", *shape), opset=19))
    except ModelRejected:
        return  # windows without any value
    assert_same_values(graph)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """An image shape, a weight shape, and the attributes of a convolution that fits it."""
    axes = draw(st.integers(1, 3))
    groups, per_group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    dilations = [draw(st.integers(1, 2)) for _ in range(axes)]
    sizes = [draw(st.integers((k - 1) * d + 1, (k - 1) * d + (2 if axes == 3 else 4))) for k, d in zip(kernel, dilations, strict=True)]
    attributes = {
        "dilations": dilations,
        "strides": [draw(st.integers(1, 3)) for _ in range(axes)],
        "pads": [draw(st.integers(0, 3)) for _ in range(2 * axes)],
        "group": groups,
    }
    return (per_group * groups, *sizes), (2 * groups, per_group, *kernel), attributes


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.booleans())
def test_any_convolution_keeps_its_values(drawn: tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], transposed: bool) -> None:
    shape, weight, attributes = drawn
    kind = "ConvTranspose" if transposed else "Conv"
    made = weight[1] * attributes["group"] if transposed else weight[0]
    if transposed:
        weight = (shape[0], *weight[1:])
    weights = {"w": random(*weight), "b": random(made)}
    nodes = [node(kind, "x w b", "s", **attributes), node("Flatten", "s", "logits")]
    try:
        graph = read_onnx(model_bytes(nodes, weights, input_shape=("batch", *shape)))
    except ModelRejected:
        return  # more is cut off than there is
    assume(f"{kind} as a matrix of" not in graph.operators[0].unbounded)
    assert_same_values(graph)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=3), st.data())
def test_any_movement_keeps_its_values(sizes: list[int], data: st.DataObject) -> None:
    rank = len(sizes)
    kind = data.draw(st.sampled_from(["Pad", "Slice", "Gather", "Tile", "Concat", "ReduceMean", "CumSum"]))
    axis = data.draw(st.integers(1, rank))
    length = sizes[axis - 1]
    number = st.integers(-7, 7)
    if kind == "Pad":
        pads = [data.draw(st.integers(0, 3)) for _ in range(2 * rank)]
        case = one("Pad", {"p": ints(0, *pads[:rank], 0, *pads[rank:]), "v": np.array(data.draw(number), np.float32)})
    elif kind == "Slice":
        step = data.draw(st.sampled_from([-2, -1, 1, 2, 3]))
        case = one("Slice", {"b": ints(data.draw(number)), "e": ints(data.draw(number)), "a": ints(axis), "t": ints(step)})
    elif kind == "Gather":
        places = data.draw(st.lists(st.integers(-length, length - 1), min_size=1, max_size=4))
        case = one("Gather", {"i": ints(*places)}, axis=axis)
    elif kind == "Tile":
        case = one("Tile", {"r": ints(1, *(data.draw(st.integers(1, 3)) for _ in sizes))})
    elif kind == "Concat":
        fill = random(1, *(2 if i == axis - 1 else size for i, size in enumerate(sizes)))
        case = one("Concat", {"c": fill}, order=data.draw(st.sampled_from(["x c", "c x x", "x c c x"])), axis=axis)
    else:
        case = one(kind, axes=[axis]) if kind == "ReduceMean" else one("CumSum", {"axis": ints(axis)})
    nodes = [*case.nodes, node("Flatten", "s", "logits")]
    try:
        graph = read_onnx(model_bytes(nodes, case.weights, input_shape=("batch", *sizes)))
    except ModelRejected:
        return  # a slice that leaves nothing
    assert_same_values(graph)


class _Unshared(AveragePool):
    """The wrong rewriting: the zeros of the padding counted where they must not be."""

    def scale(self) -> None:
        return None


def test_a_wrong_rewriting_is_caught_by_the_values() -> None:
    graph = read_onnx(network("AveragePool padded, padding left out", "middle"))
    assert_same_values(graph)
    operators = []
    for operator in graph.operators:
        wrong = isinstance(operator, AveragePool)
        fields = {f.name: getattr(operator, f.name) for f in dataclasses.fields(operator)} if wrong else {}
        operators.append(_Unshared(**fields) if wrong else operator)
    with pytest.raises(AssertionError):
        assert_same_values(replace(graph, operators=tuple(operators)))


def test_a_matrix_beyond_the_limit_is_refused() -> None:
    nodes = [node("ConvTranspose", "x w", "s", strides=[2, 2]), node("Flatten", "s", "logits")]
    weights = {"w": np.ones((2, 2, 3, 3), np.float32)}
    for size, fits in ((16, True), (64, False)):
        graph = read_onnx(model_bytes(nodes, weights, input_shape=("batch", 2, size, size)))
        assert (graph.operators[0].unbounded == "") is fits
    with pytest.raises(ModelRejected, match=r"ConvTranspose as a matrix of \d+ weights, more than 16777216"):
        bounds_module(graph)


def test_a_convolution_padded_by_very_much_on_one_side_is_refused() -> None:
    nodes = [node("Conv", "x w", "s", pads=[0, 0, 4000, 4000], strides=[4000, 4000]), node("Flatten", "s", "logits")]
    graph = read_onnx(model_bytes(nodes, {"w": np.ones((3, 1, 3, 3), np.float32)}, input_shape=("batch", 1, 8, 8)))
    assert "to be padded evenly" in graph.operators[0].unbounded


def test_the_page_on_supported_operators_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "bounds.md"
    assert page.read_text().endswith("\n\n" + bounds_table.current()), "run python -m tests.support.bounds_table"


def test_a_very_long_axis_is_refused_before_anything_is_made() -> None:
    nodes = [node("Tile", "x r", "t"), node("ReduceMean", "t", "s", axes=[1]), node("Concat", "s s", "logits", axis=1)]
    graph = read_onnx(model_bytes(nodes, {"r": ints(1, 2**20)}, input_shape=("batch", 4)))
    assert graph.operators[0].unbounded == "Tile with an axis of 4194304 values"
