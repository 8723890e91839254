"""Operators that pick, join and repeat values of each example: Slice, Split, Gather, Concat, Expand, Tile, Pad."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from certify.graph.layout import Layout, Shape
from certify.graph.operators.affine import Affine, Along, Maps, along_axes
from certify.graph.operators.arithmetic import beside
from certify.graph.operators.base import Array, Node, Operator
from certify.graph.operators.shape import Movement
from certify.lipschitz.parts import Picks

_END = 2**31 - 1  # from here on an end of a slice means "to the end"


@dataclass(frozen=True, kw_only=True)
class Slice(Affine, Movement):
    """A range of places along each axis."""

    types = ("Slice",)
    ranges: tuple[tuple[int, int, int], ...]  # start, stop and step for each axis of an example; steps may be negative

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout = node.layout()
        starts = node.integers(1, "starts") or []
        ends = cls._ends(node, layout, starts)
        axes = node.integers(3, "axes") or list(range(len(starts)))
        steps = node.integers(4, "steps") or [1] * len(starts)
        if not len(starts) == len(ends) == len(axes) == len(steps) <= layout.rank or 0 in steps:
            raise node.reject(f"has {len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps")
        ranges = {axis: (0, size, 1) for axis, size in enumerate(layout.sizes)}
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if layout.normal(axis) == layout.batch and start == 0 and step == 1 and (end >= _END or (node.fixed and end >= 1)):
                continue  # all of the batch
            place = node.axis(axis)
            found = slice(start, end, step).indices(layout.sizes[place])
            # A step of any size may lead to a single value; torch would add it up first.
            ranges[place] = (found[0], found[0] + 1, 1) if len(range(*found)) == 1 else found
        return cls._of(node, layout, ranges, node.output)

    @staticmethod
    def _ends(node: Node, layout: Layout, starts: list[int]) -> list[int]:
        """The ends; one that is the length of the batch axis at every batch size is an end of its own."""
        if not node.has(2):
            return node.integers(2, "ends") or []
        given = node.sizes_at_every_batch(2)
        axes = node.integers(3, "axes") or list(range(len(starts)))
        ends = given.fixed.reshape(-1).tolist()
        for place in np.flatnonzero(given.depends.reshape(-1)).tolist():
            if place >= len(axes) or not given.is_length(place, layout) or layout.normal(axes[place]) != layout.batch:
                raise node.by_batch_size(2)
            ends[place] = _END
        return ends

    @classmethod
    def _of(cls, node: Node, layout: Layout, ranges: Mapping[int, tuple[int, int, int]], output: str) -> Operator:
        sizes = tuple(len(range(*ranges[axis])) for axis in range(layout.rank))
        if 0 in sizes:
            raise node.reject("leaves nothing")
        kept = tuple(ranges[axis] for axis in layout.own)
        return cls(**cls.common(node, layout.resized(sizes), output=output), ranges=kept)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        index = [slice(None)] + [slice(start, stop, step) if step > 0 else slice(None) for start, stop, step in self.ranges]
        value = x[0][tuple(index)]
        for dim, (start, stop, step) in enumerate(self.ranges, start=1):
            if step < 0:  # torch knows no negative steps
                value = value.index_select(dim, torch.arange(start, stop, step, device=value.device))
        return value

    def maps(self) -> Maps:
        return (picked(self.sources[0], {dim: np.arange(*places) for dim, places in enumerate(self.ranges, start=1)}),)


@dataclass(frozen=True, kw_only=True)
class Split(Slice):
    """Consecutive ranges along one axis: a slice for each output that is used."""

    types = ("Split",)

    @classmethod
    def read_all(cls, node: Node) -> tuple[Operator, ...]:
        layout, count = node.layout(), len(node.outputs)
        axis = node.axis(int(node.attributes.get("axis", 0)))
        size = layout.sizes[axis]
        parts = node.integers(1, "split") or [min(-(-size // count), max(0, size - i * -(-size // count))) for i in range(count)]
        if len(parts) != count or min(parts) < 1 or sum(parts) != size:
            raise node.reject(f"cannot split {size} values into {parts[:8]}")
        ends = np.cumsum(parts)
        whole = {place: (0, length, 1) for place, length in enumerate(layout.sizes)}
        return tuple(
            cls._of(node, layout, {**whole, axis: (int(end) - part, int(end), 1)}, output)
            for part, end, output in zip(parts, ends, node.outputs, strict=True)
            if output
        )


@dataclass(frozen=True, kw_only=True)
class Gather(Affine, Movement):
    """The places along one axis that a constant names; a single number takes the axis away."""

    types = ("Gather",)
    dim: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        if not node.is_data(0):
            raise node.reject(
                "by data looks values up in a table, which is not supported", "feed the network with numbers, not with indices"
            )
        layout = node.layout()
        axis, own = cls._axis(node, layout)
        indices = node.at_every_batch(1).fixed
        size = layout.sizes[axis]
        if indices.dtype.kind != "i" or indices.size < 1 or indices.min() < -size or indices.max() >= size:
            raise node.reject(f"names places outside an axis of {size}")
        if own is not None:
            output = Layout(indices.shape + layout.sizes[1:], own)
            weights = {"indices": indices.astype(np.int64) % size}
            return cls(**cls.common(node, output, weights=weights), dim=1)
        sizes = layout.sizes[:axis] + indices.shape + layout.sizes[axis + 1 :]
        batch = layout.batch
        if batch is not None and axis < batch:
            batch += indices.ndim - 1
        return cls(
            **cls.common(node, Layout(sizes, batch, layout.outer), weights={"indices": indices.astype(np.int64) % size}),
            dim=layout.position(axis) + 1,
        )

    @staticmethod
    def _axis(node: Node, layout: Layout) -> tuple[int, int | None]:
        """The axis; and where the batch goes when the examples lie one after another along it and each is sent to its own places."""
        given = node.at_every_batch(1)
        axis = layout.normal(int(node.attributes.get("axis", 0)))
        if given.free:
            return node.axis(int(node.attributes.get("axis", 0))), None
        length = layout.sizes[0]
        # Row r asks for places from r times the length of an example on; one below zero would be counted from the last row.
        own = not given.times.any() and np.all(given.rows == length) and np.all((given.fixed >= 0) & (given.fixed < length))
        if axis != 0 or layout.batch != 0 or layout.outer != 1 or given.axis is None or not own:
            raise node.by_batch_size(1)
        return 0, given.axis

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        return x[0].index_select(self.dim, weights["indices"].reshape(-1)).reshape(-1, *self.shape)

    def maps(self) -> Maps:
        return (picked(self.sources[0], {self.dim: self.weights["indices"].reshape(-1)}),)


@dataclass(frozen=True, kw_only=True)
class GatherND(Affine, Movement):
    """The places along the first axes that a constant names, one tuple for each value of the result."""

    types = ("GatherND",)
    view: tuple[int, ...]

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout, indices = node.layout(), node.constant(1)
        depth = indices.shape[-1] if indices.ndim else 0
        if node.attributes.get("batch_dims", 0) or indices.dtype.kind != "i" or not 0 < depth <= layout.rank or not indices.size:
            raise node.reject("is supported for constant indices and batch_dims = 0 only")
        if layout.batch is not None and layout.batch < depth:
            raise node.across_batch()
        first = layout.sizes[:depth]
        if (indices < -np.array(first)).any() or (indices >= np.array(first)).any():
            raise node.reject(f"names places outside axes of {list(first)}")
        places = np.ravel_multi_index(tuple(np.moveaxis(indices % np.array(first), -1, 0)), first)
        batch = None if layout.batch is None else layout.batch - depth + indices.ndim - 1
        output = Layout(indices.shape[:-1] + layout.sizes[depth:], batch, layout.outer)
        weights = {"places": places.reshape(-1).astype(np.int64)}
        return cls(**cls.common(node, output, weights=weights), view=(int(np.prod(first)), *layout.shape[depth:]))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        return x[0].reshape(-1, *self.view).index_select(1, weights["places"]).reshape(-1, *self.shape)

    def maps(self) -> Maps:
        return (picked(self.view, {1: self.weights["places"]}),)


@dataclass(frozen=True, kw_only=True)
class Concat(Affine, Movement):
    """Tensors one after another along an axis; constants are the same for every example."""

    apart: ClassVar[bool] = True

    types = ("Concat",)
    order: tuple[bool, ...]  # for each part, whether it is data
    dim: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        order = tuple(node.is_data(i) for i in range(len(node.inputs)))
        first = node.layout(order.index(True))
        axis = node.axis(int(node.attributes.get("axis", 0)), order.index(True))
        length = 0
        for i, data in enumerate(order):
            sizes = node.layout(i).sizes if data else node.checked(i, node.at_every_batch(i).fixed).shape
            same = len(sizes) == first.rank and all(a == b for k, (a, b) in enumerate(zip(sizes, first.sizes, strict=True)) if k != axis)
            if not same or (data and (node.layout(i).batch, node.layout(i).outer) != (first.batch, first.outer)):
                raise node.reject(f"cannot join shapes {list(first.sizes)} and {list(sizes[:16])} along axis {axis}")
            length += sizes[axis]
        layout = first.resized(length if k == axis else size for k, size in enumerate(first.sizes))
        weights = {str(i): beside(node, first, i) for i, data in enumerate(order) if not data}
        inputs = tuple(node.inputs[i] for i, data in enumerate(order) if data)
        return cls(**cls.common(node, layout, inputs=inputs, weights=weights), order=order, dim=first.position(axis) + 1)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any) each
        rest = iter(x)
        parts = [next(rest) if data else weights[str(i)].expand(len(x[0]), *weights[str(i)].shape) for i, data in enumerate(self.order)]
        return torch.cat(parts, self.dim)

    def maps(self) -> Maps:
        """Each part is sent to its places; where it has nothing to say, it adds zero."""
        total = self.shape[self.dim - 1]
        starts = [start for start, data in zip(self._starts(), self.order, strict=True) if data]
        found = []
        for shape, start in zip(self.sources, starts, strict=True):
            length = shape[self.dim - 1]
            places = np.arange(total) - start
            found.append(picked(shape, {self.dim: np.where(places < length, places, -1)}))
        return tuple(found)

    def offset(self) -> Array | None:
        if all(self.order):
            return None
        parts = [np.zeros(()) if data else self.weights[str(i)] for i, data in enumerate(self.order)]
        value = np.zeros(self.shape)
        for start, part, data in zip(self._starts(), parts, self.order, strict=True):
            if not data:
                window = [slice(None)] * len(self.shape)
                window[self.dim - 1] = slice(start, start + part.shape[self.dim - 1])
                value[tuple(window)] = part
        return value

    def _starts(self) -> list[int]:
        """Where each part begins."""
        rest = iter(self.sources)
        lengths = [(next(rest) if data else self.weights[str(i)].shape)[self.dim - 1] for i, data in enumerate(self.order)]
        return [sum(lengths[:i]) for i in range(len(lengths))]


@dataclass(frozen=True, kw_only=True)
class Expand(Affine, Movement):
    """Values repeated along axes of length 1, and along new ones in front."""

    types = ("Expand",)
    view: tuple[int, ...]

    @classmethod
    def read(cls, node: Node) -> Operator:
        given = node.sizes_at_every_batch(1)
        target = [int(v) for v in given.at(1).reshape(-1)[:17]]
        layout = node.layout().padded(len(target))
        for place in np.flatnonzero(given.depends.reshape(-1)[:17]).tolist():
            if layout.rank - len(target) + place != layout.batch or not given.is_length(place, layout):
                raise node.by_batch_size(1)
        wanted = [1] * (layout.rank - len(target)) + target
        sizes = tuple(max(a, b) for a, b in zip(layout.sizes, wanted, strict=True))
        if any((a != b and 1 not in (a, b)) or b < 1 for a, b in zip(layout.sizes, wanted, strict=True)):
            raise node.reject(f"cannot expand examples of shape {list(layout.shape)} to {target}")
        if layout.batch is not None and sizes[layout.batch] != layout.sizes[layout.batch]:
            raise node.across_batch()
        return cls(**cls.common(node, layout.resized(sizes)), view=layout.shape)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        return x[0].reshape(-1, *self.view).expand(-1, *self.shape)

    def maps(self) -> Maps:
        longer = {dim: np.zeros(new, np.int64) for dim, (old, new) in enumerate(zip(self.view, self.shape, strict=True), 1) if old != new}
        return (picked(self.view, longer),)


@dataclass(frozen=True, kw_only=True)
class Tile(Affine, Movement):
    """Each axis a number of times over."""

    types = ("Tile",)
    repeats: tuple[int, ...]

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout, repeats = node.layout(), [int(v) for v in node.constant(1).reshape(-1)]
        if len(repeats) != layout.rank or min(repeats) < 1:
            raise node.reject(f"has repeats {repeats[:16]} for {layout.rank} axes")
        if layout.batch is not None and repeats[layout.batch] != 1:
            raise node.across_batch()
        output = layout.resized(size * times for size, times in zip(layout.sizes, repeats, strict=True))
        return cls(**cls.common(node, output), repeats=(1, *(repeats[axis] for axis in layout.own)))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        return x[0].repeat(self.repeats)

    def maps(self) -> Maps:
        places = {dim: np.tile(np.arange(size), self.repeats[dim]) for dim, size in enumerate(self.sources[0], start=1)}
        return (picked(self.sources[0], places),)


def picked(shape: Shape, places: Mapping[int, Array]) -> tuple[Along, ...]:
    """Each named axis of `shape` (counted from 1) made of the values at these places; axes that stay as they are cost nothing."""

    def one(dim: int) -> tuple[int, Callable[[], Array]]:
        return len(places[dim]), Picks(places[dim], shape[dim - 1])

    return along_axes(shape, {dim: one(dim) for dim, value in places.items() if not np.array_equal(value, np.arange(shape[dim - 1]))})
