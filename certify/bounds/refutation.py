"""An input in the ball that gets another answer, as float32 networks see it: found by the attack, rounded, and checked again."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.attack import pgd
from certify.model import Model
from certify.norms import Norm
from certify.rounding import step_up

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


def refute(
    model: Model,
    x: Tensor,  # (*input), float32, raw input units
    label: int,
    *,
    norm: Norm,
    epsilon: float,
    value_range: tuple[float, float] | None,
    device: str,
) -> Refutation | None:
    """A counterexample to "no input within epsilon of x is answered otherwise than `label`", or null: which proves nothing.

    What is returned was checked after its rounding to float32: it lies in the closed ball (its distance, rounded up, is at most
    epsilon) and in the value range where one is given, and is answered otherwise in float32 and in float64. The attack has a fixed seed.

    Args:
        model: the network.
        label: the answer that is claimed for the whole ball.
        norm: the ball's norm.
        epsilon: its radius, raw-input units.
        value_range: the range that the claim is cut to; null when it is not.
        device: a torch device name.
    """
    x = x.to(device)
    shrunk = epsilon - _ROUNDING * max(1.0, float(x.abs().max()) + epsilon) * _unit(norm, x.numel())
    if shrunk <= 0.0:
        return None
    exact = model.module(device, torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = pgd(exact, x, label, norm=norm, radius=shrunk, generator=generator, value_range=value_range)
    if found is None:
        return None
    kept = found.x.float() if value_range is None else found.x.float().clamp(*value_range)
    order = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}[norm]
    distance = step_up(float(torch.linalg.vector_norm((kept.double() - x.double()).flatten(), order)) * (1 + 1e-12), 2)
    with torch.no_grad():
        answers = {int(model.module(device, dtype)(kept.to(dtype).unsqueeze(0)).argmax()) for dtype in (torch.float32, torch.float64)}
    if distance > epsilon or len(answers) != 1 or label in answers:
        return None
    return Refutation(kept, answers.pop(), distance)


def _unit(norm: Norm, elements: int) -> float:
    """The length of the vector of ones."""
    return {Norm.LINF: 1.0, Norm.L2: math.sqrt(elements), Norm.L1: float(elements)}[norm]
