"""Pooling over windows and over all positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from certify.graph.operators.base import Node, Operator, spatial_pads
from certify.graph.operators.convolution import Window


def _window(node: Node) -> Window:
    kernel = tuple(int(v) for v in node.attributes.get("kernel_shape") or ())
    window = Window.read(node, kernel, node.shapes[node.data(0)][1:])
    if any(pad >= k for pad, k in zip(window.pads, window.kernel * 2, strict=True)):
        raise node.reject(f"has pads {list(window.pads)} as large as its kernel {list(kernel)}")
    if node.attributes.get("ceil_mode", 0) and not _divides(window, node.shapes[node.data(0)][1:]):
        raise node.reject("with ceil_mode has windows that reach over the edge", "pool without ceil_mode")
    return window


def _divides(window: Window, spatial: tuple[int, ...]) -> bool:
    half = len(window.kernel)
    return all(
        (size + window.pads[i] + window.pads[half + i] - (window.kernel[i] - 1) * window.dilations[i] - 1) % window.strides[i] == 0
        for i, size in enumerate(spatial)
    )


@dataclass(frozen=True, kw_only=True)
class MaxPool(Operator):
    """The largest value of each window; padding never wins."""

    types = ("MaxPool",)
    window: Window

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape, window = node.shapes[node.data(0)], _window(node)
        if any(window.pads) and set(window.dilations) != {1}:
            raise node.reject("with both padding and dilations may have windows without any value")
        return cls(**cls.common(node, (shape[0], *window.output(node, shape[1:]))), window=window)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, *spatial)
        pool = F.max_pool2d if len(self.window.kernel) == 2 else F.max_pool1d
        value = x[0]
        if any(self.window.pads):
            value = F.pad(value, spatial_pads(list(self.window.pads)), value=float("-inf"))
        return pool(value, self.window.kernel, self.window.strides, 0, self.window.dilations)

    @property
    def unbounded(self) -> str:
        plain = self.window.kernel == self.window.strides and not any(self.window.pads) and set(self.window.dilations) == {1}
        return "" if plain and len(self.window.kernel) == 2 else "max pooling whose windows overlap, are padded, dilated or 1-D"


@dataclass(frozen=True, kw_only=True)
class AveragePool(Operator):
    """The mean of each window; with `count_padding` the zeros of the padding count as values."""

    types = ("AveragePool",)
    window: Window
    count_padding: bool

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape, window = node.shapes[node.data(0)], _window(node)
        if set(window.dilations) != {1}:
            raise node.reject("with dilations is not supported")
        if not window.symmetric:
            raise node.reject("with different padding on opposite sides is not supported", "pad both sides alike")
        if any(2 * pad > k for pad, k in zip(window.begins, window.kernel, strict=True)):
            raise node.reject("is padded by more than half its kernel")
        count = bool(node.attributes.get("count_include_pad", 0))
        return cls(**cls.common(node, (shape[0], *window.output(node, shape[1:]))), window=window, count_padding=count)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, *spatial)
        pool = F.avg_pool2d if len(self.window.kernel) == 2 else F.avg_pool1d
        return pool(x[0], self.window.kernel, self.window.strides, self.window.begins, False, self.count_padding)

    @property
    def unbounded(self) -> str:
        return "average pooling over windows"


@dataclass(frozen=True, kw_only=True)
class GlobalAveragePool(Operator):
    """The mean over all positions of each channel."""

    types = ("GlobalAveragePool",)

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape = node.shapes[node.data(0)]
        if len(shape) != 3:
            raise node.reject(f"on examples of shape {list(shape)} is not supported", "use it on (channels, height, width)")
        return cls(**cls.common(node, (shape[0], 1, 1)))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, height, width)
        return F.adaptive_avg_pool2d(x[0], 1)
