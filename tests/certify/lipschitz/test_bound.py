"""Bounds of whole graphs: exact where the truth is known, one operator where it can be one, refused by name elsewhere."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from operator import mul
from typing import Any

import numpy as np
import onnx
import pytest

from certify.graph.graph import Graph
from certify.graph.reader import read_onnx
from certify.lipschitz import composition
from certify.lipschitz.bound import Bounds, NoConstant
from certify.lipschitz.forms import Step, blocks
from certify.lipschitz.parts import Filtered, Spread
from tests.support.dense import Array, largest, matrix_of
from tests.support.layered import Layered, resnet
from tests.support.onnx_models import linear_model, mlp, model_bytes, node, normalisation, small_cnn

RNG = np.random.default_rng(21)


def random(*shape: int, scale: float = 1.0) -> Array:
    return (scale * RNG.normal(size=shape)).astype(np.float32)


def orthogonal(size: int) -> Array:
    return np.linalg.qr(RNG.normal(size=(size, size)))[0].astype(np.float32)


def graph(nodes: list[onnx.NodeProto], weights: dict[str, Any], *shape: int) -> Graph:
    return read_onnx(model_bytes(nodes, weights, input_shape=("batch", *shape)))


def norm(weight: Array) -> float:
    return largest(weight.astype(np.float64))


def filtered(weight: Array, size: int) -> Array:
    """The matrix of a convolution padded to keep its size."""
    pad = weight.shape[2] // 2
    conv = Filtered(weight, (size, size), (size, size), (1, 1), (1, 1), (pad, pad), (pad, pad), 1)
    return matrix_of(conv, weight.shape[1] * size * size)


@pytest.fixture
def without_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for large models: no matrix is read off a run of operators."""
    monkeypatch.setattr(composition, "MAX_ENTRIES", 0)


def test_linear_models_are_exact_and_so_are_differences_of_their_logits() -> None:
    weight = random(7, 30)
    bounds = Bounds.of(read_onnx(linear_model(weight, random(7))))
    assert bounds.at("logits") == pytest.approx(norm(weight), rel=1e-8)
    assert bounds.at("logits") >= norm(weight)
    exact = np.linalg.norm(weight[2].astype(np.float64) - weight, axis=1)
    np.testing.assert_allclose(bounds.pairwise(2), exact, rtol=1e-8)
    assert all(found >= truth for found, truth in zip(bounds.pairwise(2), exact, strict=True))


def test_differences_of_logits_that_read_two_tensors_count_both() -> None:
    """Where x is positive, relu(x) is x: the rows of both add up."""
    weight = random(3, 5)
    nodes = [node("Relu", "x", "r"), node("Gemm", "r w", "p", transB=1), node("Gemm", "x w", "q", transB=1), node("Add", "p q", "logits")]
    bounds = Bounds.of(graph(nodes, {"w": weight}, 5))
    truth = 2 * np.linalg.norm(weight[1].astype(np.float64) - weight, axis=1)
    assert all(found >= exact for found, exact in zip(bounds.pairwise(1), truth, strict=True))
    np.testing.assert_allclose(bounds.pairwise(1), truth, rtol=1e-8)
    assert bounds.at("logits") == pytest.approx(2 * norm(weight), rel=1e-8)


@pytest.mark.parametrize(("scale", "std", "truth"), [(1.0, None, 1.0), (3.0, None, 3.0), (1.0, 0.2, 5.0)])
def test_orthogonal_models_have_the_constant_that_they_are_scaled_by(scale: float, std: float | None, truth: float) -> None:
    weight = np.eye(12, dtype=np.float32)[RNG.permutation(12)] * np.float32(scale)
    centre = (None, None) if std is None else (np.full(12, 0.5, np.float32), np.full(12, np.float32(std), np.float32))
    found = Bounds.of(read_onnx(linear_model(weight, np.zeros(12, np.float32), *centre))).at("logits")
    exact = truth if std is None else scale / float(np.float32(std))
    assert found == pytest.approx(exact, rel=1e-8)
    assert found == pytest.approx(truth, rel=1e-7)  # 0.2 is not a float32
    assert found >= exact


