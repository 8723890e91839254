"""Operators that move values and never compute; the batch axis stays where it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from certify.graph.operators.base import Node, Operator, Shape

# Stands for the unknown batch size in shape arithmetic (Shape -> Gather -> Concat -> Reshape); no real size can be this.
BATCH = -(2**62)
MAX_AXES = 16


@dataclass(frozen=True, kw_only=True)
class Reshape(Operator):
    """Another shape for the values of each example: Reshape, Flatten, Squeeze, Unsqueeze."""

    types = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape = node.shapes[node.data(0)]
        target = {"Reshape": _reshaped, "Flatten": _flattened, "Squeeze": _squeezed, "Unsqueeze": _unsqueezed}[node.type](node, shape)
        if math.prod(target) != math.prod(shape):
            raise node.reject(f"cannot turn examples of shape {list(shape)} into {list(target)}")
        return cls(**cls.common(node, target))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        return x[0].flatten(1) if len(self.shape) == 1 else x[0].reshape(-1, *self.shape)


@dataclass(frozen=True, kw_only=True)
class Transpose(Operator):
    """Axes of each example in another order."""

    types = ("Transpose",)
    order: tuple[int, ...]

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape = node.shapes[node.data(0)]
        order = [int(v) for v in node.attributes.get("perm") or reversed(range(len(shape) + 1))]
        if sorted(order) != list(range(len(shape) + 1)):
            raise node.reject(f"has the order {order} for {len(shape) + 1} axes")
        if order[0] != 0:
            raise node.reject("moves the batch axis", "keep axis 0 first")
        return cls(**cls.common(node, tuple(shape[axis - 1] for axis in order[1:])), order=tuple(order))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *any)
        return x[0].permute(self.order)


def axes_of(node: Node) -> list[int]:
    """The axes of Squeeze and Unsqueeze: an attribute before opset 13, an input since."""
    if node.has(1):
        return [int(v) for v in node.constant(1).reshape(-1)]
    return [int(v) for v in node.attributes.get("axes") or ()]


def _reshaped(node: Node, shape: Shape) -> Shape:
    if node.attributes.get("allowzero", 0):
        raise node.reject("with allowzero is not supported")
    if node.constant(1).size > MAX_AXES:
        raise node.reject(f"has a target of {node.constant(1).size} axes")
    target = [int(v) for v in node.constant(1).reshape(-1)]
    if not target:
        raise node.reject("to a scalar merges the examples of a batch")
    rest = [shape[i] if v == 0 and i < len(shape) else v for i, v in enumerate(target[1:])]
    if BATCH in rest or any(v < -1 or v == 0 for v in rest) or rest.count(-1) > 1:
        raise node.reject("has a target shape that does not keep the batch axis first")
    if -1 in rest:
        known, total = math.prod(v for v in rest if v != -1), math.prod(shape)
        if target[0] == -1 or total % known:
            raise node.reject(f"cannot turn examples of shape {list(shape)} into {target[1:]}")
        rest[rest.index(-1)] = total // known
    # A leading 1 is the batch of one that the file was exported with.
    if target[0] not in (0, 1, -1, BATCH):
        raise node.reject(f"fixes the batch axis to {target[0]}", "reshape with -1 or the batch size first")
    return tuple(rest)


def _flattened(node: Node, shape: Shape) -> Shape:
    axis = int(node.attributes.get("axis", 1))
    axis = axis + len(shape) + 1 if axis < 0 else axis
    if axis > len(shape) + 1 or (axis != 1 and not (axis > 1 and math.prod(shape[: axis - 1]) == 1)):
        raise node.reject(f"at axis {axis} merges the batch axis", "flatten at axis 1")
    return (math.prod(shape),)


def _squeezed(node: Node, shape: Shape) -> Shape:
    rank = len(shape) + 1
    axes = [axis % rank if -rank <= axis < rank else 0 for axis in axes_of(node)]
    if not axes or 0 in axes or any(shape[axis - 1] != 1 for axis in axes):
        raise node.reject("must name axes of length 1, never the batch axis")
    return tuple(size for i, size in enumerate(shape) if i + 1 not in axes)


def _unsqueezed(node: Node, shape: Shape) -> Shape:
    axes = axes_of(node)
    rank = len(shape) + 1 + len(axes)
    axes = sorted(axis % rank for axis in axes if -rank <= axis < rank)
    if not axes or 0 in axes or len(set(axes)) != rank - len(shape) - 1:
        raise node.reject("must name new axes, never in front of the batch axis")
    sizes = iter(shape)
    return tuple(1 if i in axes else next(sizes) for i in range(1, rank))


def fold(node_type: str, attributes: Mapping[str, Any], values: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any] | None:
    """The value of a node whose inputs are all constants, for the few types that exports leave on parameters and shapes."""
    if node_type in ("Identity",):
        return values[0]
    if node_type == "Transpose":
        return np.transpose(values[0], attributes.get("perm"))
    if node_type == "Concat":
        return np.concatenate(values, axis=int(attributes["axis"]))
    if node_type == "Gather":
        return np.take(values[0], values[1].astype(np.int64), axis=int(attributes.get("axis", 0)))
    if node_type == "Cast" and values[0].dtype == np.int64 and attributes.get("to") == 7:
        return values[0]
    if node_type in ("Unsqueeze", "Squeeze"):
        axes = tuple(int(v) for v in (values[1].reshape(-1) if len(values) > 1 else attributes.get("axes") or ()))
        return np.expand_dims(values[0], axes) if node_type == "Unsqueeze" else np.squeeze(values[0], axes or None)
    if node_type == "Reshape" and not attributes.get("allowzero", 0) and not np.any(values[1] == BATCH):
        target = [values[0].shape[i] if v == 0 else int(v) for i, v in enumerate(values[1].reshape(-1))]
        return values[0].reshape(target)
    return None
