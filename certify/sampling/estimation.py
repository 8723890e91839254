"""CERTIFY's two stages for many examples at once: choose a class, then estimate its probability until that is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from certify.sampling.ballot import Ballot
from certify.sampling.streams import Stage
from certify.spec import RadiusSpec
from certify.statistics.sequential import Look
from certify.statistics.stopping import Stopping

Array = np.ndarray[Any, Any]
Reach = Callable[[Array, Array], Array]  # radius by (pA, pB), as `Stopping` takes it


class Stages(NamedTuple):
    """Which streams are drawn from: the two share no sample."""

    selection: Stage = Stage.SELECTION
    estimation: Stage = Stage.ESTIMATION


STAGES = Stages()


@dataclass
class Case:
    """One example on its way: votes so far and the radius they prove, to float64 accuracy."""

    position: int
    selection: list[int]
    top: int
    counts: list[int]
    looks: list[Look] = field(default_factory=list)
    proved: float = -np.inf


@dataclass(frozen=True)
class Estimation:
    """Votes of a ballot, as many as `spec` wants and the rule needs. It proves nothing: limits are made of the looks afterwards.

    Args:
        spec: samples, looks, bound, radii, tolerance.
        alpha: error level of one certificate.
        ballot: who votes.
        reach: for the examples at given positions, the radius at the input by (pA, pB); it only decides when to stop.
        stages: whose streams.
        selection: votes of the selection sample, for who has asked for them already.
    """

    spec: RadiusSpec
    alpha: float
    ballot: Ballot
    reach: Callable[[Sequence[int]], Reach]
    stages: Stages = STAGES
    selection: Mapping[int, list[int] | None] | None = None

    def cases(self, positions: Sequence[int]) -> Iterator[tuple[int, Case | None]]:
        """Each position with its finished case, in any order; None where a noisy copy got a NaN or infinite logit."""
        cases = []
        drawn = self.ballot.votes(positions, self.stages.selection, 0, self.spec.n0) if self.selection is None else self.selection
        for position in positions:
            selection = drawn[position]
            if selection is None:
                yield position, None
            else:
                cases.append(Case(position, selection, most_votes(selection), [0] * len(selection)))
        start = 0
        for look, n in enumerate(self.spec.looks):
            if not cases:
                return
            fresh = self.ballot.votes([case.position for case in cases], self.stages.estimation, start, n)
            yield from ((case.position, None) for case in cases if fresh[case.position] is None)
            going = [case for case in cases if self._add(case, look, fresh[case.position])]
            settled = self._settled(look, going)
            yield from ((case.position, case) for case, done in zip(going, settled, strict=True) if done)
            cases, start = [case for case, done in zip(going, settled, strict=True) if not done], n

    def _add(self, case: Case, look: int, more: Sequence[int] | None) -> bool:
        """Take in the votes since the last look; false when there are none to speak of."""
        if more is None:
            return False
        case.counts = [a + b for a, b in zip(case.counts, more, strict=True)]
        rival = most_of_rivals(case.counts, case.top)
        case.looks.append(Look(self.spec.looks[look], case.counts[case.top], rival, self.spec.shares[look]))
        return True

    def _settled(self, look: int, cases: Sequence[Case]) -> list[bool]:
        rule = self._rule([case.position for case in cases])
        top, rival = (np.array([getattr(case.looks[-1], name) for case in cases], dtype=float) for name in ("top", "rival"))
        proved = np.maximum([case.proved for case in cases], rule.proved(look, top, rival))
        for case, radius in zip(cases, proved, strict=True):
            case.proved = float(radius)
        settled: list[bool] = rule.settled(look, top, rival, proved).tolist()
        return settled

    def _rule(self, positions: Sequence[int]) -> Stopping:
        return Stopping(
            looks=self.spec.looks,
            levels=[self.alpha * share for share in self.spec.shares],
            bound=self.spec.bound,
            reach=self.reach(positions),
            radii=self.spec.radii,
            tolerance=self.spec.tolerance or 0.0,
        )


def most_votes(counts: Sequence[int]) -> int:
    """The class with the most votes, ties to the lowest."""
    return max(range(len(counts)), key=counts.__getitem__)


def most_of_rivals(counts: Sequence[int], top: int) -> int:
    """The largest count of a class other than `top`."""
    return max((count for label, count in enumerate(counts) if label != top), default=0)
