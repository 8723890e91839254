"""Pad: axes made longer, or cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from certify.graph.layout import Layout
from certify.graph.operators.affine import Affine, Maps
from certify.graph.operators.base import MAX_TENSOR_ELEMENTS, Array, Node, Operator
from certify.graph.operators.select import picked
from certify.graph.operators.shape import Movement
from certify.lipschitz.parts import Chain

_NUMPY_MODES: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@dataclass(frozen=True, kw_only=True)
class Pad(Affine, Movement):
    """Axes made longer by a constant, or by values of the example itself (`index_`, places along an axis); or cut."""

    types = ("Pad",)
    pads: tuple[int, ...]  # in the order of torch
    value: float
    along: tuple[int, ...]

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout, mode = node.layout(), node.attributes.get("mode", b"constant").decode()
        begins, ends = _pads(node, layout)
        sizes = tuple(b + size + e for b, size, e in zip(begins, layout.sizes, ends, strict=True))
        output = layout.resized(sizes)
        kept = layout.own
        if mode == "constant":
            pads = tuple(side[axis] for axis in reversed(kept) for side in (begins, ends))
            return cls(**cls.common(node, output), pads=pads, value=_fill(node), along=())
        if mode not in _NUMPY_MODES or (
            mode == "reflect" and any(max(b, e) >= n for b, e, n in zip(begins, ends, layout.sizes, strict=True))
        ):
            raise node.reject(f"with mode {mode[:20]!r} is not supported for these sizes")
        if min(*begins, *ends) < 0:
            raise node.reject(f"with mode {mode!r} and negative pads is not supported")
        common = cls.common(node, output)
        weights = {
            str(layout.position(axis) + 1): np.pad(np.arange(layout.sizes[axis]), (begins[axis], ends[axis]), mode=_NUMPY_MODES[mode])
            for axis in kept
            if begins[axis] or ends[axis]
        }
        return cls(**{**common, "weights": weights}, pads=(), value=0.0, along=tuple(map(int, weights)))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        if not self.along:
            return F.pad(x[0], self.pads, value=self.value)
        value = x[0]
        for dim in self.along:
            value = value.index_select(dim, weights[str(dim)])
        return value

    @property
    def unbounded(self) -> str:
        return super().unbounded if np.isfinite(self.value) else "padding with infinity"

    def parts(self) -> tuple[Chain, ...]:
        if not np.isfinite(self.value):
            raise self.no_constant("padding with infinity")
        return super().parts()

    def maps(self) -> Maps:
        if self.along:
            return (picked(self.sources[0], {dim: self.weights[str(dim)] for dim in self.along}),)
        return (picked(self.sources[0], self._places()),)

    def offset(self) -> Array | None:
        """The fill value wherever an axis lies outside the example."""
        if self.along or not self.value:
            return None
        outside = np.zeros(self.shape, dtype=bool)
        for dim, places in self._places().items():
            outside |= (places < 0).reshape(-1, *(1,) * (len(self.shape) - dim))
        return np.where(outside, self.value, 0.0)

    def _places(self) -> dict[int, Array]:
        """For each axis where each value comes from; -1 where it is filled in."""
        shape, found = self.sources[0], {}
        for dim, size in enumerate(shape, start=1):
            begin, end = self.pads[2 * (len(shape) - dim) : 2 * (len(shape) - dim) + 2]
            places = np.arange(-begin, size + end)
            found[dim] = np.where(places < size, places, -1).clip(min=-1)
        return found


def _pads(node: Node, layout: Layout) -> tuple[list[int], list[int]]:
    """How much each ONNX axis grows at its beginning and at its end."""
    pads = node.integers(1, "pads") or []
    axes = node.integers(3, "axes") if node.has(3) else list(range(layout.rank))
    if axes is None or len(pads) != 2 * len(axes) or len(axes) > layout.rank or any(abs(pad) > MAX_TENSOR_ELEMENTS for pad in pads):
        raise node.reject(f"has {len(pads)} pads for {layout.rank} axes, or pads that are too large")
    begins, ends = [0] * layout.rank, [0] * layout.rank
    for i, axis in enumerate(axes):
        if pads[i] or pads[len(axes) + i]:
            place = node.axis(axis)
            begins[place], ends[place] = pads[i], pads[len(axes) + i]
    return begins, ends


def _fill(node: Node) -> float:
    if node.has(2):
        value = node.constant(2)
        if value.size != 1:
            raise node.reject("has several fill values")
        return float(value.reshape(-1)[0])
    return float(node.attributes.get("value", 0.0))
