"""Counting the votes of noisy copies, packed: the only hot loop of sampling.

Slots of one fixed batch are filled from many examples in turn, so that early stopping never leaves a batch half empty; counts stay on
the device and come back once a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.errors import Cancelled
from certify.precision import computing
from certify.sampling.noise.base import Noise
from certify.sampling.streams import Stream
from certify.spec import Precision


@dataclass(frozen=True)
class Request:
    """Samples `start` to `stop` (exclusive) of a stream around one input, as prepared by the noise."""

    x: Tensor  # (*input)
    noise: Noise
    stream: Stream
    start: int
    stop: int

    def pieces(self) -> Iterator[tuple[int, int, int, int]]:
        """(first block, how many, first row, last row) that cover the range."""
        size, ahead, last = self.noise.block, self.noise.ahead, -(-self.stop // self.noise.block)
        for block in range(self.start // size, last, ahead):
            count = min(ahead, last - block)
            yield block, count, max(self.start - block * size, 0), min(self.stop - block * size, count * size)


@dataclass(frozen=True)
class Votes:
    """Votes by request and class; `finite` says which requests got finite logits throughout: the others have no votes to speak of."""

    counts: Tensor  # (requests, classes), int64, on the CPU
    finite: Tensor  # (requests,), bool, on the CPU


class VoteCounter:
    """Counts argmax votes of `classify` over noisy copies.

    A vote is the argmax of the logits, ties to the lowest class: this rule is part of the base classifier. Every batch has the same
    shape; padding never votes.

    Args:
        classify: (batch_size, *shape) float32 -> (batch_size, classes) logits, each row alone.
        shape: of one input.
        should_stop: polled before every batch.
        on_samples: told how many samples each batch held.
        precision: to which the products inside `classify` may be shortened.
    """

    def __init__(
        self,
        classify: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        *,
        batch_size: int,
        classes: int,
        device: str,
        should_stop: Callable[[], bool],
        on_samples: Callable[[int], None],
        precision: Precision = "float32",
    ) -> None:
        self._classify = classify
        self._classes = classes
        self._should_stop = should_stop
        self._on_samples = on_samples
        self._precision = precision
        self._batch = torch.zeros((batch_size, *shape), device=device)
        if len(shape) == 3:
            self._batch = self._batch.to(memory_format=torch.channels_last)
        self._owners = torch.zeros(batch_size, dtype=torch.int64)
        self._one = torch.ones((), dtype=torch.int64, device=device)

    def count(self, requests: Sequence[Request]) -> Votes:
        """Votes of all requests; each adds up to `stop - start`.

        Raises:
            Cancelled: `should_stop` answered true.
        """
        device = self._batch.device
        counts = torch.zeros(len(requests) * self._classes, dtype=torch.int64, device=device)
        broken = torch.zeros(len(requests), dtype=torch.int64, device=device)
        with computing(self._precision), torch.inference_mode():
            filled = 0
            for owner, request in enumerate(requests):
                for block, blocks, first, last in request.pieces():
                    drawn, row = request.noise.draw(request.stream, block, blocks), first
                    while row < last:
                        taken = min(last - row, len(self._batch) - filled)
                        request.noise.apply(request.x, drawn[row : row + taken], self._batch[filled : filled + taken])
                        self._owners[filled : filled + taken] = owner
                        row, filled = row + taken, filled + taken
                        if filled == len(self._batch):
                            self._vote(filled, counts, broken)
                            filled = 0
            if filled:
                self._vote(filled, counts, broken)
        return Votes(counts.reshape(-1, self._classes).cpu(), (broken == 0).cpu())

    def _vote(
        self,
        filled: int,
        counts: Tensor,  # (requests * classes,), int64
        broken: Tensor,  # (requests,), int64
    ) -> None:
        if self._should_stop():
            raise Cancelled
        logits = self._classify(self._batch)[:filled]
        owners = self._owners[:filled].to(counts.device)
        places = owners * self._classes + logits.argmax(dim=1)
        counts.scatter_add_(0, places, self._one.expand(filled))
        broken.scatter_add_(0, owners, (~logits.isfinite().all(dim=1)).to(torch.int64))
        self._on_samples(filled)
