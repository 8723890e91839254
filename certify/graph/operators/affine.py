"""Fixed linear maps for bound propagation, made only of what has been shown sound for: reshapes, transposes, 1x1 convolutions, sums."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from certify.graph.layout import Shape
from certify.graph.operators.base import MAX_TENSOR_ELEMENTS, Array, Node, Operator, as_tensor
from certify.lipschitz.parts import Chain, Picks, Scaled, Spread

MAX_MATRIX = 2**24
MAX_AXIS = 2**18
_CHUNK = 2**22  # values made at once when a matrix is read off an operator


class Along(NamedTuple):
    """A matrix along one axis: of (before, length, after) values it makes (before, made, after)."""

    before: int
    length: int
    after: int
    made: int
    matrix: Callable[[], Array]  # (made, length); called only when the sizes are harmless


Maps = tuple[tuple[Along, ...], ...]  # for each data input one map after another


def along_axes(shape: Shape, matrices: Mapping[int, tuple[int, Callable[[], Array]]]) -> tuple[Along, ...]:
    """One map for each axis of `shape` (counted from 1, as the batch is 0), with how many values it makes."""
    sizes, found = list(shape), []
    for dim, (made, matrix) in matrices.items():
        found.append(Along(math.prod(sizes[: dim - 1]), sizes[dim - 1], math.prod(sizes[dim:]), made, matrix))
        sizes[dim - 1] = made
    return tuple(found)


def picks(places: Array, length: int) -> Array:
    """The matrix that takes the value at each place; a place below zero takes none. (places, length)"""
    return Picks(places, length)()


@dataclass(frozen=True, kw_only=True)
class LinearForm(Operator):
    """The sum over the inputs of fixed linear maps, times `scale` and plus `offset` where these are given."""

    steps: tuple[tuple[tuple[int, int, int], ...], ...]  # for each input and step: before, length, after

    @classmethod
    def read(cls, node: Node) -> Operator:
        raise node.reject("is not an ONNX operator")

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any) each
        total: Tensor | None = None
        for i, (value, steps) in enumerate(zip(x, self.steps, strict=True)):
            mapped = value
            for k, step in enumerate(steps):
                mapped = apply_along(mapped, weights[f"{i}_{k}"], *step)
            mapped = mapped.reshape(-1, *self.shape)
            total = mapped if total is None else total + mapped
        assert total is not None
        total = total * weights["scale"] if "scale" in weights else total
        return total + weights["offset"] if "offset" in weights else total

    @property
    def unbounded(self) -> str:
        return ""


def apply_along(
    x: Tensor,  # (batch, ...), before * length * after values for each example
    matrix: Tensor,  # (made, length, 1, 1)
    before: int,
    length: int,
    after: int,
) -> Tensor:
    """The matrix along the middle axis: (batch, before, made, after), without `before` when that is 1."""
    if before == 1:
        return F.conv2d(x.reshape(-1, length, after, 1), matrix)
    return F.conv2d(x.reshape(-1, before, length, after).transpose(1, 2), matrix).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class Affine(Operator):
    """What is a fixed linear map of its data inputs, plus a constant: exactly so rewritten for bound propagation."""

    @abstractmethod
    def maps(self) -> Maps:
        """For each input the maps that make it what is summed up."""

    def scale(self) -> Array | None:
        """What the sum is multiplied by."""
        return None

    def offset(self) -> Array | None:
        """What is added in the end."""
        return None

    def parts(self) -> tuple[Chain, ...]:
        scale = self.scale()
        # A share of one rounding, of what may be a mean rounded once.
        last = () if scale is None else (Scaled(scale, self.shape, 2),)
        return tuple((*spreads(chain), *last) for chain in self.maps())

    @property
    def unbounded(self) -> str:
        # Before anything is made: places along an axis are listed to see which maps are needed.
        longest = max((size for shape in (*self.sources, self.shape) for size in shape), default=1)
        return f"{self.type} with an axis of {longest} values" if longest > MAX_AXIS else too_large(self.type, self.maps())

    def for_bounds(self) -> Operator:
        return linear_form(self, self.maps(), scale=self.scale(), offset=self.offset())


def spreads(chain: tuple[Along, ...], terms: int = 2, *, given: bool = False) -> Chain:
    """The same maps as steps of a Lipschitz bound; `terms` are the roundings of an entry, `given` says that it stands in the file."""
    return tuple(Spread(*step, terms, given) for step in chain)


def too_large(what: str, maps: Maps) -> str:
    """Why maps of this size are refused; empty when they are not."""
    steps = [step for chain in maps for step in chain]
    matrix = max((step.length * step.made for step in steps), default=0)
    if matrix > MAX_MATRIX:
        return f"{what} as a matrix of {matrix} weights, more than {MAX_MATRIX}"
    values = max((step.before * step.made * step.after for step in steps), default=0)
    return f"{what} by way of a tensor of {values} values" if values > MAX_TENSOR_ELEMENTS else ""


def linear_form(operator: Operator, maps: Maps, *, scale: Array | None = None, offset: Array | None = None) -> LinearForm:
    """The operator as these maps; its matrices are made here, so their sizes must have been found harmless."""
    weights = {f"{i}_{k}": _filters(step) for i, chain in enumerate(maps) for k, step in enumerate(chain)}
    weights |= {name: operator.spread(value) for name, value in (("scale", scale), ("offset", offset)) if value is not None}
    return LinearForm(
        type="LinearForm",
        name=operator.name,
        inputs=operator.inputs,
        output=operator.output,
        layout=operator.layout,
        sources=operator.sources,
        weights=weights,
        steps=tuple(tuple((step.before, step.length, step.after) for step in chain) for chain in maps),
    )


def _filters(step: Along) -> Array:
    matrix = np.asarray(step.matrix(), np.float64)
    assert matrix.shape == (step.made, step.length)
    return np.ascontiguousarray(matrix)[:, :, None, None]


@dataclass(frozen=True, kw_only=True)
class Dense(Affine):
    """An affine operator whose matrix is read off its own evaluation: column i is what it makes of the i-th unit vector."""

    def maps(self) -> Maps:
        length = math.prod(self.sources[0])
        return ((Along(1, length, 1, math.prod(self.shape), self._matrix),),)

    def offset(self) -> Array | None:
        if "bias" not in self.weights:
            return None
        zero = torch.zeros(1, *self.sources[0], dtype=torch.float64)
        value: Array = self.evaluate(self._exact(), zero)[0].numpy()
        return value

    def _matrix(self) -> Array:
        weights = {name: value for name, value in self._exact().items() if name != "bias"}
        length = math.prod(self.sources[0])
        chunk = max(1, _CHUNK // max(self.on_the_way, length, math.prod(self.shape)))
        matrix = np.empty((math.prod(self.shape), length))
        for start in range(0, length, chunk):
            count = min(chunk, length - start)
            units = torch.zeros(count, length, dtype=torch.float64)
            units[torch.arange(count), start + torch.arange(count)] = 1.0
            made = self.evaluate(weights, units.reshape(count, *self.sources[0]))
            matrix[:, start : start + count] = made.reshape(count, -1).numpy().T
        return matrix

    def _exact(self) -> dict[str, Tensor]:
        return {name: as_tensor(value, torch.float64) for name, value in self.weights.items()}
