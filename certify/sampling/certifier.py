"""What certifiers that vote over noisy copies share: the packed counter, out-of-memory, progress, time. They only say what they ask."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import torch

from certify.certifier import Certifier, Outcome
from certify.heap import out_of_memory
from certify.model import Examples
from certify.run import Progress
from certify.sampling.engine import Request, VoteCounter
from certify.sampling.noise import NOISES
from certify.sampling.noise.base import Noise
from certify.sampling.streams import Stage, Stream
from certify.spec import VotingSpec
from certify.verdict import Verdict

N = TypeVar("N", bound=VotingSpec)
# Examples are sampled together in groups: enough to fill this many batches at a first look, so that little is padding, and no more, so
# that outcomes come as early as they can.
_BATCHES, _GROUP = 64, 256


class SamplingCertifier(Certifier[N]):
    """Base of certifiers whose evidence is votes. A subclass writes `answers`, asking for `votes` as it goes."""

    dtype = "float32"

    @cached_property
    def noise(self) -> Noise:
        return NOISES[self.spec.noise](self.spec.sigma, self.model.input_shape, self.run.device)

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
        self._samples, self._answered = 0, 0
        size = min(_GROUP, -(-_BATCHES * self._batch_size // self.least))
        for first in range(0, len(examples), size):
            yield from self._group(examples.part(first, first + size))

    def _group(self, examples: Examples) -> list[Outcome]:
        """All outcomes of a group, in order; out of memory, it starts again from its first sample with half the batch."""
        before, started = (self._samples, self._answered), self.run.now()
        while True:
            self._counter, self._spent = self._make_counter(), [0] * len(examples)
            self._inputs = [self.noise.prepare(x) for x in examples.x]
            found: dict[int, Outcome] = {}
            try:
                for position, outcome in self.answers(examples):
                    found[position] = outcome
                    self._answered += 1
                    self._tell()
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self._batch_size == 1:
                    raise
                self._batch_size //= 2
                self._samples, self._answered = before
        each = (self.run.now() - started) / max(1, sum(self._spent))
        return [replace(found[position], seconds=each * spent) for position, spent in enumerate(self._spent)]

    def votes(self, examples: Examples, positions: Iterable[int], stage: Stage, start: int, stop: int) -> dict[int, list[int] | None]:
        """Votes by class of samples `start` to `stop` of each example, by position; None where a logit was NaN or infinite."""
        wanted = list(positions)
        requests = [Request(self._inputs[i], self.noise, self._stream(examples.rows[i], stage), start, stop) for i in wanted]
        votes = self._counter.count(requests)
        for position in wanted:
            self._spent[position] += stop - start
        return {i: row if ok else None for i, row, ok in zip(wanted, votes.counts.tolist(), votes.finite.tolist(), strict=True)}

    def broken(self) -> Outcome:
        """The outcome of an example whose noisy copies got NaN or infinite logits."""
        reason = "model: a noisy copy got a NaN or infinite logit; check the weights and the input range."
        return Outcome(prediction=None, verdict=Verdict.ERROR, reason=reason)

    def _stream(self, row: int, stage: Stage) -> Stream:
        return Stream(self.run.noise_key, self.index, row, stage)

    def _make_counter(self) -> VoteCounter:
        return VoteCounter(
            self.model.module(self.run.device, torch.float32),
            self.model.input_shape,
            batch_size=self._batch_size,
            classes=self.model.classes,
            device=self.run.device,
            should_stop=self.run.should_stop,
            on_samples=self._count,
        )

    def _count(self, samples: int) -> None:
        self._samples += samples
        self._tell()

    def _tell(self) -> None:
        self.run.on_progress(Progress(certifier=self.index, examples=self._answered, samples=self._samples))
