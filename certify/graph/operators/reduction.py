"""Sums, means, extremes and norms over axes of one example, and the softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from certify.graph.operators.affine import Affine, Maps, along_axes
from certify.graph.operators.base import Node, Operator
from certify.lipschitz.parts import Chain

_REDUCTIONS: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "ReduceL1": lambda x, dims, keep: x.abs().sum(dims, keep),
    "ReduceL2": lambda x, dims, keep: x.square().sum(dims, keep).sqrt(),
    "ReduceLogSum": lambda x, dims, keep: x.sum(dims, keep).log(),
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": lambda x, dims, keep: x.amax(dims, keep),
    "ReduceMean": lambda x, dims, keep: x.mean(dims, keep),
    "ReduceMin": lambda x, dims, keep: x.amin(dims, keep),
    "ReduceSum": lambda x, dims, keep: x.sum(dims, keep),
    "ReduceSumSquare": lambda x, dims, keep: x.square().sum(dims, keep),
}


def _product(x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:  # x: (batch, *shape)
    for dim in reversed(dims):  # dims rise, so that those still to come keep their numbers
        x = x.prod(dim, keep)
    return x


_REDUCTIONS["ReduceProd"] = _product


def _dims(node: Node, axes: list[int]) -> tuple[int, ...]:
    """Run-time dimensions of ONNX axes; the batch is dimension 0."""
    return tuple(node.layout().position(axis) + 1 for axis in axes)


@dataclass(frozen=True, kw_only=True)
class Reduce(Affine):
    """One number for each line along the axes, which stay with length 1 or go."""

    types = tuple(_REDUCTIONS)
    dims: tuple[int, ...]
    keep: bool
    reads: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout, keep = node.layout(), bool(node.attributes.get("keepdims", 1))
        named = node.integers(1, "axes") or []
        if not named and node.attributes.get("noop_with_empty_axes", 0):
            raise node.reject("with noop_with_empty_axes is not supported")
        axes = node.axes(named or range(layout.rank))
        sizes = (1 if axis in axes else size for axis, size in enumerate(layout.sizes))
        output = layout.resized(sizes) if keep else layout.without(axes)
        return cls(**cls.common(node, output), dims=_dims(node, axes), keep=keep, reads=math.prod(layout.sizes))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return _REDUCTIONS[self.type](x[0], self.dims, self.keep)

    def parts(self) -> tuple[Chain, ...]:
        return super().parts() if self.type in ("ReduceMean", "ReduceSum") else ()

    def lipschitz(self) -> float:
        if self.type in ("ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMin"):
            return 1.0  # the gradient of each has at most length 1, and no value is read twice
        if self.type == "ReduceL1":
            return math.sqrt(math.prod(self.sources[0][dim - 1] for dim in self.dims)) * (1 + 1e-12)
        raise self.no_constant("its slope is unbounded")

    @property
    def unbounded(self) -> str:
        return super().unbounded if self.type in ("ReduceMean", "ReduceSum") else f"the operator {self.type}"

    def maps(self) -> Maps:
        shape, mean = self.sources[0], self.type == "ReduceMean"
        rows = {dim: partial(np.full, (1, shape[dim - 1]), 1 / shape[dim - 1] if mean else 1.0) for dim in self.dims}
        return (along_axes(shape, {dim: (1, row) for dim, row in rows.items()}),)

    @property
    def flops(self) -> int:
        return self.reads


@dataclass(frozen=True, kw_only=True)
class Softmax(Operator):
    """exp(x) over its sum along an axis, or its logarithm; before opset 13 along all axes from one on."""

    types = ("Softmax", "LogSoftmax")
    first: int
    last: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout = node.layout()
        start = node.axis(int(node.attributes.get("axis", -1 if node.opset >= 13 else 1)))
        axes = [start] if node.opset >= 13 else list(range(start, layout.rank))
        if layout.batch in axes:
            raise node.across_batch()
        dims = _dims(node, axes)
        return cls(**cls.common(node, layout), first=dims[0], last=dims[-1])

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        function = torch.softmax if self.type == "Softmax" else torch.log_softmax
        if self.first == self.last:
            return function(x[0], self.first)
        return function(x[0].flatten(self.first, self.last), self.first).reshape(x[0].shape)

    def lipschitz(self) -> float:
        """1/2, as the variance of bounded values is at most a quarter of their range squared; sqrt(K) for logarithms of K values."""
        if self.type == "Softmax":
            return 0.5
        count = math.prod(self.sources[0][self.first - 1 : self.last])
        return math.sqrt(count) * (1 + 1e-12)

    @property
    def flops(self) -> int:
        return 4 * math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class CumSum(Affine):
    """Running sums along an axis."""

    types = ("CumSum",)
    dim: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        axis = node.constant(1)
        if axis.size != 1 or node.attributes.get("exclusive", 0) or node.attributes.get("reverse", 0):
            raise node.reject("with exclusive or reverse is not supported")
        (dim,) = _dims(node, [node.axis(int(axis.reshape(-1)[0]))])
        return cls(**cls.common(node, node.layout()), dim=dim)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return x[0].cumsum(self.dim)

    def maps(self) -> Maps:
        length = self.sources[0][self.dim - 1]
        return (along_axes(self.sources[0], {self.dim: (length, lambda: np.tril(np.ones((length, length))))}),)


@dataclass(frozen=True, kw_only=True)
class LpNormalization(Operator):
    """x over its l1 or l2 norm along an axis."""

    types = ("LpNormalization",)
    dim: int
    order: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        order = int(node.attributes.get("p", 2))
        if order not in (1, 2):
            raise node.reject(f"has p = {order}")
        (dim,) = _dims(node, [node.axis(int(node.attributes.get("axis", -1)))])
        return cls(**cls.common(node, node.layout()), dim=dim, order=order)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        norm = x[0].norm(self.order, self.dim, keepdim=True)
        return torch.where(norm == 0, torch.zeros_like(x[0]), x[0] / norm)

    def lipschitz(self) -> float:
        raise self.no_constant("dividing by a norm is not Lipschitz at zero")

    @property
    def flops(self) -> int:
        return 3 * math.prod(self.shape)
