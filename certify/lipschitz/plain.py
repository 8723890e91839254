"""Layers whose weights are computed from free parameters, and the plain layers with constant weights that stand for them in a file."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.errors import InputError

WRAP_OPSET = 19  # the oldest in which Pad can wrap around
Pads = tuple[int, int, int, int]  # left, right, top, bottom


class Constructed(nn.Module, ABC):
    """A layer whose weights are computed from free parameters each time it is called.

    `certify.export` writes its plain form, so that a file holds weights and nothing of the construction.
    """

    @abstractmethod
    def plain(self) -> nn.Module:
        """The same function with constant weights: computed in float64 from the parameters, rounded once to float32, on the CPU."""


def plain(module: nn.Module) -> nn.Module:
    """A copy in which every `Constructed` layer is its plain form; shared layers stay shared. Without any: the module itself.

    The plain layers are in float32 and do not learn; everything else is copied as it is.
    """
    if isinstance(module, Constructed):
        return _placed(module)
    found = [(path, layer) for path, layer in module.named_modules(remove_duplicate=False) if isinstance(layer, Constructed)]
    if not found:
        return module
    made = {id(layer): _placed(layer) for _, layer in found}
    copied = copy.deepcopy(module)
    for path, layer in found:
        copied.set_submodule(path, made[id(layer)])
    return copied


def _placed(layer: Constructed) -> nn.Module:
    return layer.plain().to(next(layer.parameters()).device).train(layer.training)


def oldest_opset(module: nn.Module) -> int:
    """The oldest ONNX operators that can express a plain module; 0 when it asks for none in particular."""
    return WRAP_OPSET if any(isinstance(part, WrappedConv2d) for part in module.modules()) else 0


def exact(parameter: Tensor) -> Tensor:  # (any shape) -> the same
    """Its values in float64, on the CPU: not every device has float64."""
    return parameter.detach().cpu().double()


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:  # weight: (out, in) in float64, bias: (out,)
    """nn.Linear with these weights, rounded to float32."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight, made.bias = _constant(weight), _constant(bias)
    return made


def plain_conv(
    weight: Tensor,  # (out, in, height, width) in float64
    bias: Tensor | None,  # (out,)
    stride: int,
    pads: Pads,
    wraps: bool,
) -> nn.Module:
    """nn.Conv2d with these weights, rounded to float32, its images continued by zeros or by their other side."""
    if wraps:
        return WrappedConv2d(weight, bias, stride, pads)
    left, right, top, bottom = pads
    # nn.Conv2d pads both ends alike; a tap of zeros makes up for the longer end.
    weight = F.pad(weight, (max(0, right - left), max(0, left - right), max(0, bottom - top), max(0, top - bottom)))
    outputs, inputs, *kernel = weight.shape
    even = (max(top, bottom), max(left, right))
    made = nn.Conv2d(inputs, outputs, (kernel[0], kernel[1]), stride, even, bias=bias is not None, device="meta")
    made.weight, made.bias = _constant(weight), _constant(bias)
    return made


def _constant(value: Tensor | None) -> Any:  # any shape
    return None if value is None else nn.Parameter(value.detach().cpu().float(), requires_grad=False)


class WrappedConv2d(nn.Module):
    """Cross-correlation of images that continue on their other side: (batch, in, height, width) -> (batch, out, ...).

    The weights are rounded to float32. In a file it is Pad (mode wrap) and Conv, whatever the exporter; torch's own circular padding
    becomes slices and concatenations there.
    """

    def __init__(
        self,
        weight: Tensor,  # (out, in, height, width)
        bias: Tensor | None,  # (out,)
        stride: int,
        pads: Pads,
    ) -> None:
        super().__init__()
        self.weight, self.bias = _constant(weight), _constant(bias)
        self.stride, self.pads = stride, pads

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, in, height, width)
        return F.conv2d(wrapped(x, self.pads), self.weight, self.bias, self.stride)


def wrapped(x: Tensor, pads: Pads) -> Tensor:  # x: (batch, channels, height, width)
    """The image continued on its other side.

    Raises:
        InputError: it is smaller than what is to be added.
    """
    if not any(pads):
        return x
    if max(pads[:2]) > x.shape[3] or max(pads[2:]) > x.shape[2]:
        raise InputError.at("x", f"is an image of {x.shape[2]} x {x.shape[3]}, too small for this kernel", "use a smaller kernel")
    if torch.onnx.is_in_onnx_export():
        made: Tensor = _Wrap.apply(x, pads)  # type: ignore[no-untyped-call]
        return made
    return F.pad(x, pads, mode="circular")


class _Wrap(torch.autograd.Function):
    """How an export writes `wrapped`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pads: Pads) -> Tensor:  # x: (batch, channels, height, width)
        return F.pad(x, pads, mode="circular")

    @staticmethod
    def symbolic(g: Any, x: Any, pads: Pads) -> Any:
        left, right, top, bottom = pads
        return g.op("Pad", x, g.op("Constant", value_t=torch.tensor([0, 0, top, left, 0, 0, bottom, right])), mode_s="wrap")
