"""Convolutional networks with random weights, one layer after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tests.support.onnx_models import Array, model_bytes, node


class Layered:
    """A network on colour images of one size; every method adds a layer and returns the network."""

    def __init__(self, size: int, channels: int = 3) -> None:
        self._rng, self._input = np.random.default_rng(0), (channels, size, size)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, Array] = {}
        self._last, self._channels, self._size = "x", channels, size

    def add(self, kind: str, *more: str, **attributes: Any) -> Layered:
        """A node that reads the last tensor, and more."""
        name = f"t{len(self._nodes)}"
        self._nodes.append(node(kind, " ".join((self._last, *more)), name, **attributes))
        self._last = name
        return self

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        name = f"w{len(self._weights)}"
        self._weights[name] = (scale * self._rng.normal(size=shape)).astype(np.float32)
        return name

    def number(self, value: float) -> str:
        name = f"w{len(self._weights)}"
        self._weights[name] = np.array(value, np.float32)
        return name

    def conv(self, made: int, kernel: int = 3, stride: int = 1, kind: str = "Relu") -> Layered:
        weight = self.weight(made, self._channels, kernel, kernel, scale=1.0 / np.sqrt(self._channels * kernel * kernel))
        self.add("Conv", weight, pads=[kernel // 2] * 4, strides=[stride] * 2)
        self._channels, self._size = made, -(-self._size // stride)
        return self.add(kind) if kind else self

    def transposed(self, made: int) -> Layered:
        """Twice the size, as one dense matrix in bounds."""
        self.add("ConvTranspose", self.weight(self._channels, made, 2, 2, scale=0.3), strides=[2, 2])
        self._channels, self._size = made, 2 * self._size
        return self.add("Relu")

    def clip(self) -> Layered:
        return self.add("Clip", self.number(0.0), self.number(6.0))

    def pool(self, kernel: int, stride: int, pad: int, kind: str = "MaxPool") -> Layered:
        self._size = (self._size + 2 * pad - kernel) // stride + 1
        return self.add(kind, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def block(self, made: int, stride: int = 1) -> Layered:
        """Two convolutions beside a skip path, which is a convolution where the size changes."""
        start, channels, size = self._last, self._channels, self._size
        inner = self.conv(made, stride=stride).conv(made, kind="")._last
        if stride > 1 or made != channels:
            self._last, self._channels, self._size = start, channels, size
            start = self.conv(made, kernel=1, stride=stride, kind="")._last
        self._last = inner
        return self.add("Add", start).add("Relu")

    def everywhere(self, kind: str = "GlobalAveragePool") -> Layered:
        """One value of each channel."""
        self._size = 1
        return self.add(kind)

    def classes(self, count: int = 10) -> bytes:
        """The file, with a linear head."""
        features = self._channels * self._size**2
        head, bias = self.weight(count, features, scale=1.0 / np.sqrt(features)), self.weight(count, scale=0.1)
        self.add("Flatten").add("Gemm", head, bias, transB=1)
        self._nodes[-1].output[:] = ["logits"]
        return model_bytes(self._nodes, self._weights, input_shape=("batch", *self._input))


def resnet(width: int, size: int, blocks: int = 3) -> bytes:
    """A residual network of the CIFAR kind: a stem, blocks at full size, one at half of it, the mean over all positions."""
    made = Layered(size).conv(width)
    for _ in range(blocks - 1):
        made.block(width)
    return made.block(2 * width, stride=2).everywhere().classes()
