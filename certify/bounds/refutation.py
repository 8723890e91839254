"""An attack on a claim that no method proves: an input in the ball that gets another answer refutes it."""

from __future__ import annotations

import torch
from torch import Tensor

from certify.attacks.apgd import apgd
from certify.attacks.refutation import Refutation, room, settled
from certify.model import Model
from certify.norms import Norm


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

    What is returned was checked after its rounding to float32 (`settled`). The attack has a fixed seed.

    Args:
        model: the network.
        label: the answer that is claimed for the whole ball.
        norm: the ball's norm.
        epsilon: its radius, raw-input units.
        value_range: the range that the claim is cut to; null when it is not.
        device: a torch device name.
    """
    x = x.to(device)
    radius = room(x, norm, epsilon)
    if radius <= 0.0:
        return None
    generator = torch.Generator().manual_seed(0)
    found = apgd(
        model.module(device, torch.float64), x, label, norm=norm, radius=radius, generator=generator, value_range=value_range
    )  # fmt: skip
    if found is None:
        return None
    return settled(model, x, [found.x], label, norm=norm, limit=epsilon, value_range=value_range, device=device)
