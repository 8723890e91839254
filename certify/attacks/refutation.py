"""Inputs with another answer as they are stored: rounded to float32, and evaluated again in float32 and in float64."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.attacks.geometry import distance_upper
from certify.model import Model
from certify.norms import Norm

_ROUNDING = 2.0**-23  # of the largest value: what rounding to float32 may move an entry by, twice over


@dataclass(frozen=True)
class Refutation:
    """An input at most `distance_upper` away that is answered `answer`, by the network in float32 and in float64 alike."""

    x: Tensor  # (*input), float32
    answer: int
    distance_upper: float

    def encoded(self) -> str:
        """The input as base64 of little-endian float32."""
        return base64.b64encode(self.x.cpu().numpy().astype("<f4").tobytes()).decode()


def decoded(text: str, shape: tuple[int, ...]) -> Tensor:
    """The input of `Refutation.encoded`, (*shape), float32."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32).reshape(shape))


def settled(
    model: Model,
    x: Tensor,  # (*input), float32, raw input units
    candidates: Iterable[Tensor],  # each (*input), float64
    label: int,
    *,
    norm: Norm,
    limit: float,
    value_range: tuple[float, float] | None,
    device: str,
    beyond: float = 0.0,
) -> Refutation | None:
    """The first candidate that is still a counterexample after its rounding to float32, or null.

    It lies in the closed ball of radius `limit` (its distance, rounded up, is at most that) and in the value range where one is given; it
    is answered otherwise than `label`, and alike, in float32 and in float64, each evaluated alone.

    Args:
        model: the network.
        label: the answer it must not have.
        norm: the ball's norm.
        limit: its radius, raw-input units.
        value_range: null when the claim is not cut to one.
        device: a torch device name.
        beyond: share of the largest logit by which another answer must lead in float64, so that other runtimes see it too.
    """
    for candidate in candidates:
        kept = _in_range(candidate.float(), value_range)
        distance = distance_upper(kept, x, norm)
        if distance > limit:
            continue
        with torch.no_grad():
            logits = [model.module(device, dtype)(kept.to(dtype).unsqueeze(0))[0] for dtype in (torch.float32, torch.float64)]
        answers = {int(one.argmax()) for one in logits}
        finite = all(bool(one.isfinite().all()) for one in logits)
        if finite and len(answers) == 1 and label not in answers:
            lead = float(logits[1].max() - logits[1][label])
            if lead >= beyond * float(logits[1].abs().max()):
                return Refutation(kept, answers.pop(), distance)
    return None


def room(
    x: Tensor,  # (*input)
    norm: Norm,
    radius: float,
) -> float:
    """A radius in which inputs may be sought that still lie within `radius` after rounding to float32; not positive when there is none."""
    unit = {Norm.LINF: 1.0, Norm.L2: math.sqrt(x.numel()), Norm.L1: float(x.numel())}[norm]
    return radius - _ROUNDING * max(1.0, float(x.abs().max()) + radius) * unit


def _in_range(
    x: Tensor,  # (*input), float32
    value_range: tuple[float, float] | None,
) -> Tensor:
    if value_range is None:
        return x
    low, high = (np.float32(end) for end in value_range)
    # The ends themselves may lie between two float32 numbers: the inner one is meant.
    low = np.nextafter(low, np.float32(np.inf)) if float(low) < value_range[0] else low
    high = np.nextafter(high, np.float32(-np.inf)) if float(high) > value_range[1] else high
    return x.clamp(float(low), float(high))
