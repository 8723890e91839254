"""Lipschitz certificates keep the laws, and are exact where the network is linear."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from certify import Examples, Model
from certify.certificate import Certificate, LipschitzEvidence
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.contract.certifier_laws import CertifierLaws
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model, mlp


class TestLipschitz(CertifierLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "lipschitz", "norm": "l2"}
    norm = Norm.L2

    def test_a_linear_model_is_certified_to_the_truth(self, truth: LinearTruth) -> None:
        examples = truth.examples(12, seed=5)
        for certificate, x in zip(self.run(truth.model(), examples), examples.x, strict=True):
            assert certificate.verdict is Verdict.CERTIFIED
            exact = truth.distance(x.numpy(), certificate.prediction, self.norm)
            assert Fraction(999_999, 1_000_000) * exact <= Fraction(certificate.radius) < exact

    def test_the_evidence_gives_the_radius_again(self, truth: LinearTruth) -> None:
        for certificate in self.run(truth.model(), truth.examples(12, seed=6)):
            evidence = certificate.evidence
            assert isinstance(evidence, LipschitzEvidence)
            assert certificate.radius == pytest.approx(evidence.margin_lower / evidence.lipschitz_upper)
            assert 0 < evidence.tau < 1e-12
            assert evidence.rival != certificate.prediction
            assert evidence.copies == 0
            assert str(certificate.statement) == "real-arithmetic"
            assert certificate.epsilon_verified is None

    def test_a_wrong_answer_keeps_its_radius(self, truth: LinearTruth) -> None:
        wrong = [c for c in self.run(truth.model(), truth.examples(12, seed=5)) if not c.correct]
        assert wrong
        assert all(c.verdict is Verdict.CERTIFIED and c.radius > 0 for c in wrong)

    def test_a_margin_within_its_rounding_error_is_unknown(self) -> None:
        """Two logits add up the same numbers in another order: equal in real arithmetic, and not always as computed."""
        apart = 0
        for seed in range(10):
            rng = np.random.default_rng(seed)
            row = (rng.normal(size=60) * 10 ** rng.uniform(-4, 4, 60)).astype(np.float32)
            model = Model.from_onnx(linear_model(np.stack([row, rng.permutation(row)]), np.zeros(2, np.float32)))
            x = torch.full((1, 60), 0.7)
            with torch.no_grad():
                logits = model.module(dtype=torch.float64)(x.double())[0]
            apart += bool(logits[0] != logits[1])
            [certificate] = self.run(model, Examples((0,), x, torch.tensor([0])))
            assert (certificate.verdict, certificate.radius) == (Verdict.UNKNOWN, 0.0)
            assert "within its rounding error" in certificate.reason
            assert isinstance(certificate.evidence, LipschitzEvidence)
        assert apart >= 3

    def test_logits_that_never_move_prove_any_radius(self) -> None:
        certificate = self.one(linear_model(np.zeros((2, 3), np.float32), np.array([1, 0], np.float32)), torch.zeros(1, 3))
        assert certificate.verdict is Verdict.CERTIFIED
        assert certificate.radius == 1e9

    def test_a_network_without_a_bound_is_an_error_that_names_the_operator(self) -> None:
        certificate = self.one(mlp([3, 4, 2], activation="Exp"), torch.zeros(1, 3))
        assert (certificate.verdict, certificate.radius) == (Verdict.ERROR, 0.0)
        assert "exp_a0" in certificate.reason

    def one(self, data: bytes, x: torch.Tensor) -> Certificate:
        [certificate] = self.run(Model.from_onnx(data), Examples((0,), x, torch.tensor([0])))
        return certificate


def test_the_spec_is_what_it_says() -> None:
    [certifier] = parse_spec({"certifiers": [{"kind": "lipschitz"}]}).certifiers
    assert certifier.model_dump() == {"kind": "lipschitz", "norm": "l2"}
    assert not certifier.stochastic
