"""A search for the noise level that suits an input: many hill climbs at once. Whatever it finds, other samples must certify."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import special

from certify.certificate import SearchEvidence, Tried
from certify.model import Examples
from certify.sampling.certifier import SamplingCertifier
from certify.sampling.place import Point
from certify.sampling.streams import Stage
from certify.specs.instance import SearchSpec

Array = np.ndarray[Any, Any]
# How careful the search is with few votes: it climbs on limits of this level. Nothing is claimed at it.
_LEVEL = 0.05
SIDES = 2


@dataclass(frozen=True)
class Asked:
    """Samples `start` to `stop` of an example's search at one level. `lane` tells apart what is asked of an example at once."""

    example: int
    lane: int
    level: float
    start: int
    stop: int


Poll = Callable[[Sequence[Asked]], Sequence[list[int] | None]]


def ladder(sigmas: Sequence[float], rounds: int) -> tuple[float, ...]:
    """All levels that a search may try: float32 numbers, 2^rounds even steps of log sigma from each of `sigmas` to the next."""
    parts = 2**rounds
    steps = [a * math.exp(math.log(b / a) * part / parts) for a, b in pairwise(sigmas) for part in range(parts)]
    return tuple(float(np.float32(step)) for step in (*steps, sigmas[-1]))


@dataclass
class _Climber:
    """One start of one example: where it stands on the ladder, and how good it found that."""

    example: int
    start: int
    at: int
    value: float = -math.inf


@dataclass
class _Seen:
    """All that one example's climbers have tried; `broken` when a copy got a NaN or infinite logit."""

    tried: list[tuple[float, Tried]] = field(default_factory=list)
    broken: bool = False


@dataclass(frozen=True)
class Search:
    """The best level for each example by votes of its own, from every level of `sigmas` at once.

    Each start climbs on log sigma: it compares where it stands with a step down and a step up, goes to the best, and halves the step.
    The objective is sigma * Phi^-1(p), p a lower limit of the most frequent class's probability. Each comparison has samples of its own,
    numbered by start, round and side alone, so that what is found for an example does not depend on what else is searched.

    Source: multi-start search as in Chen et al. 2021, "Insta-RS: instance-wise randomized smoothing"; the step rule is ours.
    """

    sigmas: Sequence[float]
    spec: SearchSpec

    def run(self, examples: Sequence[int], poll: Poll) -> dict[int, tuple[float, SearchEvidence] | None]:
        """The level and what was tried, by example; None where a copy got a NaN or infinite logit.

        Args:
            examples: by any numbers.
            poll: votes by class for each question; None where there are none to speak of.
        """
        levels, seen = ladder(self.sigmas, self.spec.rounds), {example: _Seen() for example in examples}
        climbers = [_Climber(e, start, start * 2**self.spec.rounds) for e in examples for start in range(len(self.sigmas))]
        for number in range(self.spec.rounds + 1):
            moves = [move for climber in climbers for move in self._moves(climber, number, levels)]
            for (climber, to, asked), votes, value in self._answers(moves, poll):
                if votes is None:
                    seen[climber.example].broken = True
                    continue
                seen[climber.example].tried.append((value, Tried(sigma=asked.level, top=max(votes))))
                if value > climber.value:
                    climber.value, climber.at = value, to
            climbers = [climber for climber in climbers if not seen[climber.example].broken]
        return {e: None if one.broken else self._best(one.tried) for e, one in seen.items()}

    def _moves(self, climber: _Climber, number: int, levels: Sequence[float]) -> Iterator[tuple[_Climber, int, Asked]]:
        """What is compared in a round: at first the start alone."""
        step, width = 2 ** (self.spec.rounds - number), 1 + SIDES * self.spec.rounds
        for side, to in enumerate((climber.at - step, climber.at + step) if number else (climber.at,)):
            if 0 <= to < len(levels):
                slot = climber.start * width + (1 + SIDES * (number - 1) + side if number else 0)
                first = slot * self.spec.samples
                asked = Asked(climber.example, climber.start * SIDES + side, levels[to], first, first + self.spec.samples)
                yield climber, to, asked

    def _answers(
        self, moves: Sequence[tuple[_Climber, int, Asked]], poll: Poll
    ) -> Iterator[tuple[tuple[_Climber, int, Asked], list[int] | None, float]]:
        found = poll([asked for _, _, asked in moves])
        top = np.array([max(votes) if votes else 0 for votes in found], dtype=float)
        lower = np.where(top > 0, special.betaincinv(np.maximum(top, 1), self.spec.samples - top + 1, _LEVEL), 0.0)
        values = np.array([asked.level for _, _, asked in moves]) * special.ndtri(lower)
        return zip(moves, found, values.tolist(), strict=True)

    def _best(self, tried: Sequence[tuple[float, Tried]]) -> tuple[float, SearchEvidence]:
        # Of equals the smallest: the weaker noise, under which the network answers better.
        _, best = max(tried, key=lambda one: (one[0], -one[1].sigma))
        return best.sigma, SearchEvidence(samples=self.spec.samples, tried=tuple(one for _, one in tried))


def levels_of(
    certifier: SamplingCertifier[Any], examples: Examples, points: Sequence[Point], sigmas: Sequence[float], search: SearchSpec
) -> dict[int, tuple[float, SearchEvidence] | None]:
    """The level that a search finds for each example with gaussian noise at a certifier's place; None where a copy got no finite logits.

    Args:
        certifier: whose streams and counter.
        examples: of the group at hand.
        points: one for each.
        sigmas: where climbs start.
        search: how they climb.
    """
    unit, each = certifier.noise_of(1.0), len(sigmas) * SIDES
    spread = [point for point in points for _ in range(each)]

    def poll(asked: Sequence[Asked]) -> list[list[int] | None]:
        places, noises = [one.example * each + one.lane for one in asked], [unit] * len(spread)
        for place, one in zip(places, asked, strict=True):
            noises[place] = unit.at(one.level)
        ballot = certifier.ballot(examples, spread, noises, certifier.place.network, each)
        votes = ballot.ask(Stage.SEARCH, {place: (one.start, one.stop) for place, one in zip(places, asked, strict=True)})
        return [votes[place] for place in places]

    return Search(sigmas, search).run(range(len(examples)), poll)
