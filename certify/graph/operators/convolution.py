"""Convolution in one and two dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from certify.graph.operators.base import MAX_TENSOR_ELEMENTS, Node, Operator, spatial_pads

MAX_STEP = 2**20


@dataclass(frozen=True, kw_only=True)
class Window:
    """A sliding window: kernel, strides, dilations, and pads in ONNX order (all begins, then all ends)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @classmethod
    def read(cls, node: Node, kernel: tuple[int, ...], spatial: tuple[int, ...]) -> Window:
        rank = len(kernel)
        if len(spatial) != rank or rank not in (1, 2):
            raise node.reject(f"has a kernel of {rank} axes on examples of {len(spatial)} spatial axes", "use 1-D or 2-D windows")
        if min(kernel) < 1 or tuple(node.attributes.get("kernel_shape") or kernel) != kernel:
            raise node.reject(f"has a kernel of shape {list(kernel)} that its weight or attribute contradicts")
        strides = cls._sizes(node, "strides", rank)
        dilations = cls._sizes(node, "dilations", rank)
        pads = cls._pads(node, kernel, strides, dilations, spatial)
        padded = [size + pads[axis] + pads[rank + axis] for axis, size in enumerate(spatial)]
        # A padded copy may be made: a few bytes of file must not ask for terabytes.
        if math.prod((node.shapes[node.data(0)][0], *padded)) > MAX_TENSOR_ELEMENTS:
            raise node.reject(f"pads its input to {padded}, more than {MAX_TENSOR_ELEMENTS} values")
        return cls(kernel=kernel, strides=strides, dilations=dilations, pads=pads)

    @staticmethod
    def _sizes(node: Node, name: str, rank: int) -> tuple[int, ...]:
        value = tuple(int(v) for v in node.attributes.get(name) or (1,) * rank)
        if len(value) != rank or min(value) < 1 or max(value) > MAX_STEP:
            raise node.reject(f"has {name} {list(value)} for {rank} axes")
        return value

    @staticmethod
    def _pads(
        node: Node, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...], spatial: tuple[int, ...]
    ) -> tuple[int, ...]:
        auto = node.attributes.get("auto_pad", b"NOTSET").decode()
        if auto in ("NOTSET", ""):
            pads = tuple(int(v) for v in node.attributes.get("pads") or (0,) * (2 * len(kernel)))
            if len(pads) != 2 * len(kernel) or min(pads) < 0:
                raise node.reject(f"has pads {list(pads)}")
            return pads
        if auto == "VALID":
            return (0,) * (2 * len(kernel))
        if auto not in ("SAME_UPPER", "SAME_LOWER"):
            raise node.reject(f"has auto_pad {auto!r}")
        begins, ends = [], []
        for k, s, d, size in zip(kernel, strides, dilations, spatial, strict=True):
            total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
            small, large = total // 2, total - total // 2
            begins.append(small if auto == "SAME_UPPER" else large)
            ends.append(large if auto == "SAME_UPPER" else small)
        return (*begins, *ends)

    @property
    def symmetric(self) -> bool:
        half = len(self.pads) // 2
        return self.pads[:half] == self.pads[half:]

    @property
    def begins(self) -> tuple[int, ...]:
        return self.pads[: len(self.kernel)]

    def output(self, node: Node, spatial: tuple[int, ...]) -> tuple[int, ...]:
        half = len(self.kernel)
        sizes = []
        for axis, size in enumerate(spatial):
            padded = size + self.pads[axis] + self.pads[half + axis] - (self.kernel[axis] - 1) * self.dilations[axis] - 1
            if padded < 0:
                raise node.reject(f"has a window larger than its input {list(spatial)}")
            sizes.append(padded // self.strides[axis] + 1)
        return tuple(sizes)


@dataclass(frozen=True, kw_only=True)
class Conv(Operator):
    """Cross-correlation with groups, strides, dilations and zero padding."""

    types = ("Conv",)
    window: Window
    groups: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        weight, shape = node.weight(1), node.shapes[node.data(0)]
        groups = int(node.attributes.get("group", 1))
        if weight.ndim not in (3, 4) or len(shape) != weight.ndim - 1:
            raise node.reject(
                f"has a weight of shape {list(weight.shape)} on examples of shape {list(shape)}", "use 1-D or 2-D convolutions"
            )
        if groups < 1 or shape[0] != weight.shape[1] * groups or weight.shape[0] % groups:
            raise node.reject(f"has a weight of shape {list(weight.shape)} in {groups} groups on {shape[0]} channels")
        window = Window.read(node, tuple(weight.shape[2:]), shape[1:])
        weights: dict[str, Any] = {"weight": weight}
        if node.has(2):
            weights["bias"] = node.weight(2)
            if weights["bias"].shape != (weight.shape[0],):
                raise node.reject(f"has a bias of shape {list(weights['bias'].shape)} for {weight.shape[0]} channels")
        output = (weight.shape[0], *window.output(node, shape[1:]))
        return cls(**cls.common(node, output, weights=weights), window=window, groups=groups)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, *spatial)
        convolve = F.conv2d if len(self.window.kernel) == 2 else F.conv1d
        value, padding = x[0], self.window.begins
        if not self.window.symmetric:
            value, padding = F.pad(value, spatial_pads(list(self.window.pads))), (0,) * len(padding)
        return convolve(value, weights["weight"], weights.get("bias"), self.window.strides, padding, self.window.dilations, self.groups)

    @property
    def unbounded(self) -> str:
        if len(self.window.kernel) == 1:
            return "a 1-D convolution"
        return "" if self.window.symmetric else "a convolution with different padding on opposite sides"
