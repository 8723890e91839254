"""One question to noisy copies of a group of examples: which network votes, around which points, under which noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from certify.sampling.engine import Request, VoteCounter
from certify.sampling.noise.base import Noise
from certify.sampling.streams import Stage, Stream
from certify.spec import Precision


class Voters(Protocol):
    """Whoever votes: a classifier, or another function of the same noisy copies."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one copy."""

    @property
    def classes(self) -> int:
        """Among which they choose."""

    def voters(self, device: str, precision: Precision, field: str) -> Callable[[Tensor], Tensor]:
        """(batch, *input_shape) -> (batch, classes), each row alone; the largest entry is the vote, one that is not finite is an error."""


@dataclass(frozen=True)
class Ballot:
    """Votes on demand, by the position of an example in its group.

    Args:
        counter: the network that votes.
        points: what the noise is added to, as prepared by the noise.
        noises: the noise of each example.
        stream: of an example, by position and stage.
        spent: told the position and how many copies it took.
    """

    counter: VoteCounter
    points: Sequence[Tensor]
    noises: Sequence[Noise]
    stream: Callable[[int, Stage], Stream]
    spent: Callable[[int, int], None]

    def votes(self, positions: Iterable[int], stage: Stage, start: int, stop: int) -> dict[int, list[int] | None]:
        """Votes by class of samples `start` to `stop` of each example, by position; None where a logit was NaN or infinite."""
        return self.ask(stage, dict.fromkeys(positions, (start, stop)))

    def ask(self, stage: Stage, ranges: Mapping[int, tuple[int, int]]) -> dict[int, list[int] | None]:
        """As `votes`, with its own first and last sample for each position."""
        votes = self.counter.count([Request(self.points[i], self.noises[i], self.stream(i, stage), *ranges[i]) for i in ranges])
        for position, (start, stop) in ranges.items():
            self.spent(position, stop - start)
        return {i: row if ok else None for i, row, ok in zip(ranges, votes.counts.tolist(), votes.finite.tolist(), strict=True)}
