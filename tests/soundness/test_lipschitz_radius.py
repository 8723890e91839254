"""No attack finds another answer inside a Lipschitz certificate, and a bound without the normalisation's factor is found out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from certify import Examples, Model, certify
from certify.attacks.search import minimal_distance
from certify.certificate import Certificate, LipschitzEvidence
from certify.contradiction import within
from certify.errors import ContradictionError
from certify.graph.operators.arithmetic import Arithmetic
from certify.lipschitz import certifier
from certify.lipschitz.parts import Scaled
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support.encoded import orthogonal
from tests.support.layered import resnet
from tests.support.onnx_models import mlp, model_bytes, node, normalisation, small_cnn
from tests.support.runs import run_for

SPEC = parse_spec({"certifiers": [{"kind": "lipschitz", "norm": "l2"}]})
D, CLASSES, COUNT = 6, 4, 8


def _thrice() -> bytes:
    return mlp([D, 16, 8, CLASSES], first=[node("Mul", "x three", "start")], three=np.array([3.0], np.float32))


def _normalised(activation: str = "Relu") -> bytes:
    nodes, weights = normalisation(np.full(D, 0.5, np.float32), np.full(D, 0.2, np.float32))
    nodes[-1].output[:] = ["start"]
    return mlp([D, 16, 8, CLASSES], first=nodes, activation=activation, mean=weights["mean"], std=weights["std"])


def _isometric() -> bytes:
    """(x - 0.5) / 0.2, then orthogonal layers with absolute values between them: no distance grows or shrinks where no sign changes."""
    nodes, weights = normalisation(np.full(D, 0.5, np.float32), np.full(D, 0.2, np.float32))
    nodes += [node("Gemm", "normal q0", "a"), node("Abs", "a", "b"), node("Gemm", "b q1", "z"), node("Gemm", "z w", "logits", transB=1)]
    weights |= {"q0": orthogonal(D, 0), "q1": orthogonal(D, 1), "w": np.random.default_rng(2).normal(size=(CLASSES, D)).astype(np.float32)}
    return model_bytes(nodes, weights, input_shape=("batch", D))


NETWORKS: dict[str, Callable[[], bytes]] = {
    "mlp": lambda: mlp([D, 16, 8, CLASSES]),
    "two layers": lambda: mlp([D, 12, CLASSES], seed=3),
    "tanh": lambda: _normalised("Tanh"),
    "times three": _thrice,
    "behind a normalisation": _normalised,
    "isometric": _isometric,
    "cnn": lambda: small_cnn(mean=0.5, std=0.2),
    "residual": lambda: resnet(4, 6),
}


def certified(model: Model) -> Iterator[tuple[Tensor, Certificate]]:
    x = torch.rand(COUNT, *model.input_shape, generator=torch.Generator().manual_seed(4))
    examples = Examples(tuple(range(COUNT)), x, torch.zeros(COUNT, dtype=torch.int64))
    for row, found in zip(x, certify(model, examples, SPEC, run_for(SPEC, model, COUNT)), strict=True):
        assert isinstance(found, Certificate)
        assert found.verdict is Verdict.CERTIFIED
        yield row, found


def nearest(model: Model, x: Tensor, certificate: Certificate, reach: float) -> Any:  # x: (*input)
    """The nearest input with another answer that an attack finds."""
    assert certificate.prediction is not None
    return minimal_distance(
        model.module(dtype=torch.float64), x, certificate.prediction, norm=Norm.L2, max_radius=reach * certificate.radius,
        generator=torch.Generator().manual_seed(5), steps=30, restarts=3,
    )  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_no_attack_is_inside_a_certificate(name: str) -> None:
    model, found = Model.from_onnx(NETWORKS[name]()), 0
    for x, certificate in certified(model):
        other = nearest(model, x, certificate, 3000.0 if name == "residual" else 60.0)
        if other is not None:
            found += 1
            assert not within(other.x.float(), x, Norm.L2, certificate.radius, closed=True)
            assert other.distance_upper > certificate.radius
    assert found >= COUNT // 2


def test_radii_of_an_isometric_network_are_almost_the_distances() -> None:
    model = Model.from_onnx(_isometric())
    ratios = sorted(nearest(model, x, c, 10.0).distance_upper / c.radius for x, c in certified(model))
    assert ratios[0] >= 1.0
    assert ratios[COUNT // 2] <= 1.02


def test_pairs_of_logits_give_larger_radii_than_the_whole_network() -> None:
    model = Model.from_onnx(NETWORKS["two layers"]())
    loose = math.sqrt(2) * model.lipschitz.at(model.graph.output)
    for _, certificate in certified(model):
        evidence = certificate.evidence
        assert isinstance(evidence, LipschitzEvidence)
        assert evidence.lipschitz_upper <= loose * (1 + 1e-9)
        assert certificate.radius >= 1.05 * evidence.margin_lower / loose
        assert evidence.encoder_upper is not None
        assert evidence.encoder_upper > 0


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants in which no division by a standard deviation stretches anything."""
    honest = Arithmetic.parts

    def parts(self: Arithmetic) -> Any:
        return self.repeated(Scaled(np.array(1.0), self.shape)) if self.type == "Div" else honest(self)

    monkeypatch.setattr(Arithmetic, "parts", parts)


def test_a_forgotten_normalisation_is_caught_before_the_radius_is_released(forgetful: None) -> None:
    with pytest.raises(ContradictionError, match=r"certifier 0 \(lipschitz\) proved that the answer stays for example 0"):
        list(certified(Model.from_onnx(_isometric())))


def test_a_forgotten_normalisation_is_caught_by_the_attack(forgetful: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certifier, "smallest_margin", lambda *args, **more: math.inf)
    model = Model.from_onnx(_isometric())
    inside = [nearest(model, x, c, 1.0) is not None for x, c in certified(model)]
    assert sum(inside) >= COUNT - 1
