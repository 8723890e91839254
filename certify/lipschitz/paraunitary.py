"""Orthogonal convolutions with small kernels: separable complete factorisation of paraunitary filters."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.errors import InputError
from certify.lipschitz.blocks import OrthogonalConv2d, positive
from certify.lipschitz.orthonormal import free_parameter, orthonormal
from certify.lipschitz.plain import Pads, exact, plain_conv, wrapped


class ParaunitaryConv2d(OrthogonalConv2d):
    """A convolution with l2 constant 1, up to rounding.

    (batch, inputs, height, width) -> (batch, outputs, height / stride, width / stride).
    The filter is Q V(z1; U_1) ... V(z1; U_L) V(z2; U'_1) ... V(z2; U'_L) with Q orthogonal and V(z; U) = (I - U U^T) + U U^T z^-1, which is
    unitary wherever |z| = 1 because U U^T projects. So it is orthogonal on every torus ("circular"). With "zeros" the image is
    put on an infinite plane, filtered there and cut: the first and second keep distances and the third only shortens them.

    Args:
        kernel: side of the kernel, a multiple of the stride.
        padding: "circular" (the image continues on its other side; sides must be multiples of the stride) or "zeros".
        bias: add one to each channel; it moves points and changes no distance.

    Raises:
        InputError: sizes that do not fit; the sentence says which.

    Source: Su, Byeon & Huang 2021 (arXiv 2106.09121), separable complete factorisation; Vaidyanathan 1993 for one axis. Half of the
    dimensions pass each delay (the rank of U), so that the middle of the kernel weighs most at the start.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        padding: Literal["circular", "zeros"] = "circular",
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, stride, bias)
        positive(kernel=kernel)
        if kernel % stride:
            raise InputError.at("kernel", f"is {kernel}, not a multiple of the stride {stride}", "use one")
        if padding not in ("circular", "zeros"):
            raise InputError.at("padding", f"is {padding!r}", 'use "circular" or "zeros"')
        self.padding, begin = padding, (kernel - stride) // 2
        self.pads: Pads = (begin, kernel - stride - begin) * 2
        rank = max(1, self.longer // 2)
        delays = kernel // stride - 1
        self.first = free_parameter(self.longer, self.shorter, terms=self.longer)
        self.down = free_parameter(delays, self.longer, rank, terms=self.longer)
        self.across = free_parameter(delays, self.longer, rank, terms=self.longer)

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, inputs, height, width)
        if self.padding == "circular":
            self.in_blocks(x)
            x = wrapped(x, self.pads)
        else:
            x = F.pad(x, self.pads)
        return F.conv2d(x, self._kernel(self.first, self.down, self.across), self.bias, self.stride)

    def plain(self) -> nn.Module:
        """Zero padding: nn.Conv2d; circular padding: `WrappedConv2d`."""
        kernel = self._kernel(*(exact(free) for free in (self.first, self.down, self.across)))
        return plain_conv(kernel, self.bias, self.stride, self.pads, self.padding == "circular")

    def _kernel(self, first: Tensor, down: Tensor, across: Tensor) -> Tensor:
        # first: (longer, shorter), down and across: (delays, longer, rank)
        taps = orthonormal(first)[None, None]
        for axis, delays in enumerate((down, across)):
            for u in orthonormal(delays) if len(delays) else ():
                taps = _delayed(taps, u, axis)
        return self.on_pixels(taps)


def _delayed(taps: Tensor, u: Tensor, axis: int) -> Tensor:  # taps: (rows, columns, longer, shorter), u: (longer, rank)
    """V(z; U) times a filter, z along that axis: one tap more there."""
    moved = u @ (u.mT @ taps)
    one = torch.zeros_like(taps.narrow(axis, 0, 1))
    return torch.cat([taps - moved, one], dim=axis) + torch.cat([one, moved], dim=axis)
