"""PREDICT: what the smoothed classifier answers at an input, with an error level of its own. No radius is claimed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scipy import stats

from certify.certificate import PredictionEvidence
from certify.certifier import Outcome
from certify.model import Examples
from certify.sampling.certifier import SamplingCertifier
from certify.sampling.streams import Stage
from certify.spec import PredictSpec
from certify.verdict import Verdict


class PredictCertifier(SamplingCertifier[PredictSpec]):
    """With probability at least 1 - alpha over the noise, this is not a class other than the smoothed classifier's answer at x.

    That answer is the most probable class of f(x + noise). `n` samples vote; the answer is the winner when an exact two-sided test
    rejects at alpha that winner and second are equally likely, and an abstention otherwise. It says nothing about other inputs.

    Source: Cohen, Rosenfeld & Kolter 2019, PREDICT and Proposition 2; Hung & Fithian 2019, "Rank verification for exponential families".
    """

    @property
    def statement(self) -> str:
        return f"S0-prediction{self.noise.suffix}"

    @property
    def alpha(self) -> float:
        return self.spec.alpha

    def answers(self, examples: Examples) -> Iterator[tuple[int, Outcome]]:
        for position, counts in self.votes(examples, range(len(examples)), Stage.PREDICTION, 0, self.spec.n).items():
            yield position, self.broken() if counts is None else self._outcome(counts)

    def _outcome(self, counts: Sequence[int]) -> Outcome:
        top, p_value = decide(counts)
        evidence = PredictionEvidence(
            noise=self.spec.noise, sigma=self.spec.sigma, n=self.spec.n, counts=tuple(counts), p_value=min(1.0, p_value)
        )
        if p_value > self.alpha:
            reason = (
                f"Class {top} won {counts[top]} of {self.spec.n} votes, too few more than the next to tell them apart at"
                f" alpha = {self.alpha:g} (p = {p_value:.2g}); use more samples."
            )
            return Outcome(prediction=None, verdict=Verdict.ABSTAINED, reason=reason, evidence=evidence)
        reason = "The smoothed classifier gives this answer at the input itself; no radius is claimed."
        return Outcome(prediction=top, verdict=Verdict.CERTIFIED, reason=reason, evidence=evidence)


def decide(counts: Sequence[int]) -> tuple[int, float]:
    """The most frequent class, ties to the lowest, and the p-value of it and the second being equally likely.

    Args:
        counts: votes by class.

    Source: exact two-sided binomial test of the winner's votes among those of the two most frequent classes, at 1/2.
    """
    first, second = sorted(range(len(counts)), key=lambda c: -counts[c])[:2]
    return first, float(stats.binomtest(counts[first], counts[first] + counts[second], 0.5).pvalue)
