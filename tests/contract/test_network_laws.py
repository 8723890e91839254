"""On a real network: no certified radius reaches a distance at which the attack succeeds."""

from __future__ import annotations

import pytest
import torch

from certify import Examples, Model, certify
from certify.attacks.search import minimal_distance
from certify.bounds.engine import LirpaEngine
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support.onnx_models import small_cnn
from tests.support.runs import run_for


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_bounds_stay_below_the_attack(method: str, norm: str) -> None:
    model = Model.from_onnx(small_cnn(mean=0.4))
    x = torch.rand((6, *model.input_shape), generator=torch.Generator().manual_seed(1))
    examples = Examples(tuple(range(6)), x, torch.zeros(6, dtype=torch.int64))
    spec = parse_spec({"certifiers": [{"kind": "bounds", "method": method, "norm": norm, "max_radius": 1.0, "tolerance": 0.01}]})
    module = model.module("cpu", torch.float64)
    certified = 0
    for certificate, row in zip(certify(model, examples, spec, run_for(spec, model, 6)), x, strict=True):
        assert certificate.prediction is not None
        found = minimal_distance(
            module, row, certificate.prediction, norm=Norm(norm), max_radius=3.0, generator=torch.Generator().manual_seed(0), rounds=8
        )
        certified += certificate.verdict is Verdict.CERTIFIED
        assert found is None or certificate.radius < found.distance_upper
    assert certified == 6


def test_a_fault_of_the_engine_is_an_error_with_its_reason_and_never_a_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.from_onnx(small_cnn())
    spec = parse_spec({"certifiers": [{"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 1.0}]})
    examples = Examples((0,), torch.rand((1, *model.input_shape)), torch.tensor([0]))
    bounded = type(LirpaEngine(model.graph, Norm.LINF)._bounded)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a shape it was not written for")

    monkeypatch.setattr(bounded, "compute_bounds", fail)
    [certificate] = certify(model, examples, spec, run_for(spec, model, 1))
    assert (certificate.verdict, certificate.radius) == (Verdict.ERROR, 0.0)
    assert "a shape it was not written for" in certificate.reason


@pytest.mark.parametrize("clip", [True, False])
def test_clipping_never_shrinks_a_radius(clip: bool) -> None:
    model = Model.from_onnx(small_cnn(mean=0.4), value_range=(0.0, 1.0))
    x = torch.rand((3, *model.input_shape), generator=torch.Generator().manual_seed(1)).round()  # corners: clipping matters most
    examples = Examples((0, 1, 2), x, torch.zeros(3, dtype=torch.int64))

    def radii(clipped: bool) -> list[float]:
        entry = {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 1.0}
        spec = parse_spec({"clip": clipped, "certifiers": [entry]})
        found = list(certify(model, examples, spec, run_for(spec, model, 3)))
        assert all(c.evidence is not None and c.evidence.clipped is clipped for c in found)
        return [c.radius for c in found]

    whole = radii(False)
    assert all(a >= b * 0.999 for a, b in zip(radii(clip), whole, strict=True))
    assert not clip or sum(radii(clip)) > sum(whole)


def test_a_wall_clock_limit_is_a_verdict_of_its_own_and_spares_the_others() -> None:
    model = Model.from_onnx(small_cnn())
    x = torch.rand((3, *model.input_shape), generator=torch.Generator().manual_seed(1))
    entry = {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 1.0, "timeout_seconds": 60.0}
    spec, moments = parse_spec({"certifiers": [entry]}), iter([0.0, 0.0, 100.0, *([200.0] * 1000)])
    run = run_for(spec, model, 3, now=lambda: next(moments))
    first, *others = certify(model, Examples((0, 1, 2), x, torch.zeros(3, dtype=torch.int64)), spec, run)
    assert (first.verdict, first.radius, first.prediction) == (Verdict.TIMEOUT, 0.0, None)
    assert "wall-clock limit" in first.reason
    assert all(certificate.radius > 0 for certificate in others)
