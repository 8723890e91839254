"""Counting the votes of noisy copies: the only hot loop of sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from certify.errors import Cancelled, NumericalError, Problem
from certify.sampling.streams import Stream


def count_votes(
    classify: Callable[[Tensor], Tensor],
    x: Tensor,  # (*input), float32, raw input units
    stream: Stream,
    *,
    sigma: float,
    samples: int,
    batch_size: int,
    classes: int,
    should_stop: Callable[[], bool],
    on_samples: Callable[[int], None],
) -> Tensor:
    """Votes for each class over the first `samples` noisy copies x + sigma * noise of the stream.

    A vote is the argmax of the logits, ties to the lowest class: this rule is part of the base classifier. Every batch has the same
    shape; padding never votes.

    Returns:
        Counts of shape (classes,), int64, on the CPU; they add up to `samples`.

    Raises:
        NumericalError: a noisy copy got a NaN or infinite logit.
        Cancelled: `should_stop` answered true between two batches.
    """
    counts = torch.zeros(classes, dtype=torch.int64)
    with torch.inference_mode():
        for noise, valid in stream.batches(samples, batch_size):
            if should_stop():
                raise Cancelled
            noisy = noise.to(x.device).mul_(sigma).add_(x) if x.device.type != "cpu" else noise.mul_(sigma).add_(x)
            logits = classify(noisy)[:valid]
            if not bool(logits.isfinite().all()):
                raise NumericalError(
                    Problem(field="model", detail="a noisy copy got a NaN or infinite logit", mend="check the weights and the input range")
                )
            counts += torch.bincount(logits.argmax(dim=1), minlength=classes).cpu()
            on_samples(valid)
    return counts