def test_a_normalisation_that_was_forgotten_is_found_out() -> None:
    """The negative control: the bound of the layers behind it alone is below the true constant."""
    weight = orthogonal(12)
    behind = read_onnx(linear_model(weight, np.zeros(12, np.float32)))
    before = linear_model(weight, np.zeros(12, np.float32), np.zeros(12, np.float32), np.full(12, 0.2, np.float32))
    whole = read_onnx(before)
    true = 5 * norm(weight)
    assert Bounds.of(whole).at("logits") >= true * (1 - 1e-7)
    assert Bounds.of(behind).at("logits") < true * (1 - 1e-7)


def test_every_layer_of_a_network_counts() -> None:
    found = Bounds.of(read_onnx(mlp([6, 8, 9, 4])))
    weights = [row.constant for row in found.layers if row.type == "Gemm"]
    assert found.at("logits") == pytest.approx(math.prod(weights), rel=1e-9)
    assert [row.type for row in found.layers] == ["Gemm", "Relu", "Gemm", "Relu", "Gemm"]
    assert found.layers[-1].total == found.at("logits")
    assert found.layers[0].how == "SVD 8 x 6"


@pytest.mark.parametrize("large", [False, True])
def test_a_linear_residual_is_one_operator(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """|I + W|, not 1 + |W|: here the branch takes away most of what the skip path brings."""
    if large:
        monkeypatch.setattr(composition, "MAX_ENTRIES", 0)
    weight = random(3, 3, 3, 3, scale=0.02)
    weight[range(3), range(3), 1, 1] -= 0.9
    made = graph([node("Conv", "x w", "c", pads=[1] * 4), node("Add", "x c", "s"), node("Flatten", "s", "logits")], {"w": weight}, 3, 8, 8)
    matrix = filtered(weight, 8)
    truth = largest(np.eye(len(matrix)) + matrix)
    found = Bounds.of(made).at("logits")
    assert truth <= found < 1.2 * truth
    assert found < 0.3 * (1 + largest(matrix))


@pytest.mark.usefixtures("without_matrices")
def test_two_convolutions_side_by_side_are_one_operator() -> None:
    first, second = random(2, 3, 3, 3), random(2, 3, 1, 1)
    nodes = [node("Conv", "x a", "p", pads=[1] * 4), node("Conv", "x b", "q"), node("Sub", "p q", "s"), node("Flatten", "s", "logits")]
    found = Bounds.of(graph(nodes, {"a": first, "b": second}, 3, 9, 9)).at("logits")
    truth = largest(filtered(first, 9) - filtered(second, 9))
    assert truth <= found < 1.1 * truth


@pytest.mark.usefixtures("without_matrices")
def test_a_normalisation_by_channel_folds_into_the_convolution() -> None:
    weight = random(4, 3, 3, 3)
    weight[:, 0] *= 0.01  # the channel with the smallest deviation hardly matters
    std = np.array([0.02, 1.0, 1.0], np.float32).reshape(1, 3, 1, 1)
    front, constants = normalisation(np.zeros((1, 3, 1, 1), np.float32), std)
    nodes = [*front, node("Conv", "normal w", "c", pads=[1] * 4), node("Flatten", "c", "logits")]
    found = Bounds.of(graph(nodes, {**constants, "w": weight}, 3, 10, 10))
    truth = largest(filtered(weight / std, 10))
    assert truth <= found.at("logits") < 1.1 * truth
    assert found.at("logits") < 0.2 * norm(weight.reshape(4, -1)) / 0.02


@pytest.mark.usefixtures("without_matrices")
def test_batch_normalisation_folds_into_the_convolution_before_it() -> None:
    weight, scale = random(4, 2, 3, 3), np.array([5.0, 0.1, -0.2, 0.1], np.float32)
    weight[0] *= 0.02
    statistics = {"g": scale, "h": random(4), "m": random(4), "v": np.full(4, 0.25, np.float32)}
    nodes = [node("Conv", "x w", "c", pads=[1] * 4), node("BatchNormalization", "c g h m v", "n", epsilon=0.0)]
    nodes += [node("Relu", "n", "r"), node("Flatten", "r", "logits")]
    found = Bounds.of(graph(nodes, {"w": weight, **statistics}, 2, 10, 10))
    truth = largest(filtered(weight * (scale / 0.5).reshape(4, 1, 1, 1), 10))
    assert truth <= found.at("logits") < 1.1 * truth
    assert found.layers[0].how == "one operator with batchnormalization_n"


@pytest.mark.usefixtures("without_matrices")
@pytest.mark.parametrize("stride", [1, 2])
def test_wrapped_padding_and_its_convolution_are_one_exact_kernel(stride: int) -> None:
    weight = random(4, 3, 3, 3)
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    nodes = [node("Pad", "x p", "w3", mode="wrap"), node("Conv", "w3 w", "c", strides=[stride] * 2), node("Flatten", "c", "logits")]
    made = read_onnx(model_bytes(nodes, {"p": pads, "w": weight}, input_shape=("batch", 3, 8, 8), opset=19))
    found = Bounds.of(made)
    around = np.pad(np.eye(192).reshape(192, 3, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="wrap")
    conv = Filtered(weight, (10, 10), (8 // stride,) * 2, (stride,) * 2, (1, 1), (0, 0), (0, 0), 1)
    truth = largest(matrix_of(conv, 300) @ around.reshape(192, 300).T)
    assert truth <= found.at("logits") <= truth * (1 + 1e-8)
    assert found.layers[-1].how == f"FFT on a torus of {8 // stride} x {8 // stride}"


def test_two_padded_convolutions_multiply_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random(3, 2, 3, 3), random(2, 3, 3, 3)
    nodes = [node("Conv", "x a", "p", pads=[1] * 4), node("Conv", "p b", "q", pads=[1] * 4), node("Flatten", "q", "logits")]
    made = graph(nodes, {"a": a, "b": b}, 2, 7, 7)
    truth = largest(filtered(b, 7) @ filtered(a, 7))
    assert Bounds.of(made).at("logits") == pytest.approx(truth, rel=1e-8)
    monkeypatch.setattr(composition, "MAX_ENTRIES", 0)
    product = largest(filtered(b, 7)) * largest(filtered(a, 7))
    assert truth < product <= Bounds.of(made).at("logits") < 1.3 * product


def sorting(width: int, depth: int, *, stack: bool = False) -> bytes:
    """Orthogonal layers with MaxMin between them."""
    nodes, weights, last = [], {"h": np.array([1], np.int64)}, "x"
    for k in range(depth):
        weights[f"w{k}"] = orthogonal(width)
        split = onnx.helper.make_node("Split", [f"g{k}"], [f"a{k}", f"b{k}"], name=f"split{k}", axis=1)
        nodes += [node("Gemm", f"{last} w{k}", f"g{k}"), split, node("Max", f"a{k} b{k}", f"M{k}"), node("Min", f"b{k} a{k}", f"m{k}")]
        if stack:
            nodes += [node("Unsqueeze", f"M{k} h", f"uM{k}"), node("Unsqueeze", f"m{k} h", f"um{k}")]
            nodes += [node("Concat", f"uM{k} um{k}", f"s{k}", axis=1), node("Flatten", f"s{k}", f"c{k}")]
        else:
            nodes.append(node("Concat", f"m{k} M{k}", f"c{k}", axis=1))
        last = f"c{k}"
    weights["last"] = orthogonal(width)
    return model_bytes([*nodes, node("Gemm", f"{last} last", "logits")], weights, input_shape=("batch", width))


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_sorting_moves_no_distance(stack: bool, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """MaxMin between orthogonal layers has the constant 1; bounded one by one, each pair would cost the factor 2."""
    if large:
        monkeypatch.setattr(composition, "MAX_ENTRIES", 0)
    assert Bounds.of(read_onnx(sorting(8, 3, stack=stack))).at("logits") == pytest.approx(1.0, rel=1e-6)


def test_what_only_looks_like_sorting_is_not_taken_for_it() -> None:
    """max(a, b) beside min(a, c), and beside max(a, b) again: two outputs may follow the same input."""
    for other in ("Min", "Max"):
        third = "c" if other == "Min" else "b"
        split = onnx.helper.make_node("Split", ["x", "n"], ["a", "b", "c"], name="split", axis=1)
        nodes = [split, node("Max", "a b", "p"), node(other, f"a {third}", "q"), node("Concat", "p q", "logits", axis=1)]
        found = Bounds.of(graph(nodes, {"n": np.array([2, 2, 2], np.int64)}, 6))
        assert found.at("logits") >= math.sqrt(2.0)


@pytest.mark.usefixtures("without_matrices")
def test_what_is_read_twice_counts_twice() -> None:
    """A tensor beside itself at other places, and one beside what it was sorted into."""
    turned = [node("Transpose", "x", "t", perm=[0, 2, 1]), node("Concat", "x t", "c", axis=1), node("Flatten", "c", "logits")]
    assert Bounds.of(graph(turned, {}, 3, 3)).at("logits") >= math.sqrt(2.0)
    split = onnx.helper.make_node("Split", ["x", "n"], ["a", "b"], name="split", axis=1)
    nodes = [split, node("Max", "a b", "p"), node("Min", "a b", "q"), node("Concat", "a p q", "logits", axis=1)]
    assert Bounds.of(graph(nodes, {"n": np.array([2, 2], np.int64)}, 4)).at("logits") >= math.sqrt(2.0)


@pytest.mark.parametrize("kind", ["Max", "Min", "Add"])
def test_what_is_broadcast_counts_as_often_as_it_is_read(kind: str) -> None:
    """One value against nine: where it decides all of them, they move with it."""
    split = onnx.helper.make_node("Split", ["x", "n"], ["a", "b"], name="split", axis=1)
    found = Bounds.of(graph([split, node(kind, "a b", "logits")], {"n": np.array([1, 9], np.int64)}, 10)).at("logits")
    assert found >= (math.sqrt(10.0) if kind == "Add" else 3.0)


def test_an_operator_without_a_constant_is_named_with_the_reason() -> None:
    nodes = [node("Gemm", "x w", "h"), node("Exp", "h", "e"), node("Gemm", "e w", "logits")]
    bounds = Bounds.of(graph(nodes, {"w": orthogonal(4)}, 4))
    with pytest.raises(NoConstant) as caught:
        bounds.at("logits")
    assert (caught.value.operator, caught.value.reason) == ("exp_e", "Exp: its slope is unbounded")
    assert bounds.at("h") == pytest.approx(1.0, rel=1e-6)
    assert [row.name for row in bounds.layers] == ["gemm_h", "exp_e"]
    assert "slope is unbounded" in bounds.layers[-1].reason
    with pytest.raises(NoConstant):
        bounds.pairwise(0)
    with pytest.raises(KeyError):
        bounds.at("nothing")


@pytest.mark.parametrize("rows_first", [False, True])
def test_a_matrix_that_is_read_off_carries_its_rounding(rows_first: bool) -> None:
    """Against exact rational arithmetic."""
    sizes = [7, 40, 30, 5 if rows_first else 20]
    weights = [random(out, into) for into, out in pairwise(sizes)]
    steps, exact = [], [[Fraction(int(i == j)) for j in range(7)] for i in range(7)]
    for k, weight in enumerate(weights):
        chain = (Spread(1, weight.shape[1], 1, len(weight), lambda weight=weight: weight, 0),)
        steps.append(Step(f"s{k}", (f"t{k}",), (chain,), f"t{k + 1}", (len(weight),), 1))
        columns = list(zip(*exact, strict=True))
        exact = [[sum(map(mul, map(Fraction, map(float, row)), column)) for column in columns] for row in weight]
    block = blocks(steps, {"t0": (7,)}, "t3")["t0"]
    off = np.abs(np.vectorize(Fraction)(block.matrix) - np.array(exact)).astype(np.float64)
    assert 0 < largest(off) <= block.error < 1e-11 * largest(block.matrix)


def test_weights_beyond_float64_are_refused_not_bounded() -> None:
    huge = np.full((4, 4), 3e38, np.float32)
    nodes = [node("Gemm", "x w", "h0")] + [node("Gemm", f"h{k} w", f"h{k + 1}") for k in range(9)] + [node("Relu", "h9", "logits")]
    with pytest.raises(NoConstant, match="beyond float64"):
        Bounds.of(graph(nodes, {"w": huge}, 4)).at("logits")


def test_the_order_of_questions_changes_no_answer() -> None:
    data = small_cnn(mean=0.4)
    names = [operator.output for operator in read_onnx(data).operators]
    forward, backward = Bounds.of(read_onnx(data)), Bounds.of(read_onnx(data))
    rows = backward.layers
    assert [forward.at(name) for name in names] == [backward.at(name) for name in reversed(names)][::-1]
    assert backward.layers == rows
    assert forward.at("x") == 1.0


@pytest.mark.parametrize("budget", [0.0, 1e5, 1e7])
def test_with_less_work_bounds_only_grow(budget: float) -> None:
    made = read_onnx(resnet(3, 8))
    assert Bounds.of(made, budget).at("logits") >= Bounds.of(made).at("logits") * (1 - 1e-9)


@pytest.mark.parametrize("kind", ["Conv", "CumSum", "Mul", "residual"])
def test_long_files_take_no_recursion_and_little_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "MAX_ENTRIES", 0)
    weight = np.full((1, 1, 3), 0.1, np.float32)
    weights = {"w": weight, "axis": np.array([2], np.int64), "c": np.float32(0.999)}
    nodes, last = [], "x"
    for k in range(700):
        if kind == "residual":
            nodes += [node("Relu", last, f"r{k}"), node("Mul", f"r{k} c", f"m{k}"), node("Add", f"{last} m{k}", f"t{k}")]
        else:
            more, attributes = {"Conv": ("w", {"pads": [1, 1]}), "CumSum": ("axis", {}), "Mul": ("c", {})}[kind]
            nodes.append(node(kind, f"{last} {more}", f"t{k}", **attributes))
        last = f"t{k}"
    bounds = Bounds.of(graph([*nodes, node("Flatten", last, "logits")], weights, 1, 2))
    assert len(bounds.layers) > 700
    assert bounds.at("t600") > 0


@pytest.mark.usefixtures("without_matrices")
def test_branches_that_are_no_kernels_add_up() -> None:
    pool = {"kernel_shape": [2], "strides": [1]}
    nodes = [node("AveragePool", "x", "p", **pool), node("AveragePool", "x", "q", **pool), node("Add", "p q", "s")]
    single = Bounds.of(graph([nodes[0], node("Flatten", "p", "logits")], {}, 1, 9)).at("logits")
    double = Bounds.of(graph([*nodes, node("Flatten", "s", "logits")], {}, 1, 9)).at("logits")
    assert double == pytest.approx(2 * single, rel=1e-9)
    # With its mean added everywhere, what is the same everywhere doubles.
    mean = [node("ReduceMean", "x", "m", axes=[1]), node("Add", "x m", "logits")]
    assert Bounds.of(graph(mean, {}, 9)).at("logits") == pytest.approx(2.0, rel=1e-9)


def test_rows_of_a_residual_network_say_what_is_one_operator() -> None:
    rows = {row.output: row for row in Bounds.of(read_onnx(Layered(8).conv(4).block(4).everywhere().classes())).layers}
    assert rows["t4"].how.startswith("one operator with add_")
    assert rows["t4"].total is None
    assert rows["t1"].constant == 1.0
    assert all(row.total is None or math.isfinite(row.total) for row in rows.values())
