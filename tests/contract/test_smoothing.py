"""Smoothing keeps the laws with every noise, bound and sampling, and reads its own evidence."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats

from certify import Examples, Model
from certify.certificate import SmoothingEvidence
from certify.norms import Norm
from certify.rounding import radius_down, step_down
from certify.sampling.noise import NOISES
from certify.sampling.noise.gaussian import l2_radius
from certify.statistics.binomial import normal_quantile_lower
from certify.statistics.sequential import Look, limits
from certify.verdict import Verdict
from tests.contract.certifier_laws import CertifierLaws
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model


class SmoothingLaws(CertifierLaws):
    """What every noise has to keep; radii follow from the stored counts alone."""

    def test_radii_follow_from_the_stored_looks(self, truth: LinearTruth) -> None:
        for certificate in self.run(truth.model(), truth.examples(12, seed=1)):
            evidence = certificate.evidence
            assert isinstance(evidence, SmoothingEvidence)
            assert sum(evidence.counts) == evidence.n == evidence.looks[-1]
            assert sum(evidence.counts_selection) == evidence.n0
            top = int(np.argmax(evidence.counts_selection))
            assert evidence.look_counts[-1] == (evidence.counts[top], max(c for i, c in enumerate(evidence.counts) if i != top))
            assert all(
                a <= b
                for look, then in zip(evidence.look_counts, evidence.look_counts[1:], strict=False)
                for a, b in zip(look, then, strict=True)
            )
            looks = [
                Look(n, *counts, share) for n, counts, share in zip(evidence.looks, evidence.look_counts, evidence.shares, strict=True)
            ]
            found = limits(looks, certificate.alpha, evidence.bound, evidence.slack)
            assert (found.pA_lower, found.pB_upper) == (evidence.pA_lower, evidence.pB_upper)
            noise = NOISES[evidence.noise](evidence.sigma, (6,), "cpu")
            assert certificate.radius == radius_down(self.expected(evidence, noise.radius(found.pA_lower, found.pB_upper)))

    def expected(self, evidence: SmoothingEvidence, radius: float) -> float:
        """The radius at the input that follows from the noise's own."""
        return max(0.0, step_down(radius / self.scale(6)))

    def scale(self, dimension: int) -> float:
        return 1.0

    def test_family_wise_alpha_is_shared_by_all_certificates(self, truth: LinearTruth) -> None:
        shared = self.run(truth.model(), truth.examples(12, seed=1), self.spec(sampling="fixed"))
        each = self.run(truth.model(), truth.examples(12, seed=1), self.spec(error_rate="per-example", sampling="fixed"))
        assert all(12 * c.alpha <= 0.001 for c in shared)
        assert all(c.alpha <= 0.001 for c in each)
        assert all(a.radius <= b.radius for a, b in zip(shared, each, strict=True))
        assert [a.evidence.counts for a in shared] == [b.evidence.counts for b in each]
        assert {a.evidence.family for a in shared} == {12}
        assert {a.evidence.family for a in each} == {1}


