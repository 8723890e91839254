"""PREDICT of the two-stage rule that `dual` certificates speak of: a level by the smoothed selector, then the class under that level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from certify.certificate import DualPredictionEvidence
from certify.certifier import Outcome
from certify.model import Examples
from certify.prediction import answered, decide
from certify.sampling.certifier import SamplingCertifier
from certify.sampling.noise.base import Noise
from certify.sampling.streams import Stage
from certify.selectors import selector_of
from certify.spec import DualPredictSpec
from certify.statement import Base, Statement
from certify.verdict import Verdict


@dataclass(frozen=True)
class _Level:
    """What the selector's votes said of one example."""

    index: int
    counts: tuple[int, ...]
    p_value: float


class DualPredictCertifier(SamplingCertifier[DualPredictSpec]):
    """With probability at least 1 - alpha over the noise, this is not a class other than h(x), the answer of the two-stage rule at x.

    h(x) = argmax_c P(f(x + N(0, s^2 I)) = c) with s the level that the smoothed selector gives at x. Both answers are tested as in
    PREDICT, each at alpha / 2: a wrong class comes from a wrong level, or from a wrong class under the right one, and either has
    probability at most alpha / 2. It abstains where either test does, and says nothing about other inputs.

    Source: Cohen, Rosenfeld & Kolter 2019, PREDICT; Sun, Mao & Vechev 2025 (dual); docs/instance.md.
    """

    @property
    def statement(self) -> Statement:
        return Statement(base=Base.DUAL_PREDICTION, precision=self.spec.precision)

    @property
    def alpha(self) -> float:
        return self.spec.alpha

    @property
    def least(self) -> int:
        return self.spec.n

    def answers(self, examples: Examples) -> Iterator[tuple[int, Outcome]]:
        points, unit, selector = self.points(examples), self.noise_of(1.0), self.spec.selector
        voters, noise = selector_of(self.spec, self.model, self.run), self.noise_of(selector.sigma)
        asked = self.ballot(examples, points, [noise] * len(examples), voters)
        levels: dict[int, _Level] = {}
        for position, counts in asked.votes(range(len(examples)), Stage.SELECTOR_PREDICTION, 0, selector.n).items():
            if counts is None:
                yield position, self.broken()
                continue
            level = _Level(*_tested(counts, noise))
            if level.p_value > self.alpha / 2:
                yield position, self._no_level(level)
            else:
                levels[position] = level
        noises = [unit.at(self.spec.sigmas[levels[i].index]) if i in levels else unit for i in range(len(examples))]
        ballot = self.ballot(examples, points, noises, self.place.network)
        for position, counts in ballot.votes(list(levels), Stage.PREDICTION, 0, self.spec.n).items():
            yield position, self.broken() if counts is None else self._classified(levels[position], noises[position], counts)

    def _classified(self, level: _Level, noise: Noise, counts: list[int]) -> Outcome:
        top, votes, p_value = _tested(counts, noise)
        return answered(top, self._evidence(level, noise.sigma, votes, p_value), self.alpha / 2)

    def _no_level(self, level: _Level) -> Outcome:
        evidence = self._evidence(level, self.spec.sigmas[level.index], (), 1.0)
        reason = (
            f"Level {level.index} (sigma = {self.spec.sigmas[level.index]:g}) won {level.counts[level.index]} of {sum(level.counts)} of the"
            f" selector's votes, too few more than the next to tell them apart (p = {level.p_value:.2g}); use more samples."
        )
        return Outcome(prediction=None, verdict=Verdict.ABSTAINED, reason=reason, evidence=evidence)

    def _evidence(self, level: _Level, sigma: float, votes: tuple[int, ...], p_value: float) -> DualPredictionEvidence:
        return DualPredictionEvidence(
            sigma=sigma,
            n=sum(votes),
            counts=votes,
            p_value=p_value,
            precision=self.spec.precision,
            sigmas=self.spec.sigmas,
            selector_sigma=self.spec.selector.sigma,
            selector_counts=level.counts,
            selector_p_value=level.p_value,
        )


def _tested(counts: list[int], noise: Noise) -> tuple[int, tuple[int, ...], float]:
    """The winner, the votes and the p-value, which pays for the law that was really drawn from."""
    top, p_value = decide(counts) if len(counts) > 1 else (0, 0.0)
    return top, tuple(counts), noise.paid(p_value, sum(counts))
