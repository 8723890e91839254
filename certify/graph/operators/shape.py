"""Operators that give the values of an example other axes and never compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

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


def resolved(node: Node, target: list[int], sizes: Shape) -> Shape | None:
    """A Reshape target with its 0 and -1 filled in; null when it does not fit."""
    zero_copies = not node.attributes.get("allowzero", 0)
    if len(target) > MAX_RANK:
        raise node.reject(f"has a target of {len(target)} axes")
    filled = [sizes[i] if v == 0 and zero_copies and i < len(sizes) else v for i, v in enumerate(target)]
    if filled.count(-1) > 1 or any(v < -1 or v == 0 for v in filled):
        return None
    known, total = math.prod(v for v in filled if v != -1), math.prod(sizes)
    if -1 in filled:
        if total % known:
            return None
        filled[filled.index(-1)] = total // known
    return tuple(filled) if math.prod(filled) == total else None


def _reshaped(node: Node) -> Layout:
    layout, name = node.layout(), node.inputs[1]
    target = [int(v) for v in node.constant(1).reshape(-1)[: MAX_RANK + 1]]
    one = resolved(node, target, layout.sizes)
    if one is None:
        raise node.reject(f"cannot turn examples of shape {list(layout.shape)} into {target}")
    doubled = None
    if not node.fixed and layout.batch is not None:
        twice = [int(v) for v in node.doubled.get(name, node.constant(1)).reshape(-1)]
        sizes = tuple(size * 2 if axis == layout.batch else size for axis, size in enumerate(layout.sizes))
        # A target without any trace of the batch works for a batch of one only.
        doubled = resolved(node, twice, sizes)
    found = layout.reshaped(one, doubled)
    if found is None:
        raise node.reject(f"to {target} mixes the batch with other axes", "reshape with -1 or the batch size first")
    return found


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
