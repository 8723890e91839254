"""Transposed convolutions a few rows at a time: torch's own for float64 on a CPU lays out every window of all rows at once."""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.bounds import lirpa_compat

_BYTES = 2**20  # of windows laid out at once: about a cache


@functools.cache
def walk_in_parts() -> None:
    """From now on auto-LiRPA walks back through convolutions a few rows at a time; every number stays the same, bit for bit."""
    lirpa_compat.load()
    importlib.import_module("auto_LiRPA.operators.convolution").F = _Functions()  # type: ignore[attr-defined]


class _Functions:
    """torch.nn.functional, but for one function."""

    def __getattr__(self, name: str) -> Any:
        return in_parts if name == "conv_transpose2d" else getattr(F, name)


def in_parts(
    x: Tensor,  # (rows, made, height, width)
    weight: Tensor,  # (made, channels / groups, *kernel)
    *given: Any,
    **named: Any,
) -> Tensor:
    """`torch.nn.functional.conv_transpose2d`, for each row as if it were alone."""

    def convolve(part: Tensor) -> Tensor:  # part: (some rows, made, height, width)
        return F.conv_transpose2d(part, weight, *given, **named)

    windows = math.prod(weight.shape[1:]) * math.prod(x.shape[2:]) * x.element_size()
    parts = torch.split(x, max(1, _BYTES // windows)) if x.device.type == "cpu" and x.dtype == torch.float64 else (x,)
    if len(parts) == 1:
        return convolve(x)
    if torch.is_grad_enabled() and x.requires_grad:
        return torch.cat([convolve(part) for part in parts])
    first = convolve(parts[0])
    made = first.new_empty((len(x), *first.shape[1:]))
    start = 0
    for part in parts:
        made[start : start + len(part)] = convolve(part)
        start += len(part)
    return made
