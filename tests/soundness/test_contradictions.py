"""Sound certificates and attacks side by side, in every norm: none contradicts another, and the tripwire stays quiet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from certify import Examples, Model, certify
from certify.attacks.refutation import decoded
from certify.certificate import Certificate
from certify.contradiction import contradictions, suspects
from certify.findings import AttackResult
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support import published
from tests.support.onnx_models import linear_model, mlp, node, small_cnn
from tests.support.runs import run_for
from workers.comparison import Given, confirmed

FEW = {"restarts": 3, "steps": 15}
NETWORKS = {
    "mlp": mlp([12, 24, 24, 5]),
    "normalised mlp": mlp([12, 24, 5], first=[node("Sub", "x k", "start")], k=np.full(12, 0.5, np.float32)),
    "sigmoid": mlp([12, 16, 4], activation="Sigmoid"),
    "cnn": small_cnn(mean=0.4),
}


def entries(reach: dict[str, float]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for norm, radius in reach.items():
        found.append({"kind": "bounds", "method": "crown", "norm": norm, "max_radius": radius, "tolerance": 0.01})
        found.append({"kind": "bounds", "method": "ibp", "norm": norm, "epsilon": radius / 8})
        found.append({"kind": "attack", "norm": norm, "max_radius": 4 * radius, **FEW})
    return found


@pytest.mark.parametrize(("name", "clip"), [*((name, False) for name in NETWORKS), ("mlp", True), ("cnn", True)])
def test_sound_results_never_contradict_each_other(name: str, clip: bool) -> None:
    model = Model.from_onnx(NETWORKS[name], (0.0, 1.0))
    x = torch.rand((2, *model.input_shape), generator=torch.Generator().manual_seed(1))
    if clip:
        x = x.round()  # corners of the range, where clipping matters most
    labels = model.module()(x).argmax(1)
    spec = parse_spec({"clip": clip, "certifiers": entries({"linf": 0.5, "l2": 2.0, "l1": 6.0})})
    run = run_for(spec, model, 2)
    network = Given.of(model, NETWORKS[name], "cpu")
    rows = [confirmed(row, network) for row in certify(model, Examples((0, 1), x, labels), spec, run)]
    pairs = suspects(rows)
    assert len(pairs) >= 6  # something is proved and something is found, so that there is something to hold against each other
    assert contradictions(pairs, lambda row: x[row], model, spec, run.plan) == []
    nearest = {(row.example, row.norm): row.distance_upper for row in rows if isinstance(row, AttackResult) and row.found}
    for row in rows:
        if isinstance(row, Certificate) and (distance := nearest.get((row.example, row.norm))) is not None:
            assert row.radius < distance


@pytest.mark.parametrize("net", ["mnist-net_256x2.onnx", "mnist-net_256x4.onnx"])
def test_nor_do_they_on_published_networks(net: str) -> None:
    place = published.folder() / "mnist_fc_2022"
    if not place.is_dir():
        pytest.skip("mnist_fc_2022 is not in ASSAY_NETWORKS")
    instances = [one for one in published.instances(place) if one.net == net and one.target < 0][:3]
    model = Model.from_onnx((place / net).read_bytes(), (0.0, 1.0))
    x = torch.stack([one.x for one in instances]).reshape(-1, *model.input_shape)
    examples = Examples(tuple(range(3)), x, torch.tensor([one.label for one in instances]))
    spec = parse_spec({"clip": True, "certifiers": entries({"linf": 0.08, "l2": 1.0})})
    run = run_for(spec, model, 3)
    rows = list(certify(model, examples, spec, run))
    pairs = suspects(rows)
    assert pairs
    assert contradictions(pairs, lambda row: x[row], model, spec, run.plan) == []


def test_an_attack_is_confirmed_in_onnxruntime_or_found_nothing() -> None:
    weight = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    same = linear_model(weight, np.zeros(2, np.float32))
    other = linear_model(np.zeros_like(weight), np.array([1.0, 0.0], np.float32))  # answers 0 everywhere
    no_number = linear_model(np.full_like(weight, np.inf), np.zeros(2, np.float32))
    model = Model.from_onnx(same)
    spec = parse_spec({"certifiers": [{"kind": "attack", "norm": "linf", "max_radius": 2.0, **FEW}]})
    rows = list(certify(model, Examples((0,), torch.tensor([[0.5, 0.0]]), torch.tensor([0])), spec, run_for(spec, model, 1)))
    assert [confirmed(row, Given.of(model, same, "cpu")) for row in rows] == rows
    [row] = rows
    assert isinstance(row, AttackResult)
    assert row.counterexample is not None
    assert float(decoded(row.counterexample, (2,))[0]) < 0
    for bytes_ in (other, no_number):
        changed = confirmed(row, Given.of(model, bytes_, "cpu"))
        assert isinstance(changed, AttackResult)
        assert AttackResult.model_validate(changed.model_dump()) == changed
        assert (changed.found, changed.answer, changed.distance_upper, changed.counterexample) == (False, None, None, None)
        assert "onnxruntime" in changed.reason
        assert Verdict.REFUTED not in vars(changed).values()
