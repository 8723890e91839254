"""The tripwire is quiet where a proof is right, however tight, and sees a proof that claims a little too much."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from certify import Model, certify
from certify.bounds.engine import LirpaEngine, MarginBound
from certify.bounds.tripwire import smallest_margin
from certify.errors import ContradictionError, NumericalError
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support.linear import LinearTruth
from tests.support.onnx_models import mlp, small_cnn
from tests.support.runs import run_for

NETWORKS = {"mlp": mlp([8, 24, 24, 5]), "tanh": mlp([8, 12, 5], activation="Tanh"), "cnn": small_cnn(mean=0.4)}


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("name", NETWORKS)
def test_what_it_sees_is_above_every_bound(name: str, norm: Norm) -> None:
    model = Model.from_onnx(NETWORKS[name])
    engine, module = LirpaEngine(model.graph, norm), model.module("cpu", torch.float64)
    x = torch.rand(model.input_shape, generator=torch.Generator().manual_seed(1))
    label = int(engine.logits(x).argmax())
    for radius in (1e-6, 0.01, 0.3, 2.0):
        seen = smallest_margin(module, x, label, norm=norm, radius=radius)
        for method in ("ibp", "crown"):
            bound = engine.margin(x, label, radius, method)
            assert seen >= bound.lower - bound.tau


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("norm", list(Norm))
def test_on_a_linear_model_it_sees_almost_the_smallest_margin_and_no_smaller_one(norm: Norm, normalised: bool) -> None:
    """There bounds are exact: an input of the ball attains them, and the tripwire comes as near as float64 allows."""
    truth = LinearTruth.random(30, 2, seed=3, normalised=normalised)
    model = truth.model()
    engine, module = LirpaEngine(model.graph, norm), model.module("cpu", torch.float64)
    for x in truth.examples(4, seed=2).x:
        label = int(engine.logits(x).argmax())
        radius = 0.5 * float(truth.distance(x.numpy(), label, norm))
        bound = engine.margin(x, label, radius, "crown")
        seen = smallest_margin(module, x, label, norm=norm, radius=radius)
        assert bound.lower - bound.tau <= seen
        if norm is not Norm.L1:  # one coordinate of thirty carries the l1 minimum, and few steps may miss it
            assert seen <= bound.lower + 1e-6 * abs(bound.lower) + 1e-6


def recorded(seen: list[Tensor]) -> Any:
    def classify(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], dim=1)

    return classify


@pytest.mark.parametrize("value_range", [None, (0.0, 1.0)])
@pytest.mark.parametrize("norm", list(Norm))
def test_every_input_it_tries_is_in_the_ball_and_the_range(norm: Norm, value_range: tuple[float, float] | None) -> None:
    seen: list[Tensor] = []
    x, radius = torch.rand((3, 5), generator=torch.Generator().manual_seed(4)), 0.7
    smallest_margin(recorded(seen), x, 0, norm=norm, radius=radius, value_range=value_range)
    points = torch.cat(seen)
    assert len(points) > 20
    for point in points:
        differences = [abs(Fraction(a) - Fraction(b)) for a, b in zip(point.flatten().tolist(), x.flatten().tolist(), strict=True)]
        size = {Norm.LINF: max(differences), Norm.L1: sum(differences)}.get(norm, Fraction(0))
        assert size <= Fraction(radius)
        assert norm is not Norm.L2 or sum(d * d for d in differences) <= Fraction(radius) ** 2
    if value_range:
        assert 0.0 <= float(points.min()) <= float(points.max()) <= 1.0
    elif norm is Norm.LINF:
        corners = ((points - x.double()).abs() > radius * 0.999).flatten(1).all(1)
        assert int(corners.sum()) >= 8


def test_no_number_in_the_ball_is_an_error() -> None:
    def classify(x: Tensor) -> Tensor:
        return torch.stack([x.sum(1), (x.sum(1) - 0.5).log()], dim=1)

    with pytest.raises(NumericalError, match="in the ball"):
        smallest_margin(classify, torch.full((4,), 0.3), 0, norm=Norm.LINF, radius=0.3)


@pytest.mark.parametrize("mode", [{"epsilon": 0.01}, {"max_radius": 1.0}])
@pytest.mark.parametrize(("excess", "caught"), [(0.0, False), (1e-3, True)])
def test_a_bound_that_is_too_large_by_little_gets_no_certificate(
    monkeypatch: pytest.MonkeyPatch, mode: dict[str, float], excess: float, caught: bool
) -> None:
    true = LirpaEngine.margin

    def margin(self: LirpaEngine, x: Tensor, label: int, radius: float, method: str) -> MarginBound:
        bound = true(self, x, label, radius, method)
        return replace(bound, lower=bound.lower + excess)

    monkeypatch.setattr(LirpaEngine, "margin", margin)
    truth = LinearTruth.random(6, 2, seed=3)
    model, examples = truth.model(), truth.examples(3, seed=2)
    spec = parse_spec({"certifiers": [{"kind": "bounds", "method": "crown", "norm": "linf", **mode}]})
    rows = certify(model, examples, spec, run_for(spec, model, 3))
    if not caught:
        assert Verdict.CERTIFIED in [row.verdict for row in rows]
        return
    with pytest.raises(ContradictionError, match=r"certifier 0 \(bounds, crown\) proved a margin of .* example 10\d to linf radius"):
        list(rows)


def test_inputs_are_the_same_every_time() -> None:
    first: list[Tensor] = []
    again: list[Tensor] = []
    for seen in (first, again):
        smallest_margin(recorded(seen), torch.from_numpy(np.ones(5, np.float32)), 0, norm=Norm.L2, radius=0.1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
