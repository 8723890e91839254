"""Arithmetic, comparison and choice, elementwise with broadcasting, of data and of constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from certify.graph.layout import Layout
from certify.graph.operators.base import Array, Loose, Node, Operator, Weights
from certify.graph.operators.piecewise import NEAR, Extreme, Mixture
from certify.lipschitz.parts import Chain, Part, Repeated, Scaled


def _truth(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Truth values are the numbers 0 and 1."""
    return lambda a, b: function(a, b).to(a.dtype if a.is_floating_point() else torch.float32)


_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "Pow": torch.pow,
    "Equal": _truth(torch.eq),
    "Greater": _truth(torch.gt),
    "GreaterOrEqual": _truth(torch.ge),
    "Less": _truth(torch.lt),
    "LessOrEqual": _truth(torch.le),
    "And": torch.mul,
    "Or": torch.maximum,
    "Xor": _truth(torch.ne),
}
_MANY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add, "Mean": torch.add}


# Where an attention mask may have minus infinity.
_MASKING = frozenset({"Add", "Where", "Min", "Max"})


def beside(node: Node, layout: Layout, position: int) -> Array:
    """The constant at `position` as it meets one example of `layout` (which has at least as many axes): without the batch axis.

    Raises:
        ModelRejected: it treats examples differently by their place in the batch, or by the size of it.
    """
    given = node.at_every_batch(position)
    constant, met = given.fixed, None if layout.batch is None else layout.batch - layout.rank + given.fixed.ndim
    # One copy for each row must lie along the rows, and rows alone.
    if not given.alike or (given.axis is not None and (given.axis != met or layout.merged)):
        raise node.by_batch_size(position)
    if met is None or met < 0:
        return constant
    if constant.shape[met] != 1:
        raise node.reject(f"has a constant of shape {list(constant.shape)} along the batch axis")
    return constant if layout.merged else constant.reshape(constant.shape[:met] + constant.shape[met + 1 :])


def broadcast(node: Node, operands: list[int]) -> tuple[Layout, dict[int, Layout], dict[int, Array]]:
    """The layout that inputs broadcast to; the layouts of those that are data, with axes put in front; the constants beside them.

    Raises:
        ModelRejected: the shapes do not fit, or the batch would meet another axis.
    """
    rank = max(node.layout(i).rank if node.is_data(i) else node.at_every_batch(i).fixed.ndim for i in operands)
    data = {i: node.layout(i).padded(rank) for i in operands if node.is_data(i)}
    data = agreed(data)
    first = next(iter(data.values()))
    if len({(layout.batch, layout.outer, layout.merged) for layout in data.values()}) > 1:
        shapes = " and ".join(str(list(layout.shape)) for layout in data.values())
        raise node.reject(f"would align the batch axis with another one: shapes {shapes}")
    constants = {i: beside(node, first, i) for i in operands if i not in data}
    try:
        shape = np.broadcast_shapes(*(layout.shape for layout in data.values()), *(c.shape for c in constants.values()))
    except ValueError:
        raise node.reject(_misfit([list(layout.shape) for layout in data.values()], [list(c.shape) for c in constants.values()])) from None
    if first.batch is None:
        return first.resized(shape), data, constants
    sizes = shape if first.merged else (*shape[: first.batch], 1, *shape[first.batch :])
    if sizes[first.batch] != first.sizes[first.batch]:
        raise node.across_batch()
    return first.resized(sizes), data, constants


def agreed(data: dict[int, Layout]) -> dict[int, Layout]:
    """In a file for a batch of one, tensors that have lost the batch axis take it where the others have it, or all let it go."""
    batches = {layout.batch for layout in data.values()}
    if None not in batches or len(batches) == 1:
        return data
    place = next(batch for batch in batches if batch is not None)
    fits = len(batches) == 2 and all(layout.sizes[place] == 1 for layout in data.values())
    return {i: Layout(layout.sizes, place if fits else None) for i, layout in data.items()}


def _misfit(data: list[list[int]], constants: list[list[int]]) -> str:
    of_data = f"cannot combine examples of shape {' and '.join(map(str, data))}"
    return of_data + (f" with a constant of shape {' and '.join(map(str, constants))}" if constants else "")


