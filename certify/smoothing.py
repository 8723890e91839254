"""Randomized smoothing: a radius for the smoothed classifier, from votes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from certify.certificate import CorrectedEvidence, InstanceEvidence, LatentEvidence, SmoothingEvidence
from certify.certifier import Outcome
from certify.corrected import corrected_radius
from certify.model import Examples
from certify.norms import Norm, conversion
from certify.rounding import show_distance_upper, show_radius, step_down
from certify.sampling.certifier import SamplingCertifier
from certify.sampling.estimation import Case, Estimation, Reach
from certify.sampling.noise.base import Noise
from certify.sampling.place import Point, carried
from certify.spec import LatentSmoothingSpec, ProvingSpec, SmoothingSpec
from certify.statement import Base, Statement
from certify.statistics.sequential import Bound, Limits, Look, limits
from certify.verdict import Verdict

R = TypeVar("R", bound=ProvingSpec)


class RadiusCertifier(SamplingCertifier[R]):
    """What all certifiers share that prove a radius from votes."""

    @property
    def statement(self) -> Statement:
        converted = self.spec.norm is not self.spec.own_norm
        return replace(self.proves, from_norm=self.spec.own_norm if converted else None)

    @property
    @abstractmethod
    def proves(self) -> Statement:
        """The statement in the noise's own norm."""

    @property
    def alpha(self) -> float:
        # Rounded down: N certificates at this level must not spend more than the alpha they share.
        return step_down(self.spec.alpha_each(self.run.plan.family))

    @property
    def least(self) -> int:
        return self.spec.looks[0]

    @property
    def dimension(self) -> int:
        return int(np.prod(self.model.input_shape))

    def votes_of(self, case: Case, found: Limits, noise: Noise) -> dict[str, Any]:
        """The part of the evidence that says what was counted and what follows from it."""
        return {
            "sigma": noise.sigma,
            "precision": self.spec.precision,
            "n0": self.spec.n0,
            "n": case.looks[-1].n,
            "looks": tuple(look.n for look in case.looks),
            "shares": tuple(look.share for look in case.looks),
            "look_counts": tuple((look.top, look.rival) for look in case.looks),
            "counts_selection": tuple(case.selection),
            "counts": tuple(case.counts),
            "bound": self.spec.bound,
            "pA_lower": found.pA_lower,
            "pB_upper": found.pB_upper,
            "slack": noise.slack,
            "family": self.run.plan.family if self.spec.error_rate == "family-wise" else 1,
            "dimension": self.dimension,
            "radii": self.spec.radii if self.spec.sampling == "adaptive" else None,
        }

    def answered(self, case: Case, found: Limits, radius: float, evidence: SmoothingEvidence) -> Outcome:
        """Certified where a radius is left, abstained otherwise, with the numbers."""
        if radius > 0.0:
            return Outcome(prediction=case.top, verdict=Verdict.CERTIFIED, radius=radius, evidence=evidence)
        reason = too_few(f"Class {case.top}", case.looks[-1], found, self.spec.bound, self.alpha)
        if case.looks[-1].n < self.spec.n:
            what = "any radius that was asked" if self.spec.radii else "any radius"
            reason += f" It stopped early: the other {self.spec.n - case.looks[-1].n} samples were not likely to prove {what}."
        return Outcome(prediction=None, verdict=Verdict.ABSTAINED, reason=reason, evidence=evidence)


class OneNoiseCertifier(RadiusCertifier[R]):
    """Noise of one level, the same for all examples, at the place that the spec names."""

    def answers(self, examples: Examples) -> Iterator[tuple[int, Outcome]]:
        points = self.points(examples)
        known = [position for position, point in enumerate(points) if not point.reason]
        yield from ((position, self.nowhere(point)) for position, point in enumerate(points) if point.reason)
        ballot = self.ballot(examples, points, [self.noise] * len(examples), self.place.network)
        estimation = Estimation(self.spec, self.alpha, ballot, lambda positions: self._reach([points[i].error for i in positions]))
        for position, case in estimation.cases(known):
            yield position, self.broken() if case is None else self._outcome(case, points[position])

    @property
    @abstractmethod
    def noise(self) -> Noise:
        """That noise."""

    @abstractmethod
    def evidence(self, case: Case, found: Limits, point: Point) -> SmoothingEvidence:
        """What was counted around a point, and what is needed to derive the radius from it."""

    def _reach(self, errors: Sequence[float]) -> Reach:
        scale, error = conversion(self.spec.own_norm, self.spec.norm, self.dimension) * self.place.lipschitz, np.array(errors)
        return lambda pA, pB: (self.noise.reach(pA, pB) - error) / scale

    def _outcome(self, case: Case, point: Point) -> Outcome:
        found = limits(case.looks, self.alpha, self.spec.bound, self.noise.slack)
        evidence = self.evidence(case, found, point)
        return self.answered(case, found, radius_from(evidence, self.noise, self.spec.norm, found), evidence)


