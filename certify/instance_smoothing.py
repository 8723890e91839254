"""Smoothing whose noise level depends on the input: by a search whose result is held, or by a selector that is smoothed itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from certify.certificate import InstanceEvidence, SearchEvidence, SelectorEvidence
from certify.certifier import Outcome
from certify.level_search import levels_of
from certify.model import Examples
from certify.norms import conversion
from certify.regions import NOT_ASKED
from certify.sampling.ballot import Voters
from certify.sampling.estimation import Case, Estimation, Reach, Stages, most_votes
from certify.sampling.noise.base import Noise
from certify.sampling.place import Point
from certify.sampling.streams import Stage
from certify.selectors import selector_of
from certify.smoothing import RadiusCertifier, radius_from, too_few
from certify.spec import InstanceSmoothingSpec
from certify.statement import Base, Statement
from certify.statistics.sequential import Limits, Look, limits
from certify.verdict import Verdict

_SELECTOR_STAGES = Stages(Stage.SELECTOR_SELECTION, Stage.SELECTOR_ESTIMATION)


@dataclass(frozen=True)
class _Level:
    """A level that the smoothed selector proved for one example: which, and in which radius it stays."""

    index: int
    case: Case
    found: Limits
    radius: float


class InstanceSmoothingCertifier(RadiusCertifier[InstanceSmoothingSpec]):
    """With probability at least 1 - alpha over the noise, this is not a class whose ball is wrong, in the sense of its statement.

    With g_s(x) = argmax_c P(f(x + N(0, s^2 I)) = c), in the open l2 ball of the radius around x:

    `S4-dual`: g_{s(x')}(x') is the same class for all x' in the ball, where s(x') is the level that the smoothed selector gives at x'
    itself. Selector and classifier are each certified with all of alpha, on samples of their own, and only the smaller of their radii is
    claimed; that this takes no split of alpha is proved in docs/instance.md.

    `S1-frozen`: g_s(x') is the same class for all x' in the ball with s held at s(x). Whoever deploys the search gives x' a level of its
    own: of that rule nothing is proved. Samples that searched certify nothing.

    Source: Cohen, Rosenfeld & Kolter 2019, Theorem 1; Chen et al. 2021 (search); Sun, Mao & Vechev 2025 (dual); docs/instance.md.
    """

    @property
    def proves(self) -> Statement:
        if self.spec.statement != "dual":
            return Statement(base=Base.FROZEN, precision=self.spec.precision)
        return Statement(base=Base.DUAL, precision=self.spec.precision, transductive=self._transductive)

    @property
    def _transductive(self) -> bool:
        return self.spec.saw(self.run.provenance.dataset, self.job.examples)

    @cached_property
    def _scale(self) -> float:
        return conversion(self.spec.own_norm, self.spec.norm, self.dimension)

    def answers(self, examples: Examples) -> Iterator[tuple[int, Outcome]]:
        points = [Point(x.to(self.run.device)) for x in examples.x]
        return self._dual(examples, points) if self.spec.statement == "dual" else self._searched(examples, points)

    # -- a search, and the level held ------------------------------------------------------------------------------------------

    def _searched(self, examples: Examples, points: Sequence[Point]) -> Iterator[tuple[int, Outcome]]:
        assert self.spec.search is not None
        found = levels_of(self, examples, points, self.spec.sigmas, self.spec.search)
        yield from ((position, self.broken()) for position, one in found.items() if one is None)
        chosen = {position: one for position, one in found.items() if one is not None}
        levels = {position: level for position, (level, _) in chosen.items()}
        for position, case in self._classified(examples, points, levels, {}):
            yield position, self.broken() if case is None else self._frozen(case, *chosen[position])

    def _frozen(self, case: Case, level: float, search: SearchEvidence) -> Outcome:
        noise = self._unit.at(level)
        found = limits(case.looks, self.alpha, self.spec.bound, noise.slack)
        evidence = InstanceEvidence(search=search, selector=None, **self.votes_of(case, found, noise))
        outcome = self.answered(case, found, radius_from(evidence, noise, self.spec.norm, found), evidence)
        if self.spec.statement == "frozen":
            return outcome
        return replace(outcome, reason=f"{outcome.reason or outcome.verdict.sentence} {NOT_ASKED}")

    # -- a selector ------------------------------------------------------------------------------------------------------------

    def _dual(self, examples: Examples, points: Sequence[Point]) -> Iterator[tuple[int, Outcome]]:
        proved: dict[int, _Level] = {}
        for position, case in self._selected(examples, points):
            if case is None:
                yield position, self.broken()
                continue
            level = self._level(case)
            if level.radius > 0.0:
                proved[position] = level
            else:
                yield position, self._undecided(level)
        # The classifier is asked only where the selector has proved something, and not beyond that.
        levels = {position: self.spec.sigmas[level.index] for position, level in proved.items()}
        caps = {position: level.radius for position, level in proved.items()}
        for position, case in self._classified(examples, points, levels, caps):
            yield position, self.broken() if case is None else self._agreed(case, proved[position])

    def _selected(self, examples: Examples, points: Sequence[Point]) -> Iterator[tuple[int, Case | None]]:
        asked, noise = self.spec.selection, self._selector_noise
        ballot = self.ballot(examples, points, [noise] * len(examples), self._selector)
        drawn = ballot.votes(range(len(examples)), _SELECTOR_STAGES.selection, 0, asked.n0)
        # More than the classifier can prove at the selected level is not worth a sample.
        caps = {i: self._most(self.spec.sigmas[most_votes(votes)]) for i, votes in drawn.items() if votes is not None}
        reach = self._reach(dict.fromkeys(caps, noise.sigma), caps)
        return Estimation(asked, self.alpha, ballot, reach, _SELECTOR_STAGES, drawn).cases(range(len(examples)))

    def _level(self, case: Case) -> _Level:
        found = limits(case.looks, self.alpha, self.spec.bound, self._selector_noise.slack)
        return _Level(case.top, case, found, self._selector_noise.radius(found.pA_lower, found.pB_upper))

    def _undecided(self, level: _Level) -> Outcome:
        sigma, selector = self.spec.sigmas[level.index], self._evidence(level, 0.0)
        nothing = {**self.votes_of(level.case, Limits(0.0, 1.0), self._unit.at(sigma)), "n0": 0, "n": 0}
        nothing |= dict.fromkeys(("looks", "shares", "look_counts", "counts_selection", "counts"), ())
        evidence = InstanceEvidence(search=None, selector=selector, **nothing)
        reason = f"{undecided(selector, self.alpha)} The classifier was not asked."
        return Outcome(prediction=None, verdict=Verdict.ABSTAINED, reason=reason, evidence=evidence)

    def _agreed(self, case: Case, level: _Level) -> Outcome:
        noise = self._unit.at(self.spec.sigmas[level.index])
        found = limits(case.looks, self.alpha, self.spec.bound, noise.slack)
        selector = self._evidence(level, noise.radius(found.pA_lower, found.pB_upper))
        evidence = InstanceEvidence(search=None, selector=selector, **self.votes_of(case, found, noise))
        return self.answered(case, found, radius_from(evidence, noise, self.spec.norm, found), evidence)

    def _evidence(self, level: _Level, classifier_radius: float) -> SelectorEvidence:
        votes = {**self.votes_of(level.case, level.found, self._selector_noise), "n0": self.spec.selection.n0}
        return SelectorEvidence(
            sigmas=self.spec.sigmas,
            index=level.index,
            selector_radius=level.radius,
            classifier_radius=classifier_radius,
            transductive=self._transductive,
            **votes,
        )

    @cached_property
    def _selector(self) -> Voters:
        return selector_of(self.spec, self.model, self.run)

    @property
    def _selector_noise(self) -> Noise:
        assert self.spec.selector is not None
        return self.noise_of(self.spec.selector.sigma)

    # -- shared ----------------------------------------------------------------------------------------------------------------

    def _classified(
        self, examples: Examples, points: Sequence[Point], levels: Mapping[int, float], caps: Mapping[int, float]
    ) -> Iterator[tuple[int, Case | None]]:
        """The classifier's votes for the examples that have a level; it stops where a cap, an l2 radius, is reached."""
        noises = [self._unit.at(levels[position]) if position in levels else self._unit for position in range(len(examples))]
        ballot = self.ballot(examples, points, noises, self.place.network)
        return Estimation(self.spec, self.alpha, ballot, self._reach(levels, caps)).cases(list(levels))

    def _reach(self, levels: Mapping[int, float], caps: Mapping[int, float]) -> Callable[[Sequence[int]], Reach]:
        def of(positions: Sequence[int]) -> Reach:
            sigma = np.array([levels[position] for position in positions])
            cap = np.array([caps.get(position, np.inf) for position in positions])
            return lambda pA, pB: np.minimum(self._unit.reach(pA, pB) * sigma, cap) / self._scale

        return of

    def _most(self, level: float) -> float:
        """The l2 radius that unanimous votes prove at a level, about."""
        return self.spec.unanimous_radius(level, self.alpha)

    @property
    def _unit(self) -> Noise:
        return self.noise_of(1.0)


def undecided(selector: SelectorEvidence, alpha: float) -> str:
    """Why the selector's votes prove no level, with the numbers."""
    last = Look(selector.n, *selector.look_counts[-1], selector.shares[-1])
    who, found = f"Level {selector.index} (sigma = {selector.sigmas[selector.index]:g})", Limits(selector.pA_lower, selector.pB_upper)
    return f"The selector agrees on no noise level here. {too_few(who, last, found, selector.bound, alpha)}"
