"""What orthogonal convolutions share: strides as blocks of pixels, and the longer side of the matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from certify.errors import InputError
from certify.lipschitz.plain import Constructed


class OrthogonalConv2d(Constructed):
    """A convolution as a filter of stride 1 on blocks of stride x stride pixels; making blocks moves values and changes no distance.

    At every frequency the filter is a `longer` x `shorter` matrix with orthonormal columns where the output has at least as many
    values as the input (outputs >= inputs * stride^2, an isometry), and the transpose of one where it has fewer: that drops some
    dimensions and preserves the others. Either way the l2 constant is 1.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, bias: bool) -> None:
        super().__init__()
        positive(inputs=inputs, outputs=outputs, stride=stride)
        self.inputs, self.outputs, self.stride = inputs, outputs, stride
        blocks = inputs * stride**2
        self.expands = outputs >= blocks
        self.longer, self.shorter = max(outputs, blocks), min(outputs, blocks)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def oriented(self, matrix: Tensor) -> Tensor:  # matrix: (..., longer, shorter)
        """(..., outputs, values of a block)."""
        return matrix if self.expands else matrix.mT

    def on_pixels(self, taps: Tensor) -> Tensor:  # taps: (rows, columns, longer, shorter), on blocks
        """The kernel of the convolution with that stride: (outputs, inputs, rows * stride, columns * stride)."""
        rows, columns, s = *taps.shape[:2], self.stride
        cut = self.oriented(taps).reshape(rows, columns, self.outputs, self.inputs, s, s)
        return cut.permute(2, 3, 0, 4, 1, 5).reshape(self.outputs, self.inputs, rows * s, columns * s)

    def in_blocks(self, x: Tensor) -> None:  # x: (batch, inputs, height, width)
        """Raises InputError where the image is not made of whole blocks."""
        if x.dim() != 4 or x.shape[1] != self.inputs or x.shape[2] % self.stride or x.shape[3] % self.stride:
            wanted = f"(batch, {self.inputs}, height, width) with sides that are multiples of {self.stride}"
            detail = f"has the shape {list(x.shape)}, not {wanted}"
            raise InputError.at("x", detail, "change the layer before, or the stride")


def positive(**sizes: int) -> None:
    """Raises InputError for the first size below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise InputError.at(name, f"is {value}, not positive", "give at least 1")
