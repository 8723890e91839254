"""Orthogonal convolutions by a Cayley transform at each frequency: the kernel is as large as the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.errors import InputError
from certify.lipschitz.blocks import OrthogonalConv2d, positive
from certify.lipschitz.orthonormal import free_parameter, orthonormal
from certify.lipschitz.plain import exact, plain_conv


class CayleyConv2d(OrthogonalConv2d):
    """A circular convolution with l2 constant 1, up to rounding, for images of one size.

    (batch, inputs, *size) -> (batch, outputs, *size / stride).
    A free kernel is taken to its frequencies, and each of their matrices is made orthonormal. The inverse inside that has no short kernel:
    every tap of the torus is used. Here that costs a Fourier transform. A file of plain operators needs all
    inputs * outputs * height * width weights, each used at every pixel of the output: for small images (8 x 8), or few channels.
    `ParaunitaryConv2d` is as orthogonal and stays as small as its kernel.

    Args:
        kernel: side of the free kernel, at most size / stride, on blocks of stride x stride pixels.
        size: height and width of the image, or one number for both; multiples of the stride.
        bias: add one to each channel; it moves points and changes no distance.

    Raises:
        InputError: sizes that do not fit; the sentence says which.

    Source: Trockman & Kolter 2021 (arXiv 2104.07167).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, size: int | tuple[int, int], stride: int = 1, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, stride, bias)
        self.size = (size, size) if isinstance(size, int) else size
        positive(kernel=kernel, size=min(self.size))
        if any(side % stride or side // stride < kernel for side in self.size):
            detail = f"is {list(self.size)} for a stride of {stride} and a kernel of {kernel}"
            raise InputError.at("size", detail, "use multiples of the stride that are at least kernel * stride")
        self.grid = (self.size[0] // stride, self.size[1] // stride)
        self.free = free_parameter(self.longer, self.shorter, kernel, kernel, terms=self.longer * kernel**2)

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, inputs, *size)
        self.in_blocks(x)
        if tuple(x.shape[2:]) != self.size:
            raise InputError.at("x", f"is an image of {list(x.shape[2:])}, not {list(self.size)}", "make the layer for this size")
        waves = torch.fft.rfft2(F.pixel_unshuffle(x, self.stride))
        made = torch.einsum("hwoi,bihw->bohw", self.oriented(self._symbol(self.free)), waves)
        y: Tensor = torch.fft.irfft2(made, s=self.grid)
        return y if self.bias is None else y + self.bias[:, None, None]

    def plain(self) -> nn.Module:
        """`WrappedConv2d` with a kernel of the size of the image."""
        taps = torch.fft.irfft2(self._symbol(exact(self.free)), s=self.grid, dim=(0, 1))
        # A convolution's tap t reads the pixel t before, a cross-correlation's the pixel t after; the middle tap goes to the middle.
        before = tuple((side - 1) // 2 for side in self.grid)
        turned = taps.flip(0, 1).roll((before[0] + 1, before[1] + 1), (0, 1))
        top, left = (self.stride * side for side in before)
        pads = (left, self.size[1] - self.stride - left, top, self.size[0] - self.stride - top)
        return plain_conv(self.on_pixels(turned), self.bias, self.stride, pads, wraps=True)

    def _symbol(self, free: Tensor) -> Tensor:  # free: (longer, shorter, kernel, kernel)
        """An orthonormal matrix for each frequency: (rows, columns // 2 + 1, longer, shorter), complex."""
        side = free.shape[-1]
        spread = F.pad(free, (0, self.grid[1] - side, 0, self.grid[0] - side)).roll((-(side // 2), -(side // 2)), (2, 3))
        return orthonormal(torch.fft.rfft2(spread).permute(2, 3, 0, 1))
