"""Lipschitz bounds against what a search finds: no difference quotient and no Jacobian of any network may exceed them."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from certify.graph.module import GraphModule
from certify.graph.operators import OPERATORS, Operator
from certify.graph.reader import read_onnx
from certify.lipschitz import composition
from certify.lipschitz.bound import Bounds, NoConstant
from tests.certify.graph.test_operators import CASES as CLASSIC
from tests.certify.graph.wide_cases import WIDE
from tests.support.bounds_cases import CASES, network
from tests.support.layered import Layered, resnet
from tests.support.onnx_models import linear_model

torch.set_num_threads(1)

FILES: dict[str, bytes] = {
    **{f"{name}, alone": data for name, data in (CLASSIC | WIDE).items()},
    **{f"{name}, {place}": network(name, place) for name in CASES for place in ("first", "middle")},
}
NETWORKS = {
    "resnet": resnet(3, 8),
    "overlapping pools": Layered(8).conv(4).pool(3, 1, 1).conv(4, stride=2).pool(3, 2, 1, "AveragePool").classes(),
    "strided and transposed": Layered(8).conv(4, stride=2).transposed(3).clip().everywhere().classes(),
}
GROUPS = 8


@cache
def module(data: bytes) -> GraphModule:
    return GraphModule(read_onnx(data), torch.float64).eval().requires_grad_(False)


def jacobian(model: GraphModule, x: Tensor) -> Tensor:  # x: (*input)
    """(classes, inputs)"""
    found = torch.autograd.functional.jacobian(lambda value: model(value[None])[0], x, vectorize=True)
    return found.reshape(model.graph.classes, -1)


def steepest(model: GraphModule, points: int = 4, steps: int = 0) -> float:
    """The largest slope found: singular values of Jacobians, then gradient ascent on difference quotients from the steepest point."""
    generator, shape = torch.Generator().manual_seed(0), model.graph.input_shape
    best, start, way = 0.0, torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)
    for scale in (0.1, 1.0, 3.0):
        for _ in range(points):
            x = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
            slope = jacobian(model, x)
            if not torch.isfinite(slope).all():
                continue
            _, values, right = torch.linalg.svd(slope, full_matrices=False)
            if float(values[0]) > best:
                best, start, way = float(values[0]), x, right[0].reshape(shape)
    a, b = start.clone().requires_grad_(), (start + 0.1 * way).requires_grad_()
    ascent = torch.optim.Adam([a, b], lr=0.02)
    for _ in range(steps):
        ascent.zero_grad()
        quotient = torch.linalg.vector_norm(model(a[None]) - model(b[None])) / torch.linalg.vector_norm(a - b).clamp(min=1e-3)
        if math.isfinite(float(quotient.detach())) and float(torch.linalg.vector_norm((a - b).detach())) > 2e-3:
            best = max(best, float(quotient.detach()))
        (-quotient).backward()
        ascent.step()
    return best


def bound(data: bytes) -> float | None:
    """Null where an operator has no constant, which must then be named."""
    graph = read_onnx(data)
    try:
        return Bounds.of(graph).at(graph.output)
    except NoConstant as caught:
        missing = caught
    assert missing.operator in {operator.name for operator in graph.operators}
    assert missing.reason
    return None


def exceeded(names: list[str]) -> list[str]:
    """Those whose bound is below what is found."""
    found = []
    for name in names:
        most = bound(FILES[name])
        if most is not None and steepest(module(FILES[name]), points=1) > most * (1 + 1e-9):
            found.append(name)
    return found


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_operator_is_steeper_than_its_bound(group: int) -> None:
    assert exceeded(sorted(FILES)[group::GROUPS]) == []


@pytest.mark.parametrize("group", range(GROUPS))
def test_nor_where_no_matrix_is_read_off(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large models have kernels and norms of single steps only: the same holds for these."""
    monkeypatch.setattr(composition, "MAX_ENTRIES", 0)
    assert exceeded(sorted(FILES)[group::GROUPS]) == []


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_nor_after_a_long_search(group: int) -> None:
    for name in sorted(FILES)[group::GROUPS]:
        most = bound(FILES[name])
        assert most is None or steepest(module(FILES[name]), points=20, steps=100) <= most * (1 + 1e-9), name


