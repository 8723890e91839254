"""Latent smoothing keeps every law of smoothing; its radius is never above an exact distance behind linear encoders."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from certify import Examples, Model
from certify.certificate import LatentEvidence, SmoothingEvidence
from certify.norms import Norm
from certify.recompute import recompute
from certify.rounding import step_down
from certify.sampling.place import AtTensor
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.contract.certifier_laws import D, K, N
from tests.contract.test_smoothing import SmoothingLaws
from tests.support.encoded import EncodedTruth, encoded, orthogonal
from tests.support.linear import LinearTruth

WIDE = np.vstack([orthogonal(D), orthogonal(D, seed=1)]) / np.float32(np.sqrt(2))
# Name, encoder, mean and std of a normalisation in front of it, and the exact Lipschitz constant.
ENCODERS: dict[str, tuple[np.ndarray, float | None, float, float]] = {
    "orthogonal": (orthogonal(D), None, 1.0, 1.0),
    "scaled by 3": (3 * orthogonal(D), None, 1.0, 3.0),
    "behind a normalisation": (orthogonal(D), 0.5, 0.2, 5.0),
    "an isometry into more dimensions": (WIDE, None, 1.0, 1.0),
    "a contraction": (orthogonal(D)[:4], None, 1.0, 1.0),
}


class TestLatent(SmoothingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "latent-smoothing", "split": "z", "sigma": 0.5, "n": 4000, "alpha": 0.001}
    norm = Norm.L2

    @pytest.fixture(params=list(ENCODERS))
    def truth(self, request: pytest.FixtureRequest) -> LinearTruth:
        encoder, mean, std, _ = ENCODERS[request.param]
        return EncodedTruth.behind(encoder, K, seed=7, mean=mean, std=std)

    def linear(self, weight: np.ndarray) -> Model:
        return encoded(np.eye(weight.shape[1], dtype=np.float32), weight, np.zeros(len(weight), np.float32))

    def expected(self, evidence: SmoothingEvidence, radius: float) -> float:
        assert isinstance(evidence, LatentEvidence)
        assert evidence.latent_radius == radius
        back = max(0.0, step_down(step_down(radius - evidence.value_error) / evidence.lipschitz_upper))
        return max(0.0, step_down(back / self.scale(6)))

    @pytest.mark.parametrize("name", ENCODERS)
    def test_the_constant_is_the_exact_one(self, name: str) -> None:
        encoder, mean, std, constant = ENCODERS[name]
        model = EncodedTruth.behind(encoder, K, seed=7, mean=mean, std=std).model()
        assert constant * (1 - 1e-6) <= AtTensor(model, "z").lipschitz <= constant * (1 + 1e-6)

    def test_radii_are_close_to_the_exact_distance_behind_an_isometry(self) -> None:
        truth = EncodedTruth.behind(3 * orthogonal(D), 2, seed=3)
        examples = truth.examples(N, seed=1)
        found = self.run(truth.model(), examples, self.spec(n=100_000, sigma=2.0, sampling="fixed", error_rate="per-example"))
        for certificate, x in zip(found, examples.x, strict=True):
            exact = float(truth.distance(x.numpy(), certificate.prediction, Norm.L2))
            assert 0.95 * exact <= certificate.radius <= exact

    def test_without_the_constant_the_law_of_the_exact_distance_would_be_broken(self) -> None:
        truth = EncodedTruth.behind(3 * orthogonal(D), 2, seed=3)
        examples = truth.examples(N, seed=1)
        found = self.run(truth.model(), examples, self.spec(n=100_000, sigma=2.0, sampling="fixed"))
        assert all(
            c.evidence.latent_radius > truth.distance(x.numpy(), c.prediction, Norm.L2) for c, x in zip(found, examples.x, strict=True)
        )

    def test_the_votes_are_those_of_smoothing_at_the_input_of_the_head(self) -> None:
        # An encoder that changes nothing: the same noise falls on the same values, so that every count is the same.
        truth = EncodedTruth.behind(np.eye(D), K, seed=7)
        examples = truth.examples(N, seed=1)
        at_input = self.spec(kind="smoothing", split=None)
        latent, plain = self.run(truth.model(), examples), self.run(truth.model(), examples, at_input)
        assert [c.evidence.counts for c in latent] == [c.evidence.counts for c in plain]
        assert all(a.radius <= b.radius for a, b in zip(latent, plain, strict=True))
        assert all(a.radius >= 0.999999 * b.radius for a, b in zip(latent, plain, strict=True))

    def test_the_error_of_the_point_is_taken_off(self) -> None:
        # Values near 1e6 have no more than 2 binary digits behind the point in float32: what the noise is added to is not h(x).
        truth = EncodedTruth.behind(1e6 * orthogonal(D), 2, seed=3)
        found = self.run(truth.model(), truth.examples(N, seed=1), self.spec(sigma=1e4))
        assert all(0.01 < c.evidence.value_error < 1.0 for c in found)
        assert any(c.verdict is Verdict.CERTIFIED for c in found)
        tiny = self.run(truth.model(), truth.examples(N, seed=1), self.spec(sigma=1e-3))
        assert all(c.radius == 0.0 for c in tiny)

    def test_recomputed_radii_are_carried_back_too(self, truth: LinearTruth) -> None:
        for certificate in self.run(truth.model(), truth.examples(N, seed=1), self.spec(sampling="fixed")):
            assert recompute(certificate, bound=certificate.evidence.bound).radius == certificate.radius
            stricter = recompute(certificate, alpha=1e-6)
            assert stricter.radius <= certificate.radius
            if stricter.verdict is Verdict.CERTIFIED:
                assert stricter.radius == pytest.approx(stricter.evidence.latent_radius / stricter.evidence.lipschitz_upper, rel=1e-4)

    def test_a_prediction_pays_for_the_error_of_the_point(self) -> None:
        # At values near 1e7 the float32 point is off by up to half a unit: beside sigma = 0.1 nothing can be told.
        truth = EncodedTruth.behind(1e7 * orthogonal(D), 2, seed=3)
        entry = {"kind": "predict", "split": "z", "n": 1000, "alpha": 1e-6}
        wide, narrow = (parse_spec({"certifiers": [{**entry, "sigma": sigma}]}) for sigma in (1e5, 0.1))
        assert any(c.verdict is Verdict.CERTIFIED for c in self.run(truth.model(), truth.examples(N, seed=1), wide))
        assert not any(c.verdict is Verdict.CERTIFIED for c in self.run(truth.model(), truth.examples(N, seed=1), narrow))

    def test_an_encoder_that_overflows_is_an_error(self) -> None:
        model = self.linear(np.eye(2, dtype=np.float32))
        model = encoded(np.full((2, 2), 3e38, np.float32), np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
        [certificate] = self.run(model, Examples((0,), torch.full((1, 2), 5.0), torch.tensor([0])))
        assert certificate.verdict is Verdict.ERROR
        assert "infinite" in certificate.reason


class TestLatentInLinf(TestLatent):
    entry: ClassVar[dict[str, Any]] = {**TestLatent.entry, "norm": "linf", "n": 2000}
    norm = Norm.LINF

    def scale(self, dimension: int) -> float:
        return float(np.nextafter(np.sqrt(dimension), np.inf))

    test_radii_are_close_to_the_exact_distance_behind_an_isometry = None  # type: ignore[assignment]
    test_recomputed_radii_are_carried_back_too = None  # type: ignore[assignment]
    test_without_the_constant_the_law_of_the_exact_distance_would_be_broken = None  # type: ignore[assignment]
