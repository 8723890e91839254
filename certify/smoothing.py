"""Randomized smoothing: a radius for the smoothed classifier, from votes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from certify.certificate import SmoothingEvidence
from certify.certifier import Outcome
from certify.model import Examples
from certify.norms import Norm, conversion
from certify.rounding import show_distance_upper, show_radius, step_down
from certify.sampling.certifier import SamplingCertifier
from certify.sampling.noise.base import Noise
from certify.sampling.streams import Stage
from certify.spec import SmoothingSpec
from certify.statistics.sequential import Bound, Limits, Look, limits
from certify.statistics.stopping import Stopping
from certify.verdict import Verdict


@dataclass
class _Case:
    """One example on its way: votes so far and the radius they prove."""

    position: int
    selection: list[int]
    top: int
    counts: list[int]
    looks: list[Look] = field(default_factory=list)
    proved: float = -np.inf


class SmoothingCertifier(SamplingCertifier[SmoothingSpec]):
    """With probability at least 1 - alpha over the noise, this is not a class whose ball is wrong.

    The smoothed classifier g(x) = argmax_c P(f(x + noise) = c) is constant on the open ball of the radius around x, in raw-input units.
    f is the submitted model with ties to the lowest class. `n0` samples select a class; up to `n` independent samples estimate its
    probability, cumulatively, and are looked at when `looks` say so; every look has its share of alpha, so any rule may stop.

    Source: Cohen, Rosenfeld & Kolter 2019, "Certified adversarial robustness via randomized smoothing", Theorem 1 and CERTIFY; looks and
    bounds in docs/statistics.md.
    """

    @property
    def statement(self) -> str:
        converted = "" if self.spec.norm is self.spec.own_norm else f"-from-{self.spec.own_norm}"
        return f"S0-fixed{self.noise.suffix}{converted}"

    @property
    def alpha(self) -> float:
        # Rounded down: N certificates at this level must not spend more than the alpha they share.
        return step_down(self.spec.alpha_each(self.run.plan.family))

    @property
    def least(self) -> int:
        return self.spec.looks[0]

    def answers(self, examples: Examples) -> Iterator[tuple[int, Outcome]]:
        selection = self.votes(examples, range(len(examples)), Stage.SELECTION, 0, self.spec.n0)
        cases = []
        for position, counts in selection.items():
            if counts is None:
                yield position, self.broken()
                continue
            top = max(range(len(counts)), key=counts.__getitem__)
            cases.append(_Case(position, counts, top, [0] * len(counts)))
        rule, start = self._rule(), 0
        for look, n in enumerate(self.spec.looks):
            fresh = self.votes(examples, [case.position for case in cases], Stage.ESTIMATION, start, n)
            going = []
            for case in cases:
                more = fresh[case.position]
                if more is None:
                    yield case.position, self.broken()
                else:
                    self._add(case, n, more, self.spec.shares[look])
                    going.append(case)
            cases, start = [], n
            for case, settled in zip(going, self._settled(rule, look, going), strict=True):
                if settled:
                    yield case.position, self._outcome(case)
                else:
                    cases.append(case)

    def _rule(self) -> Stopping:
        scale = conversion(self.spec.own_norm, self.spec.norm, self._dimension)
        return Stopping(
            looks=self.spec.looks,
            levels=[self.alpha * share for share in self.spec.shares],
            bound=self.spec.bound,
            reach=lambda pA, pB: self.noise.reach(pA, pB) / scale,
            radii=self.spec.radii,
            tolerance=self.spec.tolerance or 0.0,
        )

    def _add(self, case: _Case, n: int, more: Sequence[int], share: float) -> None:
        case.counts = [a + b for a, b in zip(case.counts, more, strict=True)]
        case.looks.append(Look(n, case.counts[case.top], most_of_rivals(case.counts, case.top), share))

    def _settled(self, rule: Stopping, look: int, cases: Sequence[_Case]) -> Sequence[bool]:
        top, rival = (np.array([getattr(case.looks[-1], name) for case in cases], dtype=float) for name in ("top", "rival"))
        proved = np.maximum([case.proved for case in cases], rule.proved(look, top, rival))
        for case, radius in zip(cases, proved, strict=True):
            case.proved = float(radius)
        answer: list[bool] = rule.settled(look, top, rival, proved).tolist()
        return answer

    def _outcome(self, case: _Case) -> Outcome:
        found = limits(case.looks, self.alpha, self.spec.bound, self.noise.slack)
        evidence = self._evidence(case, found)
        radius = radius_from(self.noise, self.spec.norm, self._dimension, found)
        if radius <= 0.0:
            reason = too_few(case.top, case.looks[-1], found, self.spec.bound, self.alpha)
            if case.looks[-1].n < self.spec.n:
                what = "any radius that was asked" if self.spec.radii else "any radius"
                reason += f" It stopped early: the other {self.spec.n - case.looks[-1].n} samples were not likely to prove {what}."
            return Outcome(prediction=None, verdict=Verdict.ABSTAINED, reason=reason, evidence=evidence)
        return Outcome(prediction=case.top, verdict=Verdict.CERTIFIED, radius=radius, evidence=evidence)

    def _evidence(self, case: _Case, found: Limits) -> SmoothingEvidence:
        return SmoothingEvidence(
            noise=self.spec.noise,
            sigma=self.spec.sigma,
            n0=self.spec.n0,
            n=case.looks[-1].n,
            looks=tuple(look.n for look in case.looks),
            shares=tuple(look.share for look in case.looks),
            look_counts=tuple((look.top, look.rival) for look in case.looks),
            counts_selection=tuple(case.selection),
            counts=tuple(case.counts),
            bound=self.spec.bound,
            pA_lower=found.pA_lower,
            pB_upper=found.pB_upper,
            slack=self.noise.slack,
            family=self.run.plan.family if self.spec.error_rate == "family-wise" else 1,
            dimension=self._dimension,
            radii=self.spec.radii if self.spec.sampling == "adaptive" else None,
        )

    @property
    def _dimension(self) -> int:
        return int(np.prod(self.model.input_shape))


def radius_from(noise: Noise, norm: Norm, dimension: int, found: Limits) -> float:
    """A radius in `norm` that holds whenever the limits hold; 0 when they prove none.

    Args:
        noise: the noise behind the votes; its radius is in its own norm.
        norm: norm of the ball that is claimed.
        dimension: entries of one input, for the conversion between the two norms.
        found: limits of the class probabilities.
    """
    return max(0.0, step_down(noise.radius(found.pA_lower, found.pB_upper) / conversion(noise.norm, norm, dimension)))


def too_few(top: int, last: Look, found: Limits, bound: Bound, alpha: float) -> str:
    """Why the votes for class `top` prove no radius, in a sentence with the numbers; `last` is the last look."""
    proved = f"pA >= {show_radius(found.pA_lower)}"
    if bound == "top-two":
        proved += f" and pB <= {show_distance_upper(found.pB_upper)}"
        needed = "pA must exceed pB"
    else:
        needed = "it takes more than 1/2"
    return (
        f"Class {top} won {last.top / last.n:.4f} of {last.n} votes, which proves only {proved} at alpha = {alpha:g};"
        f" {needed}: use more samples or another sigma."
    )


def most_of_rivals(counts: Sequence[int], top: int) -> int:
    """The largest count of a class other than `top`."""
    return max((count for label, count in enumerate(counts) if label != top), default=0)
