"""Layers for encoders that stretch no distance, trained with ordinary optimisers: put them into `nn.Sequential` like any other.

The linear and convolutional layers are orthogonal by construction and GroupSort permutes, so a stack of them has the l2 constant 1,
and gradients keep their norm where no dimension is dropped. An export writes ordinary layers in their place. What is claimed about
a model is bounded again from the weights in its file; nothing is believed because of how they were made.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.errors import InputError
from certify.lipschitz.blocks import positive
from certify.lipschitz.cayley import CayleyConv2d
from certify.lipschitz.orthonormal import free_parameter, orthonormal
from certify.lipschitz.paraunitary import ParaunitaryConv2d
from certify.lipschitz.plain import Constructed, exact, plain, plain_linear

__all__ = ["CayleyConv2d", "GroupSort", "OrthogonalLinear", "ParaunitaryConv2d", "plain"]


class OrthogonalLinear(Constructed):
    """x -> W x + bias with l2 constant 1, up to rounding: W W^T = I when outputs < inputs, W^T W = I (an isometry) otherwise.

    Every value of its free parameters gives such a W, so an optimiser may move them anywhere.

    Args:
        inputs, outputs: sizes of the last axis, before and after.
        bias: add one; it moves points and changes no distance.

    Raises:
        InputError: a size is not positive.

    Source: the Cayley transform, see `orthonormal`.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        positive(inputs=inputs, outputs=outputs)
        self.expands = outputs >= inputs
        longer, shorter = max(inputs, outputs), min(inputs, outputs)
        self.free = free_parameter(longer, shorter, terms=longer)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:  # x: (..., inputs)
        return F.linear(x, self._weight(self.free), self.bias)

    def plain(self) -> nn.Module:
        """nn.Linear."""
        return plain_linear(self._weight(exact(self.free)), self.bias)

    def _weight(self, free: Tensor) -> Tensor:  # free: (longer, shorter)
        made = orthonormal(free)
        return made if self.expands else made.mT


class GroupSort(nn.Module):
    """Sorts groups of channels, largest first: (batch, channels, ...) -> the same shape. Constant 1; gradients keep their norm.

    Channels i, i + n, i + 2n, ... are a group, with n = channels / group; group 2 is MaxMin. The first n channels of the result are the
    largest of each group, the next n the second largest, and so on. Comparators do it, each an exchange of two parts of the channels,
    so that a file holds Slice, Max, Min and Concat only; there are group * (group - 1) / 2 of them: for small groups.

    Raises:
        InputError: the channels are no multiple of the group.

    Source: Anil, Lucas & Grosse 2019 (arXiv 1811.05381); the network is odd-even transposition sort, Knuth vol. 3, section 5.3.4.
    """

    def __init__(self, group: int = 2) -> None:
        super().__init__()
        if group < 2:
            raise InputError.at("group", f"is {group}", "sort at least 2 channels")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, channels, ...)
        channels = int(x.shape[1])
        if channels % self.group:
            raise InputError.at("x", f"has {channels} channels, not a multiple of the group {self.group}", "change the layer before")
        part = channels // self.group
        sorted_ = [x.narrow(1, first, part) for first in range(0, channels, part)]
        for turn in range(self.group):
            for i in range(turn % 2, self.group - 1, 2):
                a, b = sorted_[i], sorted_[i + 1]
                sorted_[i], sorted_[i + 1] = torch.maximum(a, b), torch.minimum(a, b)
        return torch.cat(sorted_, dim=1)

    def extra_repr(self) -> str:
        return f"group={self.group}"