@dataclass(frozen=True, kw_only=True)
class Broadcast(Operator):
    """What arithmetic shares: operands in their order, data by position among the inputs, constants by name among the weights."""

    # For each operand the shape to view its data as (axes of length 1 in front), or null for the constant of its place.
    views: tuple[tuple[int, ...] | None, ...]

    @classmethod
    def operands(cls, node: Node, places: list[int]) -> dict[str, Any]:
        layout, data, constants = broadcast(node, places)
        weights = {str(i): _number(node, value) for i, value in constants.items()}
        inputs = tuple(node.inputs[i] for i in places if i in data)
        views = tuple(data[i].shape if i in data else None for i in places)
        return {**cls.common(node, layout, inputs=inputs, weights=weights), "views": views}

    def values(self, weights: Mapping[str, Tensor], x: tuple[Tensor, ...]) -> list[Tensor]:  # x: (batch, *shape) each
        """The operands in order, ready to broadcast."""
        rest = iter(x)
        return [weights[str(place)] if view is None else _viewed(next(rest), view) for place, view in enumerate(self.views)]

    def repeated(self, *after: Scaled) -> tuple[Chain, ...]:
        """For each data operand that it is broadcast, and then scaled by its own constants."""
        views = [view for view in self.views if view is not None]
        widened: list[tuple[Part, ...]] = [() if view == self.shape else (Repeated(view, self.shape),) for view in views]
        return tuple((*first, last) for first, last in zip(widened, after, strict=True))

    def finite(self) -> None:
        """Refuse constants that no difference is defined for."""
        if not all(np.all(np.isfinite(value)) for value in self.weights.values()):
            raise self.no_constant("arithmetic with infinity")

    @property
    def widens(self) -> bool:
        return any(view is not None and view != self.shape for view in self.views)


def _viewed(x: Tensor, view: tuple[int, ...]) -> Tensor:  # x: (batch, *shape)
    return x if tuple(x.shape[1:]) == view else x.reshape(-1, *view)


