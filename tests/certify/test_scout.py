"""The scout sees what the engine would find, in float32, and where its lines end; what it knows of larger balls changes nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from certify import Model
from certify.bounds.engine import METHODS, LirpaEngine
from certify.bounds.scout import Scout
from certify.export import to_onnx
from certify.norms import Norm
from tests.support.onnx_models import small_cnn

POOLED = Model.from_onnx(small_cnn(mean=0.4, size=12, channels=3))
RADII = {Norm.LINF: 0.02, Norm.L2: 0.2, Norm.L1: 0.5}


def strided() -> Model:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 4, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)]
    return Model.from_onnx(to_onnx(nn.Sequential(*layers), (3, 12, 12)))


MODEL = strided()
X = torch.rand((2, *MODEL.input_shape), generator=torch.Generator().manual_seed(3))


def explored(norm: Norm, value_range: tuple[float, float] | None = None, model: Model = MODEL) -> tuple[LirpaEngine, Scout, int]:
    engine = LirpaEngine(model.graph, norm, value_range, iterations=5)
    return engine, Scout(engine), int(engine.logits(X[0]).argmax())


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("method", METHODS)
def test_it_sees_what_the_engine_finds(norm: Norm, method: str) -> None:
    engine, scout, label = explored(norm)
    for share in (1e-6, 0.3, 1.0):
        probe, bound = scout.probe(X[0], label, share * RADII[norm], method), engine.margin(X[0], label, share * RADII[norm], method)
        assert probe.margin == pytest.approx(bound.lower, abs=2e-2 if method == "alpha-crown" else 1e-4)


@pytest.mark.parametrize("model", [MODEL, POOLED])
@pytest.mark.parametrize("norm", list(Norm))
def test_what_is_known_of_a_larger_ball_saves_work_and_changes_no_margin(norm: Norm, model: Model) -> None:
    _, scout, label = explored(norm, model=model)
    fresh = {}
    for share in (0.4, 0.7, 1.0):
        scout.begin()
        fresh[share] = scout.probe(X[0], label, share * RADII[norm], "crown")
    scout.begin()
    for share in (1.0, 0.7, 0.4):
        again = scout.probe(X[0], label, share * RADII[norm], "crown")
        assert again.margin == pytest.approx(fresh[share].margin, abs=1e-4)
        assert again.reach == pytest.approx(fresh[share].reach, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "norm", "value_range"),
    [
        ("crown-ibp", Norm.LINF, None),
        ("crown", Norm.LINF, (0.0, 1.0)),
        ("crown", Norm.LINF, None),
        ("crown", Norm.L2, None),
        ("crown", Norm.L1, None),
    ],
)
def test_lines_that_end_inside_their_ball_prove_as_far_as_they_reach(
    method: str, norm: Norm, value_range: tuple[float, float] | None
) -> None:
    engine, scout, label = explored(norm, value_range)
    radius = next(r for r in (RADII[norm] * 1.1**k for k in range(-30, 30)) if not scout.probe(X[0], label, r, method).margin > 0)
    reach = scout.probe(X[0], label, radius, method).reach
    assert 0 < reach < radius
    assert engine.margin(X[0], label, reach * 0.999, method).proved
    small = scout.probe(X[0], label, radius / 64, method)
    assert small.reach > reach, "lines of a small ball, followed beyond it, end farther out"


def test_a_fault_is_no_number_and_leaves_the_scout_sound() -> None:
    _, scout, label = explored(Norm.LINF)
    before = scout.probe(X[0], label, 0.001, "crown").margin
    assert math.isnan(scout.probe(X[0, :, :5], label, 0.001, "crown").margin)
    assert scout.probe(X[0], label, 0.001, "crown").margin == pytest.approx(before, abs=1e-5)
