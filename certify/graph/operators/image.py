"""Operators that move pixels: Resize and Upsample, DepthToSpace and SpaceToDepth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from certify.graph.layout import Layout
from certify.graph.operators.affine import Affine, Maps, along_axes
from certify.graph.operators.base import MAX_TENSOR_ELEMENTS, Array, Node, Operator
from certify.graph.operators.shape import Movement

_MAX_MATRIX = 2**22


@dataclass(frozen=True, kw_only=True)
class DepthToSpace(Movement):
    """Channels to blocks of pixels, or back."""

    types = ("DepthToSpace", "SpaceToDepth")
    split: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape, block = node.shape(), int(node.attributes.get("blocksize", 0))
        if len(shape) != 3 or block < 1:
            raise node.reject(f"has blocksize {block} for examples of shape {list(shape)}")
        c, h, w = shape
        if node.type == "SpaceToDepth":
            if h % block or w % block:
                raise node.reject(f"has blocksize {block} for examples of shape {list(shape)}")
            sizes, split, order = (c * block**2, h // block, w // block), (c, h // block, block, w // block, block), (3, 5, 1, 2, 4)
        else:
            if c % block**2:
                raise node.reject(f"has blocksize {block} for examples of shape {list(shape)}")
            rest = c // block**2
            rows_first = node.attributes.get("mode", b"DCR") == b"DCR"
            split = (block, block, rest, h, w) if rows_first else (rest, block, block, h, w)
            sizes, order = (rest, h * block, w * block), (3, 4, 1, 5, 2) if rows_first else (1, 4, 2, 5, 3)
        return cls(**cls.common(node, Layout.of_example(sizes)), split=split, order=(0, *order))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, height, width)
        return x[0].reshape(-1, *self.split).permute(self.order).reshape(-1, *self.shape)

    @property
    def unbounded(self) -> str:
        return ""  # reshapes and a transpose as they are


@dataclass(frozen=True, kw_only=True)
class Resize(Affine):
    """Each axis by its own matrix of interpolation weights, which does not depend on the data."""

    types = ("Resize", "Upsample")
    dims: tuple[int, ...]

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout = node.layout()
        targets = _targets(node, layout)
        output = layout.resized(size for size, _ in targets)
        common = cls.common(node, output)
        weights = {}
        # Axes that shrink come first, so that nothing on the way is larger than both ends.
        for axis, (size, scale) in sorted(enumerate(targets), key=lambda target: target[1][0] / layout.sizes[target[0]]):
            if size != layout.sizes[axis] or scale != 1.0:
                node.axis(axis)
                if size * layout.sizes[axis] > _MAX_MATRIX:
                    raise node.reject(f"resizes an axis of {layout.sizes[axis]} to {size}")
                weights[str(layout.position(axis) + 1)] = _matrix(node, layout.sizes[axis], size, scale)
        return cls(**{**common, "weights": weights}, dims=tuple(map(int, weights)))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        value = x[0]
        for dim in self.dims:
            value = (value.transpose(dim, -1) @ weights[str(dim)].T).transpose(dim, -1)
        return value

    def maps(self) -> Maps:
        return (along_axes(self.sources[0], {dim: (len(self.weights[str(dim)]), partial(self._along, dim)) for dim in self.dims}),)

    def _along(self, dim: int) -> Array:
        return self.weights[str(dim)]

    @property
    def flops(self) -> int:
        return sum(2 * math.prod(self.shape) * matrix.shape[1] for matrix in self.weights.values())


def _targets(node: Node, layout: Layout) -> list[tuple[int, float]]:
    """Size and scale of each ONNX axis of the result."""
    attributes = node.attributes
    if attributes.get("antialias", 0) or attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise node.reject("with antialias or a fixed aspect ratio is not supported")
    place = {"Upsample": 1, "Resize": 1 if node.opset < 11 else 2}[node.type]
    axes = [int(v) for v in attributes.get("axes") or range(layout.rank)]
    if sorted(axis % layout.rank for axis in axes) != sorted({axis % layout.rank for axis in axes}):
        raise node.reject("names an axis twice")
    found = [(size, 1.0) for size in layout.sizes]
    scales = attributes.get("scales")
    if node.has(place) and node.constant(place).size:
        scales = node.constant(place).reshape(-1)
    if scales is not None:
        if len(scales) != len(axes) or not all(0 < float(scale) <= MAX_TENSOR_ELEMENTS for scale in scales):
            raise node.reject(f"has {len(scales)} scales for {len(axes)} axes, or a scale that is out of range")
        for axis, scale in zip(axes, scales, strict=True):
            found[axis] = (math.floor(layout.sizes[axis] * float(scale)), float(scale))
        return found
    given = node.sizes_at_every_batch(3)
    sizes = [int(v) for v in given.at(1).reshape(-1)]
    for place in np.flatnonzero(given.depends.reshape(-1)).tolist():
        if place >= len(axes) or layout.normal(axes[place]) != layout.batch or not given.is_length(place, layout):
            raise node.by_batch_size(3)
    if len(sizes) != len(axes) or min(sizes) < 1 or max(sizes) > MAX_TENSOR_ELEMENTS:
        raise node.reject(f"has {len(sizes)} sizes for {len(axes)} axes, or a size that is out of range")
    for axis, size in zip(axes, sizes, strict=True):
        found[axis] = (size, size / layout.sizes[axis])
    return found


def _matrix(node: Node, size: int, wanted: int, scale: float) -> Array:
    """Interpolation weights, (wanted, size), as the ONNX standard defines them."""
    mode = node.attributes.get("mode", b"nearest").decode()
    old = node.opset < 11 or node.type == "Upsample"
    place = "asymmetric" if old else node.attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    x = _coordinates(node, place, size, wanted, scale)
    matrix, rows = np.zeros((wanted, size)), np.arange(wanted)
    if mode == "nearest":
        how = "floor" if old else node.attributes.get("nearest_mode", b"round_prefer_floor").decode()
        rounding: dict[str, Callable[[Array], Array]] = {
            "round_prefer_floor": lambda v: np.ceil(v - 0.5),
            "round_prefer_ceil": lambda v: np.floor(v + 0.5),
            "floor": np.floor,
            "ceil": np.ceil,
        }
        if how not in rounding:
            raise node.reject(f"with nearest_mode {how[:30]!r} is not supported")
        matrix[rows, np.clip(rounding[how](x), 0, size - 1).astype(int)] = 1.0
    elif mode in ("linear", "bilinear"):
        x = np.clip(x, 0, size - 1)
        low = np.minimum(np.floor(x), max(size - 2, 0)).astype(int)
        np.add.at(matrix, (rows, low), 1 - (x - low))
        np.add.at(matrix, (rows, np.minimum(low + 1, size - 1)), x - low)
    elif mode == "cubic" and not node.attributes.get("exclude_outside", 0):
        _cubic(matrix, x, float(node.attributes.get("cubic_coeff_a", -0.75)))
    else:
        raise node.reject(f"with mode {mode[:20]!r} is not supported", "use nearest, bilinear or bicubic interpolation")
    return matrix.astype(np.float32)


def _cubic(matrix: Array, x: Array, a: float) -> None:
    """Keys' convolution kernel over four neighbours; those beyond the edge are the edge."""
    low, rows = np.floor(x).astype(int), np.arange(len(x))
    for neighbour in range(-1, 3):
        t = np.abs(x - (low + neighbour))
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        np.add.at(matrix, (rows, np.clip(low + neighbour, 0, matrix.shape[1] - 1)), np.where(t <= 1, near, far))


def _coordinates(node: Node, place: str, size: int, wanted: int, scale: Any) -> Array:
    """Where each value of the result lies among the values it is made of."""
    # In float32, as runtimes do it: a place that is an integer but for rounding falls on the same side.
    rows, scale, half = np.arange(wanted, dtype=np.float32), np.float32(scale), np.float32(0.5)
    places: dict[str, Callable[[], Array]] = {
        "asymmetric": lambda: rows / scale,
        "align_corners": lambda: rows * np.float32(size - 1) / np.float32(max(1, wanted - 1)),
        "half_pixel": lambda: (rows + half) / scale - half,
        "pytorch_half_pixel": lambda: (rows + half) / scale - half if wanted > 1 else np.zeros(1, np.float32),
        "half_pixel_symmetric": lambda: size / 2 * (1 - wanted / (scale * size)) + (rows + half) / scale - half,
    }
    if place not in places:
        raise node.reject(f"with coordinate_transformation_mode {place[:30]!r} is not supported")
    return places[place]()
