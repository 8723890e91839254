"""Pooling over windows and over all positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from certify.graph.layout import Layout, Shape
from certify.graph.operators.affine import Affine, Along, LinearForm, Maps, along_axes, apply_along, linear_form, picks, too_large
from certify.graph.operators.base import Array, Node, Operator, spatial_pads
from certify.graph.operators.convolution import Window
from certify.lipschitz.parts import Chain, Spread


def _window(node: Node) -> tuple[Window, tuple[int, ...]]:
    """The window, and how far the last ones reach over the padded edge on each axis (ceil_mode)."""
    kernel = tuple(int(v) for v in node.attributes.get("kernel_shape") or ())
    spatial = node.shape()[1:]
    window = Window.read(node, kernel, spatial)
    if any(pad >= k for pad, k in zip(window.pads, window.kernel * 2, strict=True)):
        raise node.reject(f"has pads {list(window.pads)} as large as its kernel {list(kernel)}")
    if node.attributes.get("storage_order", 0):
        raise node.reject("with storage_order is not supported")
    over = tuple(_overhang(window, axis, size) if node.attributes.get("ceil_mode", 0) else 0 for axis, size in enumerate(spatial))
    return window, over


def _overhang(window: Window, axis: int, size: int) -> int:
    """By how much a last, partial window reaches over; one that would start in the padding at the end does not count."""
    half, stride = len(window.kernel), window.strides[axis]
    room = size + window.pads[axis] + window.pads[half + axis] - (window.kernel[axis] - 1) * window.dilations[axis] - 1
    steps = -(-room // stride)
    if room < 0 or steps * stride >= size + window.pads[axis]:
        return 0
    return steps * stride - room


def _stretched(window: Window, over: tuple[int, ...]) -> Window:
    half = len(window.kernel)
    return replace(window, pads=window.pads[:half] + tuple(e + o for e, o in zip(window.pads[half:], over, strict=True)))


@dataclass(frozen=True, kw_only=True)
class MaxPool(Operator):
    """The largest value of each window; padding never wins."""

    relaxed: ClassVar[bool] = True

    types = ("MaxPool",)
    window: Window

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape, (plain, over) = node.shape(), _window(node)
        window = _stretched(plain, over)
        if not np.all(_counts(plain, over, shape[1:], False)):
            raise node.reject("has windows without any value")
        return cls(**cls.common(node, Layout.of_example((shape[0], *window.output(node, shape[1:])))), window=window)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, *spatial)
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(self.window.kernel) - 1]
        value = x[0]
        if any(self.window.pads):
            value = F.pad(value, spatial_pads(list(self.window.pads)), value=float("-inf"))
        return pool(value, self.window.kernel, self.window.strides, 0, self.window.dilations)

    def lipschitz(self) -> float:
        """The square root of how many windows hold the same value: a maximum moves by no more than one value of its window."""
        shared = 1
        for made, k, s, d in zip(self.shape[1:], self.window.kernel, self.window.strides, self.window.dilations, strict=True):
            # Taps that reach the same place from different windows are s / gcd(s, d) apart.
            shared *= min(made, -(-k * math.gcd(s, d) // s))
        return math.sqrt(shared) * (1 + 1e-12)

    @property
    def unbounded(self) -> str:
        if len(self.window.kernel) == 3:
            return "max pooling over three axes"
        return "" if self._apart else too_large(self.type, (self._windows(),))

    def for_bounds(self) -> Operator:
        """Windows that overlap, are padded or dilated are laid out one beside the other first."""
        if self._apart:
            return self
        kernel = self.window.kernel
        view = (self.shape[0], *(made * k for made, k in zip(self.shape[1:], kernel, strict=True)))
        flat = len(kernel) == 1
        return MaxOfWindows.of_steps(self, self._windows(), (*view, 1) if flat else view, (*kernel, 1) if flat else kernel)

    @property
    def _apart(self) -> bool:
        """In the form that the bound engine knows; it drops what is left over at the edges only where both axes have some."""
        fits = all(made * k == size for made, k, size in zip(self.shape[1:], self.window.kernel, self.sources[0][1:], strict=True))
        plain = self.window.kernel == self.window.strides and not any(self.window.pads) and set(self.window.dilations) == {1}
        return fits and plain and len(self.window.kernel) == 2

    def _windows(self) -> tuple[Along, ...]:
        sizes = zip(self.shape[1:], self.window.kernel, self.sources[0][1:], strict=True)
        axes = {2 + i: (made * k, partial(_laid_out, self.window, i, made, size)) for i, (made, k, size) in enumerate(sizes)}
        return along_axes(self.sources[0], axes)

    @property
    def flops(self) -> int:
        return math.prod(self.shape) * math.prod(self.window.kernel)


def _laid_out(window: Window, axis: int, made: int, length: int) -> Array:
    """Along one axis the values of each window in turn; the padding repeats a value of the window, which changes no maximum."""
    starts = np.arange(made) * window.strides[axis] - window.begins[axis]
    places = starts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
    inside = (places >= 0) & (places < length)
    first = places[np.arange(made), inside.argmax(axis=1)]
    return picks(np.where(inside, places, first[:, None]).reshape(-1), length)


@dataclass(frozen=True, kw_only=True)
class MaxOfWindows(LinearForm):
    """Values laid out by fixed maps, then the maximum of each window: windows side by side, all of `kernel`, nothing left over."""

    view: Shape
    kernel: tuple[int, ...]

    @classmethod
    def of_steps(cls, operator: Operator, steps: tuple[Along, ...], view: Shape, kernel: tuple[int, ...]) -> Operator:
        form = linear_form(operator, (steps,))
        fields = {name: getattr(form, name) for name in ("name", "inputs", "output", "layout", "sources", "weights", "steps")}
        return cls(**fields, type="MaxOfWindows", view=view, kernel=kernel)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, *spatial)
        value = x[0]
        for k, step in enumerate(self.steps[0]):
            value = apply_along(value, weights[f"0_{k}"], *step)
        return F.max_pool2d(value.reshape(-1, *self.view), self.kernel, self.kernel).reshape(-1, *self.shape)


@dataclass(frozen=True, kw_only=True)
class AveragePool(Affine):
    """The sum of each window over `share`: the number of values in it, the zeros of the padding counted or not."""

    types = ("AveragePool",)
    window: Window
    even: bool  # every window holds the same number of values

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape, (plain, over) = node.shape(), _window(node)
        if set(plain.dilations) != {1}:
            raise node.reject("with dilations is not supported")
        window = _stretched(plain, over)
        sizes = window.output(node, shape[1:])
        counts = _counts(plain, over, shape[1:], bool(node.attributes.get("count_include_pad", 0)))
        layout = Layout.of_example((shape[0], *sizes))
        even = bool(np.all(counts == math.prod(window.kernel)))
        weights = {} if even else {"share": (math.prod(window.kernel) / counts).astype(np.float64)}
        return cls(**cls.common(node, layout, weights=weights), window=window, even=even)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, *spatial)
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(self.window.kernel) - 1]
        value = F.pad(x[0], spatial_pads(list(self.window.pads))) if any(self.window.pads) else x[0]
        mean: Tensor = pool(value, self.window.kernel, self.window.strides)
        return mean if self.even else mean * weights["share"]

    def maps(self) -> Maps:
        """The mean of the windows of each axis, the zeros of the padding counted; `share` makes up for those that do not count."""
        found = {}
        for axis in range(len(self.window.kernel)):
            made, length = self.shape[1 + axis], self.sources[0][1 + axis]
            found[2 + axis] = (made, partial(_means, self.window, axis, made, length))
        return (along_axes(self.sources[0], found),)

    def scale(self) -> Array | None:
        return self.weights.get("share")

    def parts(self) -> tuple[Chain, ...]:
        """The share is a product over the axes, so that each can have its own: then the product of the norms is the norm."""
        if self.even:
            return super().parts()
        (steps,), share = self.maps(), self.weights["share"]
        lines = [share[tuple(slice(None) if other == axis else 0 for other in range(share.ndim))] for axis in range(share.ndim)]
        lines = [line if axis == 0 else line / line[0] for axis, line in enumerate(lines)]
        return (tuple(Spread(*step[:4], partial(_shared, step, line), 8) for step, line in zip(steps, lines, strict=True)),)

    @property
    def flops(self) -> int:
        return math.prod(self.shape) * math.prod(self.window.kernel)


def _shared(step: Along, line: Array) -> Array:
    """The matrix of a step with a factor for each row."""
    matrix: Array = step.matrix() * line[:, None]
    return matrix


def _means(window: Window, axis: int, made: int, length: int) -> Array:
    """Along one axis the mean of each window, padding counted as zeros: (made, length)."""
    starts = (np.arange(made) * window.strides[axis] - window.begins[axis])[:, None]
    places, kernel = np.arange(length), window.kernel[axis]
    matrix: Array = ((places >= starts) & (places < starts + kernel)) / kernel
    return matrix


def _counts(window: Window, over: tuple[int, ...], spatial: tuple[int, ...], count_padding: bool) -> Array:
    """How many values each window holds; what a partial last window has beyond the padding never counts."""
    half, counts = len(spatial), np.ones((), dtype=np.float64)
    for axis, size in enumerate(spatial):
        begin, end = window.pads[axis], window.pads[half + axis]
        line = np.zeros(begin + size + end + over[axis])
        line[0 if count_padding else begin : begin + size + (end if count_padding else 0)] = 1.0
        counts = counts[..., None] * _sums(line, window.kernel[axis], window.dilations[axis])[:: window.strides[axis]]
    return counts


def _sums(line: Array, kernel: int, dilation: int) -> Array:
    """The sum of each window over a line, in time that does not grow with the kernel: differences of running sums."""
    rows = -(-len(line) // dilation)
    grid = np.zeros(rows * dilation)
    grid[: len(line)] = line
    running = np.concatenate([np.zeros((1, dilation)), grid.reshape(rows, dilation).cumsum(axis=0)])
    sums: Array = (running[kernel:] - running[:-kernel]).reshape(-1)
    return sums[: len(line) - (kernel - 1) * dilation]


@dataclass(frozen=True, kw_only=True)
class GlobalPool(Affine):
    """The mean or the maximum over all positions of each channel."""

    types = ("GlobalAveragePool", "GlobalMaxPool")

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape = node.shape()
        if len(shape) not in (2, 3, 4):
            raise node.reject(f"on examples of shape {list(shape)} is not supported", "use it on (channels, height, width)")
        return cls(**cls.common(node, Layout.of_example((shape[0], *(1,) * (len(shape) - 1)))))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, *spatial)
        if self.type == "GlobalMaxPool":
            return x[0].flatten(2).amax(-1).reshape(-1, *self.shape)
        # The form auto-LiRPA knows; the plain mean where it does not apply.
        return F.adaptive_avg_pool2d(x[0], 1) if x[0].dim() == 4 else x[0].flatten(2).mean(-1).reshape(-1, *self.shape)

    def parts(self) -> tuple[Chain, ...]:
        return () if self.type == "GlobalMaxPool" else super().parts()

    def lipschitz(self) -> float:
        return 1.0  # a maximum moves by no more than one of its values

    @property
    def unbounded(self) -> str:
        return "" if self.type == "GlobalMaxPool" else super().unbounded

    def maps(self) -> Maps:
        channels, count = self.shape[0], math.prod(self.sources[0][1:])
        return ((Along(channels, count, 1, 1, lambda: np.full((1, count), 1 / count)),),)

    def for_bounds(self) -> Operator:
        count = math.prod(self.sources[0][1:])
        if self.type == "GlobalMaxPool":
            return MaxOfWindows.of_steps(self, (), (self.shape[0], count, 1), (count, 1))
        return self if len(self.shape) == 3 else super().for_bounds()
