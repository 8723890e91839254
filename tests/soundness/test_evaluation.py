"""Values with their rounding error, against exact arithmetic.

Two properties of every operator with a rule: inputs moved by as much as their errors move the output by no more than is carried; and
what is computed lies no farther from exact arithmetic than it is said to round. Then whole networks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from certify.evaluation import float64, rules, value
from certify.evaluation.constants import part_constants
from certify.evaluation.float64 import Unknown
from certify.evaluation.rules import Point, rule
from certify.evaluation.value import measured, value_with_error
from certify.graph.graph import Graph
from certify.graph.operators import OPERATORS, Operator, activation
from certify.graph.operators.base import as_tensor
from certify.graph.reader import read_onnx
from certify.lipschitz.bound import Bounds
from certify.lipschitz.constant import NoConstant
from tests.certify.graph.wide_cases import WIDE, chain, one, random
from tests.soundness.test_rounding_error import NETWORKS, case
from tests.support.exact import EXACT, exact, exact_step
from tests.support.onnx_models import Array, mlp, model_bytes, node
from tests.support.zoo import NAMED, export

MORE = {
    "conv": one("Conv", w=random(3, 4, 3, 2), b=random(3), attributes={"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "conv 1-D": one("Conv", (4, 9), w=random(6, 2, 3), attributes={"group": 2}),
    "gemm of parts": chain(
        node("Flatten", "x", "f"), node("Gemm", "f w b", "y", transB=1, alpha=-0.3, beta=2.0), w=random(5, 168), b=random(5)
    ),
    "matmul on the last axis": one("MatMul", w=random(6, 3)),
    "matmul on the left": one("MatMul", order="w x", w=random(3, 7)),
    "batch normalisation": one("BatchNormalization", g=random(4), b=random(4), m=random(4), v=np.abs(random(4)) + np.float32(1e-4)),
    "add wider": chain(node("ReduceSum", "x a", "r"), node("Add", "x r", "y"), a=np.array([1]), shape=(4, 3)),
    "sub": one("Sub", c=random(6)),
    "product of data": chain(node("Sigmoid", "x", "s"), node("Mul", "x s", "y")),
    "quotient of data": chain(node("Exp", "x", "e"), node("Div", "x e", "y")),
    "quotient": one("Div", c=random(6)),
    "leaky relu": one("LeakyRelu", attributes={"alpha": -1.5}),
    "sine": one("Sin"),
}
CASES = {**WIDE, **MORE}

# What has no rule: it jumps, has no steepest slope, or is a product inside.
WITHOUT = {
    *("Acos", "Acosh", "Asin", "Atanh", "Cosh", "Sinh", "Tan", "Exp", "Log", "Reciprocal", "Sqrt", "Pow"),
    *("Ceil", "Floor", "Round", "Sign", "Cast", "Shrink", "ThresholdedRelu"),
    *("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor"),
    *("Attention", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization", "LRN", "LpNormalization"),
    *("ReduceLogSum", "ReduceProd", "ReduceSumSquare"),
}
# What has none for products of data, choices by data, quotients by what may be zero, or a mask of infinities.
OF_DATA = {"Add", "Div", "Einsum", "MatMul", "Where"}


@functools.cache
def steps(name: str) -> list[tuple[Operator, dict[str, torch.Tensor], tuple[torch.Tensor, ...], torch.Tensor]]:
    """Each operator of a case with its weights, its inputs at a random x, and its output."""
    graph = read_onnx(CASES[name])
    generator = torch.Generator().manual_seed(5)
    values = {graph.input: torch.randn(1, *graph.input_shape, generator=generator).double()}
    found = []
    with torch.no_grad():
        for operator in graph.operators:
            weights = {key: as_tensor(kept, torch.float64) for key, kept in operator.weights.items()}
            x = tuple(values[key] for key in operator.inputs)
            values[operator.output] = operator.evaluate(weights, *x)
            found.append((operator, weights, x, values[operator.output]))
    return found


def ruled(name: str, error: float) -> Iterator[tuple[Operator, Any, Any, Any, torch.Tensor, torch.Tensor]]:
    """The operators of a case that have a rule, and what it says of inputs that are each off by up to a random multiple of `error`."""
    generator = torch.Generator().manual_seed(6)
    for operator, weights, x, made in steps(name):
        if not all(bool(part.isfinite().all()) for part in x):  # behind a mask of infinities, which has no rule
            continue
        points = [Point(part, error * torch.rand(part.shape, generator=generator, dtype=torch.float64)) for part in x]
        try:
            yield operator, weights, points, made, *rule(operator, weights, made, *points)
        except Unknown:
            if operator.type not in WITHOUT | OF_DATA:
                raise


def moved(operator: Operator, weights: Any, points: list[Point], made: torch.Tensor) -> torch.Tensor:
    """How far the output was seen to move: for random inputs within the errors, for corners, and toward the largest sum."""
    generator, most = torch.Generator().manual_seed(8), torch.zeros_like(made)
    with torch.no_grad():
        for attempt in range(60):
            parts = []
            for point in points:
                sign = torch.rand(point.value.shape, generator=generator, dtype=torch.float64) * 2 - 1
                sign = sign.sign() if attempt % 2 else sign
                sign = torch.ones_like(sign) * (1 if attempt < 2 else -1) if attempt < 4 else sign
                parts.append(point.value + sign * point.error)
            most = torch.maximum(most, (operator.evaluate(weights, *parts) - made).abs())
    return most


@pytest.mark.parametrize("error", [1e-3, 0.7])
@pytest.mark.parametrize("name", CASES)
def test_no_output_moves_farther_than_is_carried(name: str, error: float) -> None:
    for operator, weights, points, made, carried, own in ruled(name, error):
        assert carried.shape == own.shape == made.shape
        assert bool((moved(operator, weights, points, made) <= carried * (1 + 1e-9) + 1e-12).all()), operator.type


@pytest.mark.parametrize("name", CASES)
def test_no_output_is_farther_from_exact_arithmetic_than_it_is_said_to_round(name: str) -> None:
    for operator, _, points, made, carried, own in ruled(name, 0.0):
        assert not carried.any()
        truth = exact_step(operator, *(EXACT(point.value[0].numpy()) for point in points))
        seen = distance(made[0].numpy(), truth)
        assert (seen <= own[0].numpy()).all(), (operator.type, seen.max(), own.max())
        assert float(own.max()) <= 1e-12 * (1 + float(made.abs().max()))


def distance(computed: Any, truth: Any) -> Any:
    """Of each number from the exact one, rounded up."""
    apart = np.vectorize(lambda a, b: math.nextafter(float(abs(Fraction(float(a)) - b)), math.inf), otypes=[np.float64])
    far = apart(computed, truth)
    return np.where(far <= 5e-324, 0.0, far)


def test_every_operator_with_a_lipschitz_constant_has_a_rule() -> None:
    for name in CASES:
        for operator, weights, x, made in steps(name):
            try:
                known = bool(operator.parts()) or operator.lipschitz() > 0
            except NoConstant:
                known = False
            if known and all(bool(part.isfinite().all()) for part in x):
                rule(operator, weights, made, *(Point(part, torch.zeros_like(part)) for part in x))


def test_every_operator_has_a_rule_or_none_for_a_reason() -> None:
    seen = {operator.type for name in CASES for operator, *_ in ruled(name, 0.1)}
    assert set(OPERATORS) <= seen | WITHOUT
    assert not seen & WITHOUT


def inputs_of(name: str) -> list[torch.Tensor]:
    return [torch.from_numpy(x.astype(np.float32)) for x in case(name)[4][:4]]


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_is_farther_from_exact_arithmetic_than_its_error(name: str) -> None:
    graph = case(name)[1]
    for x in inputs_of(name):
        found = measured(graph, x)
        truth = exact(graph, x.double().numpy())
        seen = distance(found.value.numpy(), truth)
        assert (seen <= found.each.numpy()).all()
        z, error = value_with_error(graph, x)
        assert sum(Fraction(float(gap)) ** 2 for gap in seen) <= Fraction(error) ** 2
        assert error <= 1e-9 * float(torch.linalg.vector_norm(z))
        assert found.reason == ""


def test_an_encoder_has_the_shape_of_its_tensor() -> None:
    graph = read_onnx(NETWORKS["cnn"]())
    z, error = value_with_error(graph.until(graph.cuts()[2]), torch.rand(graph.input_shape))
    assert tuple(z.shape) == graph.shapes[graph.cuts()[2]]
    assert z.dtype == torch.float64
    assert 0 < error < 1e-12


def _deep(layers: int) -> Graph:
    """Orthogonal matrices, one after another: what they keep apart in l2 they move about in every number."""
    rng, sizes = np.random.default_rng(4), 24
    weights = {f"w{i}": np.linalg.qr(rng.normal(size=(sizes, sizes)))[0].astype(np.float32) for i in range(layers)}
    nodes = [node("Gemm", f"{f't{i - 1}' if i else 'x'} w{i}", f"t{i}") for i in range(layers - 1)]
    nodes.append(node("Gemm", f"t{layers - 2} w{layers - 1}", "logits"))
    return read_onnx(model_bytes(nodes, weights, input_shape=("batch", sizes)))


def test_errors_of_many_layers_grow_with_their_lipschitz_constants() -> None:
    graph, x = _deep(30), torch.rand(24, generator=torch.Generator().manual_seed(2))
    constants = {operator.output: 1.0 for operator in graph.operators}
    assert constants == pytest.approx(part_constants(graph), rel=1e-4)
    alone, along = measured(graph, x), measured(graph, x, part_constants(graph))
    seen = distance(along.value.numpy(), exact(graph, x.double().numpy()))
    assert (seen <= along.each.numpy()).all()
    assert 0 < math.sqrt(float((seen**2).sum())) <= along.error <= 1e-11
    assert alone.error > 1.0
    assert bool((along.each <= along.error).all())


def _difference() -> tuple[Graph, torch.Tensor]:
    """A product less almost itself, times a thousand: all of its error is what was handed on."""
    x, weight = torch.rand(40, generator=torch.Generator().manual_seed(9)), _matrix(40)
    near = (weight.astype(np.float64) @ x.double().numpy()).astype(np.float32)
    nodes = [node("Gemm", "x a", "h", transB=1), node("Sub", "h near", "d"), node("Mul", "d thousand", "logits")]
    weights = {"a": weight, "near": near, "thousand": np.array([1000.0], np.float32)}
    return read_onnx(model_bytes(nodes, weights, input_shape=("batch", 40))), x


def _matrix(size: int) -> Array:
    return random(size, size) * np.float32(math.pi)


def outside(graph: Graph, x: torch.Tensor, constants: dict[str, float] | None = None) -> bool:
    found = measured(graph, x, constants or {})
    return bool((distance(found.value.numpy(), exact(graph, x.double().numpy())) > found.each.numpy()).any())


def test_errors_that_are_not_handed_on_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = _difference()
    assert not outside(graph, x)
    honest = value.rule

    def forgetful(*args: Any) -> Any:
        carried, own = honest(*args)
        return carried * 1e-3, own

    monkeypatch.setattr(value, "rule", forgetful)
    assert outside(graph, x)


def test_a_constant_that_is_too_small_is_caught() -> None:
    graph, x = _difference()
    assert not outside(graph, x, {graph.operators[1].output: 1.0, graph.operators[2].output: 1000.0})
    assert outside(graph, x, {graph.operators[1].output: 1.0, graph.operators[2].output: 0.1})


@pytest.mark.parametrize("name", ["mlp", "lenet", "vgg", "resnet-basic", "wide-resnet", "densenet", "mobilenet-v2"])
def test_a_radius_loses_next_to_nothing_to_rounding(name: str) -> None:
    """Whatever is proved about a value is divided by the Lipschitz constant of the network that made it."""
    graph = read_onnx(export(NAMED[name], exporter="torchscript", opset=17, batch="dynamic"))
    x = torch.rand(graph.input_shape, generator=torch.Generator().manual_seed(1))
    z, error = value_with_error(graph, x, part_constants(graph))
    stretched = max(1.0, Bounds.of(graph).at(graph.output))
    assert 0 < error <= 1e-11 * stretched * float(torch.linalg.vector_norm(z))


@pytest.mark.parametrize("kind", ["Exp", "Floor", "Tan"])
def test_an_operator_without_a_rule_is_named(kind: str) -> None:
    graph = read_onnx(mlp([3, 4, 2], activation=kind))
    found = measured(graph, torch.ones(3))
    assert found.error == math.inf
    assert found.reason == f"{kind.lower()}_a0 ({kind}) has no rounding rule"
    assert bool(found.value.isfinite().all())


def test_what_leaves_the_range_has_no_error() -> None:
    weights = {"a": np.full((4, 4), 1e38, np.float32), "b": np.full((3, 4), 1e38, np.float32)}
    nodes = [node("Gemm", "x a", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r b", "logits", transB=1)]
    found = measured(read_onnx(model_bytes(nodes, weights, input_shape=("batch", 4))), torch.full((4,), 1.0))
    assert found.error == math.inf
    assert found.reason == "gemm_logits makes NaN, infinity or values beyond 2^200"
    for broken in (float("nan"), float("inf")):
        assert measured(read_onnx(NETWORKS["mlp"]()), torch.full((6,), broken)).error == math.inf


COUNT = 6000


def _lossy() -> tuple[float, float]:
    """1 and then thousands of terms that each fall short of changing it: the error of their sum, seen and bounded."""
    weights = np.full((2, COUNT), 2.0**-53, np.float32)
    weights[:, 0] = 1.0
    graph: Graph = read_onnx(model_bytes([node("Gemm", "x w", "logits", transB=1)], {"w": weights}, input_shape=("batch", COUNT)))
    found = measured(graph, torch.ones(COUNT))
    truth = 1 + (COUNT - 1) * Fraction(1, 2**53)
    return float(abs(Fraction(float(found.value[0])) - truth)), float(found.each[0])


def test_a_sum_that_loses_much_is_covered_and_gamma_of_too_few_terms_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, limit = _lossy()
    assert 0.0 < seen <= limit
    honest = float64.gamma
    monkeypatch.setattr(rules, "gamma", lambda terms: honest(2))
    seen, limit = _lossy()
    assert seen > limit


@pytest.mark.parametrize("share", [0.9, 0.999])
def test_slopes_that_are_too_small_are_caught(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steepest slopes are sharp: a thousandth less, and some output moves farther than is carried."""
    kept = {kind: slope * share for kind, slope in activation._SLOPES.items()}
    monkeypatch.setattr(activation, "_SLOPES", kept)
    steep = {
        "Abs": 2.0,
        "Erf": 0.0,
        "HardSwish": 2.9999,
        "Mish": 1.49,
        "Sigmoid": 0.0,
        "Tanh": 0.0,
        "Sin": 0.0,
        "Cos": math.pi / 2,
    }
    for kind, at in steep.items():
        operator = next(o for name in CASES for o, *_ in steps(name) if o.type == kind)
        x = Point(torch.full((1, *operator.shape), at, dtype=torch.float64), torch.full((1, *operator.shape), 1e-5, dtype=torch.float64))
        made = operator.evaluate({}, x.value)
        carried, _ = rule(operator, {}, made, x)
        assert bool((moved(operator, {}, [x], made) > carried).any()), kind


