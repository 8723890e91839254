"""Operators that move pixels: Resize and Upsample, DepthToSpace and SpaceToDepth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np
from torch import Tensor

from certify.graph.layout import Layout
from certify.graph.operators.affine import Affine, Maps, along_axes
from certify.graph.operators.base import MAX_TENSOR_ELEMENTS, Array, Node, Operator
from certify.graph.operators.interpolation import loose, matrix
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
        found = {}
        # Axes that shrink come first, so that nothing on the way is larger than both ends.
        for axis, (size, scale) in sorted(enumerate(targets), key=lambda target: target[1][0] / layout.sizes[target[0]]):
            if size != layout.sizes[axis] or scale != 1:
                node.axis(axis)
                if size * layout.sizes[axis] > _MAX_MATRIX:
                    raise node.reject(f"resizes an axis of {layout.sizes[axis]} to {size}")
                found[str(layout.position(axis) + 1)] = matrix(node, layout.sizes[axis], size, scale)
        weights = {dim: made.weights for dim, made in found.items()}
        return cls(**{**common, "weights": weights}, dims=tuple(map(int, weights)), loose=loose(found))

    @property
    def follows(self) -> bool:
        return False  # what a file computes decides places here; the weights that are made of them have errors of their own

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


def _targets(node: Node, layout: Layout) -> list[tuple[int, Fraction]]:
    """Size and scale of each ONNX axis of the result."""
    attributes = node.attributes
    if attributes.get("antialias", 0) or attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise node.reject("with antialias or a fixed aspect ratio is not supported")
    place = {"Upsample": 1, "Resize": 1 if node.opset < 11 else 2}[node.type]
    axes = [int(v) for v in attributes.get("axes") or range(layout.rank)]
    if sorted(axis % layout.rank for axis in axes) != sorted({axis % layout.rank for axis in axes}):
        raise node.reject("names an axis twice")
    found = [(size, Fraction(1)) for size in layout.sizes]
    scales = attributes.get("scales")
    if node.has(place) and node.constant(place).size:
        scales = node.constant(place).reshape(-1)
    if scales is not None:
        if len(scales) != len(axes) or not all(0 < float(scale) <= MAX_TENSOR_ELEMENTS for scale in scales):
            raise node.reject(f"has {len(scales)} scales for {len(axes)} axes, or a scale that is out of range")
        for axis, scale in zip(axes, scales, strict=True):
            found[axis] = (math.floor(layout.sizes[axis] * float(scale)), Fraction(float(scale)))
        return found
    given = node.sizes_at_every_batch(3)
    sizes = [int(v) for v in given.at(1).reshape(-1)]
    for place in np.flatnonzero(given.depends.reshape(-1)).tolist():
        if place >= len(axes) or layout.normal(axes[place]) != layout.batch or not given.is_length(place, layout):
            raise node.by_batch_size(3)
    if len(sizes) != len(axes) or min(sizes) < 1 or max(sizes) > MAX_TENSOR_ELEMENTS:
        raise node.reject(f"has {len(sizes)} sizes for {len(axes)} axes, or a size that is out of range")
    for axis, size in zip(axes, sizes, strict=True):
        found[axis] = (size, Fraction(size, layout.sizes[axis]))
    return found