@dataclass(frozen=True, kw_only=True)
class Arithmetic(Broadcast):
    """Two operands, or several for Max, Min, Sum and Mean; each data or a constant that no example shares with another."""

    types = (*_TWO, *_MANY)

    @classmethod
    def read(cls, node: Node) -> Operator:
        if node.type in _TWO and len(node.inputs) != 2:
            raise node.reject(f"needs two inputs, has {len(node.inputs)}")
        read = cls(**cls.operands(node, list(range(len(node.inputs)))))
        if node.type == "Div" and not np.all(read.weights.get("1", 1)):
            raise node.reject("divides by zero")
        return read

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape) each
        values = self.values(weights, x)
        if self.type in _TWO:
            return _TWO[self.type](*values)
        total = reduce(_MANY[self.type], values)
        return total / len(values) if self.type == "Mean" else total

    def parts(self) -> tuple[Chain, ...]:
        self.finite()
        signs = {"Add": [1.0, 1.0], "Sub": [1.0, -1.0], "Sum": [1.0] * len(self.views), "Mean": [1 / len(self.views)] * len(self.views)}
        if self.type in signs:
            signed = zip(signs[self.type], self.views, strict=True)
            return self.repeated(*(Scaled(np.array(sign), self.shape, 1) for sign, view in signed if view is not None))
        if self.type == "Mul" and len(self.weights) == 1:
            return self.repeated(Scaled(next(iter(self.weights.values())), self.shape))
        if self.type == "Div" and "1" in self.weights:
            return self.repeated(Scaled(_inverse(self.weights["1"]), self.shape, 1))
        return ()

    def lipschitz(self) -> float:
        self.finite()
        if self.type in ("Max", "Min"):
            # An extreme moves by no more than one of its operands, each of which may be read in several places.
            views = [view for view in self.views if view is not None]
            return math.sqrt(max(math.prod(self.shape) // math.prod(view) for view in views)) * (1 + 1e-12)
        if self.type == "Mul":
            raise self.no_constant("a product of two data tensors is not Lipschitz on an unbounded domain")
        if self.type == "Div":
            raise self.no_constant("dividing by data is not Lipschitz")
        if self.type == "Pow":
            raise self.no_constant("a power is not Lipschitz on an unbounded domain")
        raise self.no_constant("a truth value jumps")

    @property
    def follows(self) -> bool:
        return self.type in ("Add", "Sub", "Mul", "Div", "Sum", "Mean")

    def sized(self) -> Operator:
        """|1 / c - 1 / c'| <= |c - c'| / (|c| |c'|): one over what stands here is a size of the reciprocal of a divisor."""
        if self.type != "Div" or "1" not in self.loose.sizes:
            return super().sized()
        divisor, size = np.abs(self.weights["1"].astype(np.float64)), self.loose.sizes["1"]
        least = divisor - Loose.UNITS * size
        inverse = np.where(least > 0, 0.8 * divisor * least / size, 0.0)
        return replace(self, weights={"1": inverse})

    @property
    def extreme(self) -> int:
        return {"Max": 1, "Min": -1}.get(self.type, 0) if self._two else 0

    @property
    def multiplies(self) -> bool:
        return self.type == "Mul" and self._two

    @property
    def _two(self) -> bool:
        """Of two different data tensors, neither of them broadcast."""
        return len(self.views) == len(set(self.inputs)) == 2 and not self.weights and not self.widens

    @property
    def unbounded(self) -> str:
        if self.type not in ("Add", "Sub", "Mul", "Div", *_MANY):
            return super().unbounded
        if not all(np.all(np.isfinite(value)) for value in self.weights.values()):
            return "arithmetic with infinity"
        if self.type in ("Mul", "Div") and len(self.inputs) == 2:
            return "a product or quotient of two data tensors"
        if self.widens:  # bounds on broadcast data have not been shown sound
            return "arithmetic that broadcasts data to a larger shape"
        return "a constant divided by data" if self.type == "Div" and self.views[0] is None else ""

    def for_bounds(self) -> Operator:
        """Extremes as ReLUs of differences; sums of many and means with the constants put together; no constant is broadcast."""
        if self.type == "Div" and ("1" in self.loose.sizes or np.any(self.weights["1"] < 0)):
            # The engine's rule for a quotient has no place for the size of an inverse, nor for negative numbers.
            return replace(self, type="Mul", weights={"1": self.spread(_inverse(self.weights["1"]))})
        if self.type not in _MANY:
            return replace(self, weights={name: self.spread(value) for name, value in self.weights.items()})
        constants = [value.astype(np.float64) for value in self.weights.values()]
        if self.type in ("Sum", "Mean"):
            share = 1 / len(self.views) if self.type == "Mean" else 1.0
            weights = {str(i): np.full(1, share) for i in range(len(self.inputs))}
            return Mixture.of(self, {**weights, "constant": share * sum(constants, np.zeros(1))})
        weights = {}
        if constants:
            constant = np.asarray(reduce(np.maximum if self.type == "Max" else np.minimum, constants))
            weights["near" if np.abs(constant).max() <= NEAR else "far"] = constant
        return replace(Extreme.of(self, weights), largest=self.type == "Max")

    def made_of(self) -> Weights:
        if self.type not in ("Sum", "Mean") or not self.weights:
            return {}
        total = sum((np.abs(value.astype(np.float64)) for value in self.weights.values()), np.zeros(1))
        # As many roundings as constants, and two for a share.
        share = 1 / len(self.views) if self.type == "Mean" else 1.0
        return {"constant": self.spread(share * total * max(1.0, len(self.weights) / 4))}


def _inverse(divisor: Array) -> Array:
    with np.errstate(divide="ignore"):
        found: Array = 1 / divisor.astype(np.float64)
    return found


def _number(node: Node, value: Array) -> Array:
    if value.dtype == np.bool_:
        return value.astype(np.float32)
    folded = node.real and value.dtype == np.float64
    if value.dtype != np.float32 and not folded and not (node.type == "Pow" and value.dtype.kind == "i"):
        raise node.reject(f"has weights of type {value.dtype}", "export the model in float32")
    if node.type not in _MASKING and not np.all(np.isfinite(value)):
        raise node.reject("has a constant with infinity in it", "check the training run and export finite weights")
    return value if value.dtype == np.float64 else value.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Where(Broadcast):
    """One of two operands by a condition, itself a constant or data (the numbers 0 and 1)."""

    apart: ClassVar[bool] = True

    types = ("Where",)

    @classmethod
    def read(cls, node: Node) -> Operator:
        return cls(**cls.operands(node, [0, 1, 2]))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape) each
        condition, yes, no = self.values(weights, x)
        return torch.where(condition != 0, yes, no)

    def parts(self) -> tuple[Chain, ...]:
        if self.views[0] is not None:
            raise self.no_constant("a choice that depends on data jumps")
        self.finite()
        masks = [mask for mask, view in zip(self._masks(), self.views[1:], strict=True) if view is not None]
        return self.repeated(*(Scaled(mask.astype(np.float64), self.shape) for mask in masks))

    @property
    def unbounded(self) -> str:
        if self.views[0] is not None:
            return "a choice that depends on data"
        if self.widens:
            return "a choice that broadcasts data to a larger shape"
        chosen = self._constant()
        return "" if np.all(np.isfinite(chosen)) else "a choice of infinity"

    def for_bounds(self) -> Operator:
        """Each operand times 1 where it is chosen and 0 elsewhere."""
        masks = [mask.astype(np.float64) for mask, view in zip(self._masks(), self.views[1:], strict=True) if view is not None]
        return Mixture.of(self, {**{str(i): mask for i, mask in enumerate(masks)}, "constant": self._constant()})

    def _masks(self) -> tuple[Array, Array]:
        """Where the first operand is chosen, and where the second is."""
        condition = np.asarray(self.weights["0"]) != 0
        return condition, ~condition

    def _constant(self) -> Array:
        total = np.zeros(1)
        for place, mask in zip(("1", "2"), self._masks(), strict=True):
            if place in self.weights:
                total = total + np.where(mask, self.weights[place].astype(np.float64), 0.0)
        return total
