"""PREDICT through a ledger, the part that samples: what the base rule answers where no region does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from certify.certificate import MemoryPredictionEvidence
from certify.certifier import Outcome
from certify.level_search import levels_of
from certify.model import Examples
from certify.prediction import answered, decide
from certify.regions import NOT_ASKED
from certify.sampling.certifier import SamplingCertifier
from certify.sampling.streams import Stage
from certify.spec import MemoryPredictSpec
from certify.statement import Base, Statement


class MemoryPredictCertifier(SamplingCertifier[MemoryPredictSpec]):
    """With probability at least 1 - alpha over the noise, this is not a class other than that of the classifier smoothed at sigma(x).

    sigma(x) is what the search finds at x, on samples of its own; `n` further samples vote, and the answer is tested as in PREDICT. It
    says nothing about other inputs. When all rows are there the ledger is asked (`certify.regions.foretold`): the statement is then about
    the stateful classifier, whose regions answer first.

    Source: Cohen, Rosenfeld & Kolter 2019, PREDICT; docs/memory.md.
    """

    @property
    def statement(self) -> Statement:
        return Statement(base=Base.FROZEN_PREDICTION, precision=self.spec.precision)

    @property
    def alpha(self) -> float:
        return self.spec.alpha

    @property
    def least(self) -> int:
        return self.spec.n

    def answers(self, examples: Examples) -> Iterator[tuple[int, Outcome]]:
        points, unit = self.points(examples), self.noise_of(1.0)
        found = levels_of(self, examples, points, self.spec.sigmas, self.spec.search)
        yield from ((position, self.broken()) for position, one in found.items() if one is None)
        chosen = {position: one for position, one in found.items() if one is not None}
        noises = [unit.at(chosen[position][0]) if position in chosen else unit for position in range(len(examples))]
        ballot = self.ballot(examples, points, noises, self.place.network)
        for position, counts in ballot.votes(list(chosen), Stage.PREDICTION, 0, self.spec.n).items():
            if counts is None:
                yield position, self.broken()
                continue
            (sigma, search), (top, p_value) = chosen[position], decide(counts)
            p_value = noises[position].paid(p_value, self.spec.n)
            evidence = MemoryPredictionEvidence(
                sigma=sigma, n=self.spec.n, counts=tuple(counts), p_value=p_value, precision=self.spec.precision, search=search
            )
            outcome = answered(top, evidence, self.alpha)
            yield position, replace(outcome, reason=f"{outcome.reason} {NOT_ASKED}")