def _sorting(layers: int) -> Graph:
    """Orthogonal matrices and MaxMin: slices, extremes and a concatenation between two cuts."""
    rng, half = np.random.default_rng(5), 6
    weights = {f"w{i}": np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32) for i in range(layers)}
    weights |= {name: np.array([value]) for name, value in (("zero", 0), ("half", half), ("end", 2 * half), ("axis", 1))}
    nodes, last = [], "x"
    for i in range(layers):
        nodes += [node("Gemm", f"{last} w{i}", f"g{i}"), node("Slice", f"g{i} zero half axis", f"a{i}")]
        nodes += [node("Slice", f"g{i} half end axis", f"b{i}"), node("Max", f"a{i} b{i}", f"c{i}"), node("Min", f"a{i} b{i}", f"d{i}")]
        last = "logits" if i == layers - 1 else f"t{i}"
        nodes.append(node("Concat", f"c{i} d{i}", last, axis=1))
    return read_onnx(model_bytes(nodes, weights, input_shape=("batch", 12)))


def test_parts_between_cuts_are_carried_as_one() -> None:
    graph, x = _sorting(20), torch.rand(12, generator=torch.Generator().manual_seed(2))
    found = measured(graph, x, part_constants(graph))
    assert set(part_constants(graph)) == {*graph.cuts(), graph.output}
    assert max(part_constants(graph).values()) < 1.00001
    seen = distance(found.value.numpy(), exact(graph, x.double().numpy()))
    assert (seen <= found.each.numpy()).all()
    assert 0 < found.error < 1e-11
    assert measured(graph, x).error > 1e-7