class TestAdaptive(SmoothingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "smoothing", "sigma": 0.25, "n": 4000, "alpha": 0.001}
    norm = Norm.L2

    def test_an_adaptive_run_takes_fewer_samples_and_stays_within_its_tolerance(self, truth: LinearTruth) -> None:
        examples = truth.examples(12, seed=1)
        adaptive = self.run(truth.model(), examples, self.spec(n=100_000, tolerance=0.1))
        fixed = self.run(truth.model(), examples, self.spec(n=100_000, sampling="fixed"))
        assert sum(c.evidence.n for c in adaptive) < 0.75 * sum(c.evidence.n for c in fixed)
        for a, b in zip(adaptive, fixed, strict=True):
            assert a.radius >= 0.88 * b.radius

    def test_a_run_to_the_end_counts_the_samples_of_a_fixed_run(self, truth: LinearTruth) -> None:
        examples = truth.examples(12, seed=1)
        to_the_end = self.run(truth.model(), examples, self.spec(tolerance=1e-9))
        fixed = self.run(truth.model(), examples, self.spec(sampling="fixed"))
        assert [a.evidence.counts for a in to_the_end if a.evidence.n == 4000] == [
            b.evidence.counts for a, b in zip(to_the_end, fixed, strict=True) if a.evidence.n == 4000
        ]
        assert sum(a.evidence.n == 4000 for a in to_the_end) > 6

    def test_asked_radii_are_decided_and_then_no_more_samples_are_drawn(self, truth: LinearTruth) -> None:
        examples = truth.examples(12, seed=1)
        spec = self.spec(n=100_000, radii=[0.05, 0.1, 0.2])
        fixed = self.run(truth.model(), examples, self.spec(n=100_000, sampling="fixed"))
        for certificate, best in zip(self.run(truth.model(), examples, spec), fixed, strict=True):
            for radius in (0.05, 0.1, 0.2):
                if abs(best.radius - radius) > 0.01:
                    assert (certificate.radius >= radius) == (best.radius >= radius)
            assert certificate.evidence.n <= 100_000
            assert certificate.evidence.radii == (0.05, 0.1, 0.2)
        assert np.mean([c.evidence.n for c in self.run(truth.model(), examples, spec)]) < 20_000

    def test_votes_follow_the_exact_probability(self) -> None:
        truth = LinearTruth(np.array([[1, 0], [-1, 0]], dtype=np.float32), np.zeros(2, dtype=np.float32))
        examples = Examples(tuple(range(20)), torch.full((20, 2), 0.2), torch.zeros(20, dtype=torch.int64))
        wins = sum(c.evidence.counts[0] for c in self.run(truth.model(), examples, self.spec(sampling="fixed")))
        assert stats.binomtest(wins, 20 * 4000, float(stats.norm.cdf(0.2 / 0.25))).pvalue > 1e-4

    def test_selection_and_estimation_never_share_a_sample(self) -> None:
        # x sits on the boundary: the selected class is the lucky one of the selection sample. Were its samples reused, a class
        # selected from all of them would win more than half of the estimate on average.
        model = Model.from_onnx(linear_model(np.array([[1.0], [-1.0]], dtype=np.float32), np.zeros(2, dtype=np.float32)))
        examples = Examples(tuple(range(300)), torch.zeros(300, 1), torch.zeros(300, dtype=torch.int64))
        wins = 0
        for certificate in self.run(model, examples, self.spec(n0=100, n=100, sampling="fixed")):
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
        assert "votes, which proves only" in certificate.reason

    def test_out_of_memory_halves_the_batch_and_starts_again(self, truth: LinearTruth) -> None:
        examples, model = truth.examples(12, seed=1), truth.model()
        wanted = [c.evidence.counts for c in self.run(model, examples, batch_size=64)]
        module, shapes = model.module(), []

        class Small(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                shapes.append(len(x))
                if len(shapes) > 3 and len(x) > 64:  # not at once: what was counted before must not stay
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return module(x)

        model._modules[("cpu", torch.float32)] = Small()
        certificates = self.run(model, examples, batch_size=256)
        assert [c.evidence.counts for c in certificates] == wanted
        assert {c.provenance.batch_size for c in certificates} == {64}


class TestFixed(SmoothingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "smoothing", "sigma": 0.25, "n": 4000, "alpha": 0.001, "sampling": "fixed"}
    norm = Norm.L2


class TestTopTwo(SmoothingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "smoothing", "sigma": 0.25, "n": 4000, "alpha": 0.001, "bound": "top-two"}
    norm = Norm.L2

    def test_many_rivals_gain_from_their_own_limit(self) -> None:
        weight = np.vstack([np.eye(6, dtype=np.float32)])
        model = Model.from_onnx(linear_model(weight, np.zeros(6, dtype=np.float32)))
        examples = Examples((0,), torch.tensor([[0.2, 0, 0, 0, 0, 0]]), torch.tensor([0]))
        [two] = self.run(model, examples)
        [one] = self.run(model, examples, self.spec(bound="one-sided"))
        assert two.radius > one.radius + 0.02


class TestUniform(SmoothingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "smoothing", "noise": "uniform", "sigma": 0.25, "n": 4000, "alpha": 0.001}
    norm = Norm.L1


class TestConvertedToLinf(SmoothingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "smoothing", "norm": "linf", "sigma": 0.25, "n": 4000, "alpha": 0.001}
    norm = Norm.LINF

    def scale(self, dimension: int) -> float:
        return float(np.nextafter(np.sqrt(dimension), np.inf))

    def test_the_conversion_is_part_of_the_statement(self, truth: LinearTruth) -> None:
        assert {str(c.statement) for c in self.run(truth.model(), truth.examples(3, seed=1))} == {"S0-fixed-from-l2"}


class TestConvertedToL1(SmoothingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "smoothing", "norm": "l1", "sigma": 0.25, "n": 4000, "alpha": 0.001}
    norm = Norm.L1


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7])
def test_the_radius_uses_the_noise_level_that_was_really_drawn(sigma: float) -> None:
    # 0.7 is above its float32 neighbour: the noise is a little weaker than asked for, and so is the proof.
    drawn = min(sigma, float(np.float32(sigma)))
    radius = NOISES["gaussian"](sigma, (3,), "cpu").radius(0.99, 0.01)
    assert drawn * normal_quantile_lower(0.99) * (1 - 1e-14) <= radius <= drawn * normal_quantile_lower(0.99)


@pytest.mark.parametrize(("pA", "pB"), [(0.9, 0.05), (0.45, 0.2), (0.6, 0.39), (0.9, 0.1)])
def test_the_l2_radius_is_the_theorem_rounded_down(pA: float, pB: float) -> None:
    exact = 0.5 / 2 * (stats.norm.ppf(pA) - stats.norm.ppf(pB))
    assert exact * (1 - 1e-9) <= l2_radius(0.5, pA, pB) <= exact * (1 + 1e-15)


@pytest.mark.parametrize(("pA", "pB"), [(0.5, 0.5), (0.3, 0.4), (0.0, 1.0), (1.0, 0.0), (0.4, 0.6)])
def test_no_lead_is_no_radius(pA: float, pB: float) -> None:
    assert l2_radius(0.5, pA, pB) == 0.0
