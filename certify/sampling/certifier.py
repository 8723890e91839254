"""What certifiers that vote over noisy copies share: the packed counter, out-of-memory, progress, time. They only say what they ask."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

from certify.certifier import Certifier, Outcome
from certify.heap import out_of_memory
from certify.model import Examples
from certify.run import Progress
from certify.sampling.ballot import Ballot, Voters
from certify.sampling.engine import VoteCounter
from certify.sampling.noise import NOISES
from certify.sampling.noise.base import Noise
from certify.sampling.place import Place, Point, place_of
from certify.sampling.streams import Stream
from certify.spec import VotingSpec
from certify.verdict import Verdict

N = TypeVar("N", bound=VotingSpec)
# Examples are sampled together in groups: enough to fill this many batches at a first look, so that little is padding, and no more, so
# that outcomes come as early as they can.
_BATCHES, _GROUP = 64, 256


class SamplingCertifier(Certifier[N]):
    """Base of certifiers whose evidence is votes. A subclass writes `answers`, asking ballots for votes as it goes."""

    @property
    def dtype(self) -> str:  # type: ignore[override]
        return self.spec.precision

    @cached_property
    def place(self) -> Place:
        """Where the copies are made."""
        return place_of(self.model, self.spec.noisy_tensor)

    @cached_property
    def _noises(self) -> dict[float, Noise]:
        return {}

    def noise_of(self, sigma: float) -> Noise:
        """The spec's noise at that level, for copies made at `place`; built once for each level."""
        if sigma not in self._noises:
            other = next(iter(self._noises.values()), None)
            self._noises[sigma] = (
                other.at(sigma) if other else NOISES[self.spec.noise](sigma, self.place.network.input_shape, self.run.device)
            )
        return self._noises[sigma]

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @property
    @abstractmethod
    def least(self) -> int:
        """Samples that every example needs at least."""

    @abstractmethod
    def answers(self, examples: Examples) -> Iterator[tuple[int, Outcome]]:
        """One (position, outcome) for each example, in any order."""

    def outcomes(self, examples: Examples) -> Iterator[Outcome]:
        self._batch_size = self.run.plan.batch_sizes[self.index]
        self._samples = 0
        self._verdicts: Counter[str] = Counter()
        size = min(_GROUP, -(-_BATCHES * self._batch_size // self.least))
        for first in range(0, len(examples), size):
            yield from self._group(examples.part(first, first + size))

    def _group(self, examples: Examples) -> list[Outcome]:
        """All outcomes of a group, in order; out of memory, it starts again from its first sample with half the batch."""
        before, started = (self._samples, self._verdicts.copy()), self.run.now()
        while True:
            self._spent = [0] * len(examples)
            found: dict[int, Outcome] = {}
            try:
                for position, outcome in self.answers(examples):
                    found[position] = outcome
                    self._verdicts[outcome.verdict] += 1
                    self._tell()
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self._batch_size == 1:
                    raise
                self._batch_size //= 2
                self._samples, self._verdicts = before
        each = (self.run.now() - started) / max(1, sum(self._spent))
        return [replace(found[position], seconds=each * spent) for position, spent in enumerate(self._spent)]

    def ballot(self, examples: Examples, points: Sequence[Point], noises: Sequence[Noise], network: Voters, each: int = 1) -> Ballot:
        """A question that `network` answers on copies of these examples.

        Args:
            examples: of the group at hand.
            points: what the noise is added to, one for each position.
            noises: one for each position.
            network: its input is a point.
            each: positions of one example, which stand side by side and draw from its stream.
        """
        return Ballot(
            counter=self._counter(network),
            points=[noise.prepare(point.value) for noise, point in zip(noises, points, strict=True)],
            noises=noises,
            stream=lambda position, stage: Stream(self.run.noise_key, self.index, examples.rows[position // each], stage),
            spent=lambda position, copies: self._spend(position // each, copies),
        )

    def points(self, examples: Examples) -> list[Point]:
        """What each example is where the copies are made."""
        return [self.place.point(x) for x in examples.x]

    def nowhere(self, point: Point) -> Outcome:
        """The outcome of an example of which nothing is known where the copies would be made."""
        if not bool(point.value.isfinite().all()):
            reason = f"model: the example {point.reason}; check the weights and the input range."
            return Outcome(prediction=None, verdict=Verdict.ERROR, reason=reason)
        reason = f"How far rounding may move what the noise is added to is not known: {point.reason}; choose an earlier split."
        return Outcome(prediction=None, verdict=Verdict.UNKNOWN, reason=reason)

    def broken(self) -> Outcome:
        """The outcome of an example whose noisy copies got NaN or infinite logits."""
        reason = "model: a noisy copy got a NaN or infinite logit; check the weights and the input range."
        return Outcome(prediction=None, verdict=Verdict.ERROR, reason=reason)

    def _spend(self, position: int, copies: int) -> None:
        self._spent[position] += copies

    def _counter(self, network: Voters) -> VoteCounter:
        return VoteCounter(
            network.voters(self.run.device, self.spec.precision, f"certifiers.{self.index}.precision"),
            network.input_shape,
            batch_size=self._batch_size,
            classes=network.classes,
            device=self.run.device,
            should_stop=self.run.should_stop,
            on_samples=self._count,
            precision=self.spec.precision,
        )

    def _count(self, samples: int) -> None:
        self._samples += samples
        self._tell()

    def _tell(self) -> None:
        answered, counted = self._verdicts.total(), dict(self._verdicts)
        self.run.on_progress(Progress(certifier=self.index, examples=answered, samples=self._samples, verdicts=counted))
