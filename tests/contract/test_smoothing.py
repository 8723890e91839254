"""Smoothing keeps the laws, and reads its own evidence."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats

from certify import Examples, Model
from certify.norms import Norm
from certify.rounding import radius_down
from certify.smoothing import radius_of
from certify.statistics.binomial import lower_limit, normal_quantile_lower
from certify.verdict import Verdict
from tests.contract.certifier_laws import CertifierLaws
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model


class TestSmoothing(CertifierLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "smoothing", "sigma": 0.25, "n": 4000, "alpha": 0.001}
    norm = Norm.L2

    def test_radii_follow_from_the_stored_counts(self, truth: LinearTruth) -> None:
        for certificate in self.run(truth.model(), truth.examples(12, seed=1)):
            evidence = certificate.evidence
            assert evidence is not None
            assert sum(evidence.counts) == evidence.n
            assert sum(evidence.counts_selection) == evidence.n0
            top = int(np.argmax(evidence.counts_selection))
            assert evidence.pA_lower == lower_limit(evidence.counts[top], evidence.n, certificate.alpha)
            assert certificate.radius == radius_down(radius_of(evidence.pA_lower, evidence.sigma))

    def test_family_wise_alpha_is_shared_by_all_certificates(self, truth: LinearTruth) -> None:
        shared = self.run(truth.model(), truth.examples(12, seed=1))
        each = self.run(truth.model(), truth.examples(12, seed=1), self.spec(error_rate="per-example"))
        assert all(12 * c.alpha <= 0.001 for c in shared)
        assert all(c.alpha <= 0.001 for c in each)
        assert all(a.radius <= b.radius for a, b in zip(shared, each, strict=True))
        assert [a.evidence.counts for a in shared] == [b.evidence.counts for b in each]

    @pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7])
    def test_the_radius_uses_the_noise_level_that_was_really_drawn(self, sigma: float) -> None:
        # 0.7 is above its float32 neighbour: the noise is a little weaker than asked for, and so is the proof.
        drawn = min(sigma, float(np.float32(sigma)))
        assert radius_of(0.99, sigma) <= drawn * normal_quantile_lower(0.99)
        assert radius_of(0.99, sigma) >= drawn * normal_quantile_lower(0.99) * (1 - 1e-14)

    def test_votes_follow_the_exact_probability(self) -> None:
        truth = LinearTruth(np.array([[1, 0], [-1, 0]], dtype=np.float32), np.zeros(2, dtype=np.float32))
        examples = Examples(tuple(range(20)), torch.full((20, 2), 0.2), torch.zeros(20, dtype=torch.int64))
        wins = sum(c.evidence.counts[0] for c in self.run(truth.model(), examples))
        assert stats.binomtest(wins, 20 * 4000, float(stats.norm.cdf(0.2 / 0.25))).pvalue > 1e-4

    def test_selection_and_estimation_never_share_a_sample(self) -> None:
        # x sits on the boundary: the selected class is the lucky one of the selection sample. Were its samples reused, a class
        # selected from all of them would win more than half of the estimate on average.
        model = Model.from_onnx(linear_model(np.array([[1.0], [-1.0]], dtype=np.float32), np.zeros(2, dtype=np.float32)))
        examples = Examples(tuple(range(300)), torch.zeros(300, 1), torch.zeros(300, dtype=torch.int64))
        wins = 0
        for certificate in self.run(model, examples, self.spec(n0=100, n=100)):
            wins += certificate.evidence.counts[int(np.argmax(certificate.evidence.counts_selection))]
        assert stats.binomtest(wins, 300 * 100, 0.5).pvalue > 1e-4

    @pytest.mark.parametrize("batch_size", [1, 100, 1000])
    def test_counts_do_not_depend_on_the_batch_size_for_a_linear_model(self, truth: LinearTruth, batch_size: int) -> None:
        examples = truth.examples(3, seed=1)
        wanted = [c.evidence.counts for c in self.run(truth.model(), examples)]
        assert [c.evidence.counts for c in self.run(truth.model(), examples, batch_size=batch_size)] == wanted

    def test_abstention_says_what_the_votes_proved(self) -> None:
        model = Model.from_onnx(linear_model(np.array([[1.0], [-1.0]], dtype=np.float32), np.zeros(2, dtype=np.float32)))
        [certificate] = self.run(model, Examples((0,), torch.zeros(1, 1), torch.tensor([0])))
        assert certificate.verdict is Verdict.ABSTAINED
        assert certificate.prediction is None
        assert "of the votes" in certificate.reason