def test_linear_files_are_exact() -> None:
    """Without curved operators the bound is the norm of the Jacobian."""
    exact = 0
    for name, data in FILES.items():
        most, model = bound(data), module(data)
        if most is None or not all(operator.parts() for operator in model.graph.operators):
            continue
        exact += 1
        truth = float(torch.linalg.matrix_norm(jacobian(model, torch.zeros(model.graph.input_shape, dtype=torch.float64)), 2))
        assert most == pytest.approx(truth, rel=1e-8), name
    assert exact > 120


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_never_steeper_at_any_tensor(name: str) -> None:
    model = module(NETWORKS[name])
    bounds = Bounds.of(model.graph)
    assert steepest(model, points=2, steps=30) <= bounds.at(model.graph.output)
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(1, *model.graph.input_shape, generator=generator, dtype=torch.float64)
    b = a + 0.01 * torch.randn(a.shape, generator=generator, dtype=torch.float64)
    for (operator, left), (_, right) in zip(model.steps(a), list(model.steps(b)), strict=True):
        quotient = float(torch.linalg.vector_norm(left - right) / torch.linalg.vector_norm(a - b))
        assert quotient <= bounds.at(operator.output)


@pytest.mark.parametrize("name", NETWORKS)
def test_differences_of_logits_are_never_steeper(name: str) -> None:
    model = module(NETWORKS[name])
    bounds = Bounds.of(model.graph)
    slopes = [jacobian(model, scale * torch.randn(model.graph.input_shape, dtype=torch.float64)) for scale in (0.1, 1.0, 3.0)]
    for label in (0, 3):
        limits = bounds.pairwise(label)
        assert limits[label] == 0.0
        assert max(limits) <= math.sqrt(2) * bounds.at(model.graph.output) * (1 + 1e-12)
        for slope in slopes:
            found = torch.linalg.vector_norm(slope[label] - slope, dim=1)
            assert all(float(found[j]) <= limits[j] for j in range(model.graph.classes))


def test_every_kind_of_operator_is_met() -> None:
    """With a constant or refused by a reason, but never forgotten."""
    met = {operator.type for data in FILES.values() for operator in read_onnx(data).operators}
    assert set(OPERATORS) - met <= {"Mish", "Upsample", "Dropout"}


def test_an_operator_without_a_rule_is_refused_by_name() -> None:
    assert "no Lipschitz constant of it is known" in _reason(Operator.lipschitz)


def _reason(rule: object) -> str:
    graph = read_onnx(CLASSIC["relu"])
    operator = graph.operators[0]
    with pytest.raises(NoConstant) as caught:
        rule(operator)  # type: ignore[operator]
    return caught.value.reason


def test_a_constant_that_is_too_small_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: what the search must be able to tell."""
    for kind, shrink in (("Softsign", 0.9), ("Sigmoid", 0.9), ("MaxPool", 0.7), ("Softmax", 0.5), ("ReduceL1", 0.6)):
        cls = OPERATORS[kind]
        true = cls.lipschitz
        with monkeypatch.context() as patch:
            patch.setattr(cls, "lipschitz", lambda self, true=true, shrink=shrink: shrink * true(self))
            names = [name for name in FILES if name.lower().startswith(kind.lower()) and name.endswith("alone")]
            assert names, kind
            assert exceeded(names), kind


def test_the_numbers_of_the_search_are_slopes() -> None:
    """The search itself: on a linear network it finds the norm."""
    weight = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    model = module(linear_model(weight, np.zeros(5, np.float32)))
    assert steepest(model, points=1, steps=5) == pytest.approx(float(np.linalg.norm(weight.astype(np.float64), 2)), rel=1e-6)
