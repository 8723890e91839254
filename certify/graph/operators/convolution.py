"""Convolution in one, two and three dimensions, and its transpose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from certify.graph.layout import Layout
from certify.graph.operators.affine import MAX_MATRIX, Dense
from certify.graph.operators.base import MAX_TENSOR_ELEMENTS, Array, Node, Operator, spatial_pads
from certify.lipschitz.parts import Chain, Filtered, Transposed

MAX_STEP = 2**20
MAX_SPREAD = 256  # strides and dilations of a transposed convolution


def step_sizes(node: Node, name: str, rank: int) -> tuple[int, ...]:
    """Strides or dilations: one for each axis, 1 by default."""
    value = tuple(int(v) for v in node.attributes.get(name) or (1,) * rank)
    if len(value) != rank or min(value) < 1 or max(value) > MAX_STEP:
        raise node.reject(f"has {name} {list(value)[:8]} for {rank} axes")
    return value


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
        if len(spatial) != rank or rank not in (1, 2, 3):
            raise node.reject(f"has a kernel of {rank} axes on examples of {len(spatial)} spatial axes", "use 1-D, 2-D or 3-D windows")
        if min(kernel) < 1 or tuple(node.attributes.get("kernel_shape") or kernel) != kernel:
            raise node.reject(f"has a kernel of shape {list(kernel)} that its weight or attribute contradicts")
        strides = step_sizes(node, "strides", rank)
        dilations = step_sizes(node, "dilations", rank)
        pads = cls._pads(node, kernel, strides, dilations, spatial)
        padded = [size + pads[axis] + pads[rank + axis] for axis, size in enumerate(spatial)]
        # A padded copy may be made: a few bytes of file must not ask for terabytes.
        if math.prod((node.shape()[0], *padded)) > MAX_TENSOR_ELEMENTS:
            raise node.reject(f"pads its input to {padded}, more than {MAX_TENSOR_ELEMENTS} values")
        return cls(kernel=kernel, strides=strides, dilations=dilations, pads=pads)

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


def _filters(node: Node) -> tuple[dict[str, Array], int]:
    """Weight and bias, and the number of groups."""
    weight, shape = node.weight(1), node.shape()
    if weight.ndim not in (3, 4, 5) or len(shape) != weight.ndim - 1:
        raise node.reject(
            f"has a weight of shape {list(weight.shape)} on examples of shape {list(shape)}", "use 1-D, 2-D or 3-D convolutions"
        )
    groups = int(node.attributes.get("group", 1))
    per_group, features = weight.shape[1], weight.shape[0]
    channels = per_group * groups if node.type == "Conv" else features
    if groups < 1 or shape[0] != channels or features % groups:
        raise node.reject(f"has a weight of shape {list(weight.shape)} in {groups} groups on {shape[0]} channels")
    made = features if node.type == "Conv" else per_group * groups
    weights = {"weight": weight}
    if node.has(2):
        weights["bias"] = node.weight(2)
        if weights["bias"].shape != (made,):
            raise node.reject(f"has a bias of shape {list(weights['bias'].shape)} for {made} channels")
    return weights, groups


@dataclass(frozen=True, kw_only=True)
class Conv(Dense):
    """Cross-correlation with groups, strides, dilations and zero padding."""

    types = ("Conv",)
    window: Window
    groups: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        weights, groups = _filters(node)
        spatial = node.shape()[1:]
        window = Window.read(node, tuple(weights["weight"].shape[2:]), spatial)
        layout = Layout.of_example((weights["weight"].shape[0], *window.output(node, spatial)))
        return cls(**cls.common(node, layout, weights=weights), window=window, groups=groups)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, *spatial)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.window.kernel) - 1]
        value, padding = x[0], self.window.begins
        if not self.window.symmetric:
            value, padding = F.pad(value, spatial_pads(list(self.window.pads))), (0,) * len(padding)
        return convolve(value, weights["weight"], weights.get("bias"), self.window.strides, padding, self.window.dilations, self.groups)

    @property
    def follows(self) -> bool:
        return True

    def parts(self) -> tuple[Chain, ...]:
        window, half = self.window, len(self.window.kernel)
        sides = (window.pads[:half], window.pads[half:])
        sizes = (self.sources[0][1:], self.shape[1:])
        return ((Filtered(self.weights["weight"], *sizes, window.strides, window.dilations, *sides, self.groups),),)

    @property
    def unbounded(self) -> str:
        if len(self.window.kernel) == 3:
            return super().unbounded
        grown = math.prod(self.weights["weight"].shape[:2]) * math.prod(self._grown().kernel)
        return "" if grown <= MAX_MATRIX else f"a convolution that needs {grown} weights, more than {MAX_MATRIX}, to be padded evenly"

    def for_bounds(self) -> Operator:
        """Convolutions in one dimension get a second one of length 1; those in three are read off as a matrix."""
        if len(self.window.kernel) == 3:
            return super().for_bounds()
        if len(self.window.kernel) == 2 and self._even:
            return self
        window, bias = self._grown(), {name: value for name, value in self.weights.items() if name == "bias"}
        weight = self.weights["weight"].astype(np.float64)
        filters = np.zeros((*weight.shape[:2], *window.kernel))
        steps = zip(self.window.begins, self.window.kernel, self.window.dilations, window.begins, strict=True)
        taps = tuple(slice(even - begin, even - begin + (k - 1) * d + 1, d) for begin, k, d, even in steps)
        filters[(slice(None), slice(None), *taps)] = weight
        flat = len(window.kernel) == 1
        return EvenConv(
            type="EvenConv",
            name=self.name,
            inputs=self.inputs,
            output=self.output,
            layout=self.layout,
            sources=self.sources,
            weights={"weight": filters[..., None] if flat else filters, **bias},
            strides=window.strides,
            pads=window.begins,
            groups=self.groups,
            flat=flat,
        )

    @property
    def _even(self) -> bool:
        """In the form that the bound engine knows: the same padding on opposite sides and the same dilation on both axes."""
        return self.window.symmetric and len(set(self.window.dilations)) == 1

    def _grown(self) -> Window:
        """The same convolution without dilations, evenly padded: the kernel has zeros between its taps and on the shorter side."""
        window = self.window
        if self._even and len(window.kernel) == 2:
            return window
        half = len(window.kernel)
        begins, ends = window.pads[:half], window.pads[half:]
        even = tuple(max(pair) for pair in zip(begins, ends, strict=True))
        reach = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
        kernel = tuple(r + 2 * p - b - e for r, p, b, e in zip(reach, even, begins, ends, strict=True))
        return replace(window, kernel=kernel, dilations=(1,) * half, pads=even * 2)

    @property
    def flops(self) -> int:
        return 2 * math.prod(self.shape) * math.prod(map(int, self.weights["weight"].shape[1:]))


@dataclass(frozen=True, kw_only=True)
class EvenConv(Operator):
    """A 2-D convolution without dilations, padded by the same on opposite sides; `flat` when the second axis is only there for it."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int
    flat: bool

    @classmethod
    def read(cls, node: Node) -> Operator:
        raise node.reject("is not an ONNX operator")

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, *spatial)
        if not self.flat:
            return F.conv2d(x[0], weights["weight"], weights.get("bias"), self.strides, self.pads, 1, self.groups)
        image = x[0].reshape(-1, *self.sources[0], 1)
        made = F.conv2d(image, weights["weight"], weights.get("bias"), (*self.strides, 1), (*self.pads, 0), 1, self.groups)
        return made.reshape(-1, *self.shape)

    @property
    def unbounded(self) -> str:
        return ""


