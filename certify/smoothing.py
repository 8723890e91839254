"""Randomized smoothing with Gaussian noise: an l2 radius for the smoothed classifier, from votes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.certificate import SmoothingEvidence
from certify.certifier import Certifier, Outcome
from certify.errors import NumericalError
from certify.model import Examples
from certify.rounding import show_radius, step_down, step_up
from certify.run import Progress
from certify.sampling.streams import Stage, Stream
from certify.sampling.votes import count_votes
from certify.spec import SmoothingSpec
from certify.statistics.binomial import lower_limit, normal_quantile_lower
from certify.verdict import Verdict


class SmoothingCertifier(Certifier[SmoothingSpec]):
    """With probability at least 1 - alpha over the noise, this is not a class whose ball is wrong.

    The smoothed classifier g(x) = argmax_c P(f(x + N(0, sigma^2 I)) = c) is constant on the open l2 ball of the radius around x,
    in raw-input units. f is the submitted model with ties to the lowest class. `n0` samples select a class, `n` independent
    samples estimate its probability; radius = sigma * Phi^-1(pA_lower), pA_lower the one-sided Clopper-Pearson limit at alpha.

    Source: Cohen, Rosenfeld & Kolter 2019, "Certified adversarial robustness via randomized smoothing", Theorem 1 and CERTIFY.
    """

    statement = "S0-fixed"
    dtype = "float32"

    @property
    def alpha(self) -> float:
        # Rounded down: N certificates at this level must not spend more than the alpha they share.
        return step_down(self.spec.alpha_each(self.run.plan.family))

    @property
    def batch_size(self) -> int:
        return self.run.plan.batch_sizes[self.index]

    def outcomes(self, examples: Examples) -> Iterator[Outcome]:
        self._samples = 0
        for position, row in enumerate(examples.rows):
            self._answered = position
            try:
                yield self._outcome(examples.x[position].to(self.run.device), row)
            except NumericalError as error:
                yield Outcome(prediction=None, verdict=Verdict.ERROR, reason=str(error))
            self.run.on_progress(Progress(certifier=self.index, examples=position + 1, samples=self._samples))

    def _outcome(
        self,
        x: Tensor,  # (*input), float32, raw input units
        row: int,
    ) -> Outcome:
        selection = self._count(x, row, Stage.SELECTION, self.spec.n0)
        counts = self._count(x, row, Stage.ESTIMATION, self.spec.n)
        decision = decide(selection.tolist(), counts.tolist(), self.alpha, self.spec.sigma)
        evidence = SmoothingEvidence(
            sigma=self.spec.sigma,
            n0=self.spec.n0,
            n=self.spec.n,
            looks=(self.spec.n,),
            counts_selection=tuple(selection.tolist()),
            counts=tuple(counts.tolist()),
            pA_lower=decision.pA_lower,
            pB_upper=min(1.0, step_up(1.0 - decision.pA_lower)),
        )
        if decision.radius <= 0.0:
            return Outcome(prediction=None, verdict=Verdict.ABSTAINED, reason=self._abstention(decision, evidence), evidence=evidence)
        return Outcome(prediction=decision.top, verdict=Verdict.CERTIFIED, radius=decision.radius, evidence=evidence)

    def _count(
        self,
        x: Tensor,  # (*input), float32, raw input units
        row: int,
        stage: Stage,
        samples: int,
    ) -> Tensor:
        return count_votes(
            self.model.module(self.run.device, torch.float32),
            x,
            Stream(self.run.noise_key, self.index, row, stage, tuple(x.shape)),
            sigma=self.spec.sigma,
            samples=samples,
            batch_size=self.batch_size,
            classes=self.model.classes,
            should_stop=self.run.should_stop,
            on_samples=self._sampled,
        )

    def _sampled(self, samples: int) -> None:
        self._samples += samples
        self.run.on_progress(Progress(certifier=self.index, examples=self._answered, samples=self._samples))

    def _abstention(self, decision: Decision, evidence: SmoothingEvidence) -> str:
        return (
            f"Class {decision.top} won {evidence.counts[decision.top] / evidence.n:.4f} of the votes, which proves only"
            f" pA >= {show_radius(decision.pA_lower)} at alpha = {self.alpha:g}; it takes more than 1/2: use more samples or another sigma."
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the two independent samples say: the selected class, the lower limit of its probability, the radius it proves."""

    top: int
    pA_lower: float
    radius: float


def decide(selection: Sequence[int], counts: Sequence[int], alpha: float, sigma: float) -> Decision:
    """The published decision: class from the selection sample only, its probability from the estimation sample only.

    With probability at least 1 - alpha over the estimation sample, `radius` is at most the true radius of class `top`.

    Args:
        selection: votes of the selection sample by class; ties to the lowest class.
        counts: votes of an independent estimation sample by class.
        alpha: failure probability of this certificate.
        sigma: noise level, raw-input units.

    Source: Cohen, Rosenfeld & Kolter 2019, CERTIFY.
    """
    top = max(range(len(selection)), key=lambda c: selection[c])
    pA_lower = lower_limit(counts[top], sum(counts), alpha)
    return Decision(top=top, pA_lower=pA_lower, radius=radius_of(pA_lower, sigma))


def radius_of(pA_lower: float, sigma: float) -> float:
    """The l2 radius that pA_lower proves: at most sigma * Phi^-1(pA_lower), 0 when pA_lower <= 1/2.

    Args:
        pA_lower: lower bound of the top class's probability, in [0, 1].
        sigma: noise level, raw-input units.

    Source: Cohen, Rosenfeld & Kolter 2019, Theorem 1 with p_B = 1 - p_A.
    """
    if not 0.5 < pA_lower < 1.0:
        return 0.0
    # Noise is scaled in float32, so its true level is the float32 nearest to sigma; the smaller of the two is on the safe side.
    drawn = float(torch.tensor(sigma, dtype=torch.float32))
    return max(0.0, step_down(min(sigma, drawn) * normal_quantile_lower(pA_lower)))
