"""Operators that give the values of an example other axes and never compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from certify.graph.batch_size import BatchConstant, resolved
from certify.graph.layout import Layout, Shape
from certify.graph.operators.base import MAX_RANK, Node, Operator
from certify.lipschitz.parts import Chain, Moved


@dataclass(frozen=True, kw_only=True)
class Movement(Operator):
    """What moves values: linear, exact, and free."""

    def parts(self) -> tuple[Chain, ...]:
        return ((Moved(lambda x: self.evaluate({}, x)),),)

    @property
    def flops(self) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class Reshape(Movement):
    """Another shape for the values of each example: Reshape, Flatten, Squeeze, Unsqueeze."""

    types = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout = {"Reshape": _reshaped, "Flatten": _flattened, "Squeeze": _squeezed, "Unsqueeze": _unsqueezed}[node.type](node)
        return cls(**cls.common(node, layout))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        return x[0].flatten(1) if len(self.shape) == 1 else x[0].reshape(-1, *self.shape)

    @property
    def unbounded(self) -> str:
        return ""


@dataclass(frozen=True, kw_only=True)
class Transpose(Movement):
    """Axes of each example in another order; where the batch stands in the file does not matter at run time."""

    types = ("Transpose",)
    order: tuple[int, ...]

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout = node.layout()
        order = [int(v) for v in node.attributes.get("perm") or reversed(range(layout.rank))]
        if sorted(order) != list(range(layout.rank)):
            raise node.reject(f"has the order {order[:MAX_RANK]} for {layout.rank} axes")
        kept = (layout.position(axis) + 1 for axis in order if axis in layout.own)
        return cls(**cls.common(node, layout.permuted(order)), order=(0, *kept))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        value = x[0].permute(self.order)
        return value if len(self.order) == len(self.shape) + 1 else value.reshape(-1, *self.shape)

    @property
    def unbounded(self) -> str:
        return ""


def _reshaped(node: Node) -> Layout:
    layout, target = node.layout(), node.sizes_at_every_batch(1)
    if target.fixed.ndim != 1 or target.fixed.size > MAX_RANK:
        raise node.reject(f"has a target of shape {list(target.fixed.shape)}, not a list of at most {MAX_RANK} sizes")
    if not target.multiples.all():
        raise node.by_batch_size(1)
    shown = target.at(1).tolist()
    sizes = resolved(layout, target, zero_copies=not node.attributes.get("allowzero", 0))
    if sizes is None:
        raise node.reject(f"cannot turn examples of shape {list(layout.shape)} into {shown}")
    found = layout.reshaped(_shape(sizes, 1), None if node.fixed or sizes.free else _shape(sizes, 2))
    if found is None:
        raise node.reject(f"to {shown} mixes the batch with other axes", "reshape with -1 or the batch size first")
    return found


def _shape(sizes: BatchConstant, batch: int) -> Shape:
    return tuple(int(size) for size in sizes.at(batch))


def _flattened(node: Node) -> Layout:
    layout = node.layout()
    axis = int(node.attributes.get("axis", 1))
    axis = axis + layout.rank if axis < 0 else axis
    if not 0 <= axis <= layout.rank:
        raise node.reject(f"has the axis {axis} for {layout.rank} axes")
    sizes = (math.prod(layout.sizes[:axis]), math.prod(layout.sizes[axis:]))
    if layout.batch is None or (node.fixed and sizes[0] == 1):
        return Layout(sizes, None).adopted()
    side = int(layout.batch >= axis)
    return Layout(sizes, side, math.prod(layout.sizes[axis if side else 0 : layout.batch]) * layout.outer)


def _squeezed(node: Node) -> Layout:
    layout = node.layout()
    named = node.integers(1, "axes") or []
    if node.fixed and layout.batch in [layout.normal(axis) for axis in named]:
        layout = Layout(layout.sizes, None)  # a batch of one: this axis is no more special than the others
        return Layout(tuple(s for i, s in enumerate(layout.sizes) if i not in _ones(node, layout, named)), None).adopted()
    axes = node.axes(named)
    if not axes or any(layout.sizes[axis] != 1 for axis in axes):
        raise node.reject("must name axes of length 1, never the batch axis")
    return layout.without(axes)


def _ones(node: Node, layout: Layout, named: list[int]) -> list[int]:
    axes = [axis % layout.rank for axis in named if layout.normal(axis) is not None]
    if len(axes) != len(named) or any(layout.sizes[axis] != 1 for axis in axes):
        raise node.reject("must name axes of length 1")
    return axes


def _unsqueezed(node: Node) -> Layout:
    layout, axes = node.layout(), node.integers(1, "axes") or []
    rank = layout.rank + len(axes)
    places = {axis % rank for axis in axes if -rank <= axis < rank}
    if not axes or len(places) != len(axes) or rank > MAX_RANK:
        raise node.reject(f"must name new axes, each once, below {MAX_RANK}")
    return layout.inserted(places)