@dataclass(frozen=True, kw_only=True)
class ConvTranspose(Dense):
    """The transpose of a convolution: spreads each value over a window; `crops` are cut off (begins, then ends; below zero: added)."""

    types = ("ConvTranspose",)
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    crops: tuple[int, ...]
    groups: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        weights, groups = _filters(node)
        kernel, spatial = tuple(weights["weight"].shape[2:]), node.shape()[1:]
        if tuple(node.attributes.get("kernel_shape") or kernel) != kernel:
            raise node.reject("has a kernel_shape that its weight contradicts")
        rank = len(kernel)
        strides, dilations = step_sizes(node, "strides", rank), step_sizes(node, "dilations", rank)
        if max(*strides, *dilations) > MAX_SPREAD:  # the time of torch's kernels grows with the square of the stride
            raise node.reject(f"has strides {list(strides)} and dilations {list(dilations)}, more than {MAX_SPREAD}")
        full = tuple((size - 1) * s + (k - 1) * d + 1 for size, s, k, d in zip(spatial, strides, kernel, dilations, strict=True))
        channels = weights["weight"].shape[1] * groups
        cls.common(node, Layout.of_example((channels, *full)))  # made before it is cropped
        crops = _crops(node, spatial, strides, full)
        sizes = tuple(size - crops[axis] - crops[rank + axis] for axis, size in enumerate(full))
        layout = Layout.of_example((channels, *sizes))
        made = channels * math.prod(full)
        common = cls.common(node, layout, weights=weights)
        return cls(**common, strides=strides, dilations=dilations, crops=crops, groups=groups, on_the_way=made)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, *spatial)
        spread = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(self.strides) - 1]
        full = spread(x[0], weights["weight"], None, self.strides, 0, 0, self.groups, self.dilations)
        value = F.pad(full, [-crop for crop in spatial_pads(list(self.crops))])
        return value + weights["bias"].reshape(-1, *(1,) * len(self.strides)) if "bias" in weights else value

    @property
    def follows(self) -> bool:
        return True

    def parts(self) -> tuple[Chain, ...]:
        half = len(self.strides)
        sides = (self.crops[:half], self.crops[half:])
        sizes = (self.shape[1:], self.sources[0][1:])
        return ((Transposed(Filtered(self.weights["weight"], *sizes, self.strides, self.dilations, *sides, self.groups)),),)

    @property
    def flops(self) -> int:
        taps = math.prod(-(-int(k) // s) for k, s in zip(self.weights["weight"].shape[2:], self.strides, strict=True))
        channels = int(self.weights["weight"].shape[0]) // self.groups
        return 2 * self.on_the_way * taps * channels


def _crops(node: Node, spatial: tuple[int, ...], strides: tuple[int, ...], full: tuple[int, ...]) -> tuple[int, ...]:
    rank = len(full)
    extra = [int(v) for v in node.attributes.get("output_padding") or (0,) * rank]
    pads = [int(v) for v in node.attributes.get("pads") or (0,) * (2 * rank)]
    wanted = [int(v) for v in node.attributes.get("output_shape") or ()][-rank:]
    auto = node.attributes.get("auto_pad", b"NOTSET").decode()
    if (
        len(extra) != rank
        or len(pads) != 2 * rank
        or min(*pads, *extra) < 0
        or max(*pads, *extra) > MAX_STEP
        or auto[:4] not in ("", "NOTS", "VALI", "SAME")
    ):
        raise node.reject(f"has pads {pads[:8]}, output_padding {extra[:8]} or auto_pad {auto[:20]!r}")
    if auto.startswith("SAME") and not wanted:
        wanted = [size * s for size, s in zip(spatial, strides, strict=True)]
    if not wanted:
        return tuple(pads[:rank] + [end - more for end, more in zip(pads[rank:], extra, strict=True)])
    if len(wanted) != rank:
        raise node.reject(f"has output_shape {wanted}")
    totals = [size - want for size, want in zip(full, wanted, strict=True)]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return tuple(small + large if auto == "SAME_UPPER" else large + small)