class SmoothingCertifier(OneNoiseCertifier[SmoothingSpec]):
    """With probability at least 1 - alpha over the noise, this is not a class whose ball is wrong.

    The smoothed classifier g(x) = argmax_c P(f(x + noise) = c) is constant on the open ball of the radius around x, in raw-input units.
    f is the submitted model as it runs in `precision`, with ties to the lowest class.
    `n0` samples select a class; up to `n` independent samples estimate its
    probability, cumulatively, and are looked at when `looks` say so; every look has its share of alpha, so any rule may stop.

    Source: Cohen, Rosenfeld & Kolter 2019, "Certified adversarial robustness via randomized smoothing", Theorem 1 and CERTIFY; looks and
    bounds in docs/statistics.md.
    """

    @property
    def proves(self) -> Statement:
        return Statement(base=Base.FIXED, grid=self.noise.grid, precision=self.spec.precision)

    @property
    def noise(self) -> Noise:
        return self.noise_of(self.spec.sigma)

    def evidence(self, case: Case, found: Limits, point: Point) -> SmoothingEvidence:
        return SmoothingEvidence(noise=self.spec.noise, **self.votes_of(case, found, self.noise))


class LatentSmoothingCertifier(OneNoiseCertifier[LatentSmoothingSpec]):
    """With probability at least 1 - alpha over the noise, this is not a class whose ball is wrong.

    With h the encoder, from the raw input to the tensor `split`, and f the head behind it, the classifier g(x) = argmax_c P(f(h(x) +
    noise) = c) is constant on the open l2 ball of the radius around x, in raw-input units. h is the submitted network in real
    arithmetic, f the head as it runs in `precision`, ties to the lowest class.
    The votes prove a ball around the point that stands for h(x);
    it is carried back by a bound of h's Lipschitz constant (`carried`).

    Source: Zeng, Su & Huang 2021, "Certified defense via latent space randomized smoothing with orthogonal encoders"; docs/latent.md.
    """

    @property
    def proves(self) -> Statement:
        return Statement(base=Base.FIXED_LATENT, precision=self.spec.precision)

    @property
    def noise(self) -> Noise:
        return self.noise_of(self.spec.sigma)

    def evidence(self, case: Case, found: Limits, point: Point) -> LatentEvidence:
        return LatentEvidence(
            noise=self.spec.noise,
            split=self.spec.split,
            latent_radius=self.noise.radius(found.pA_lower, found.pB_upper),
            lipschitz_upper=self.place.lipschitz,
            value_error=point.error,
            **self.votes_of(case, found, self.noise),
        )


def radius_from(evidence: SmoothingEvidence, noise: Noise, norm: Norm, found: Limits) -> float:
    """A radius at the input, in `norm`, that holds whenever the limits hold; 0 when they prove none.

    Args:
        evidence: of the votes; says where the noise was added and in how many dimensions the input lives.
        noise: the noise behind the votes; its radius is in its own norm.
        norm: norm of the ball that is claimed.
        found: limits of the class probabilities.
    """
    radius = noise.radius(found.pA_lower, found.pB_upper)
    if isinstance(evidence, LatentEvidence):
        radius = carried(radius, evidence.lipschitz_upper, evidence.value_error)
    if isinstance(evidence, CorrectedEvidence):
        if evidence.semi_elasticity is None:
            return 0.0
        level = min(evidence.sigma, float(np.float32(evidence.sigma)))
        radius = min(radius, corrected_radius(level, found.pA_lower, evidence.dimension, evidence.semi_elasticity))
    if isinstance(evidence, InstanceEvidence) and evidence.selector is not None:
        radius = min(radius, evidence.selector.selector_radius)
    return max(0.0, step_down(radius / conversion(noise.norm, norm, evidence.dimension)))


def too_few(who: str, last: Look, found: Limits, bound: Bound, alpha: float) -> str:
    """Why the votes for whom prove no radius, in a sentence with the numbers; `last` is the last look."""
    proved = f"pA >= {show_radius(found.pA_lower)}"
    if bound == "top-two":
        proved += f" and pB <= {show_distance_upper(found.pB_upper)}"
        needed = "pA must exceed pB"
    else:
        needed = "it takes more than 1/2"
    return (
        f"{who} won {last.top / last.n:.4f} of {last.n} votes, which proves only {proved} at alpha = {alpha:g};"
        f" {needed}: use more samples or another sigma."
    )
