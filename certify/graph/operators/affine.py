"""Linear maps and arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from certify.graph.operators.base import Node, Operator, Shape

_ARITHMETIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div}


@dataclass(frozen=True, kw_only=True)
class Linear(Operator):
    """x @ weight.T + bias on the last axis: Gemm, and MatMul with a constant on the right."""

    types = ("Gemm", "MatMul")
    alpha: float = 1.0
    beta: float = 1.0

    @classmethod
    def read(cls, node: Node) -> Operator:
        if node.type == "MatMul":
            return LeftMatMul.read(node) if node.inputs[0] in node.constants else cls._matmul(node)
        attributes = node.attributes
        if attributes.get("transA", 0):
            raise node.reject("with transA mixes the examples of a batch")
        weight = node.weight(1) if attributes.get("transB", 0) else node.weight(1).T
        shape = cls._shape(node, weight, rank=1)
        weights = {"weight": weight}
        if node.has(2):
            weights["bias"] = cls._bias(node, weight.shape[0])
        return cls(
            **cls.common(node, shape, weights=weights),
            alpha=float(attributes.get("alpha", 1.0)),
            beta=float(attributes.get("beta", 1.0)),
        )

    @classmethod
    def _matmul(cls, node: Node) -> Operator:
        if len(node.shapes) > 1:
            raise node.reject("of two data tensors is not supported")
        weight = node.weight(1).T
        return cls(**cls.common(node, cls._shape(node, weight), weights={"weight": weight}))

    @staticmethod
    def _shape(node: Node, weight: np.ndarray[Any, Any], rank: int | None = None) -> Shape:
        shape = node.shapes[node.data(0)]
        if weight.ndim != 2 or not shape or shape[-1] != weight.shape[1] or (rank and len(shape) != rank):
            raise node.reject(f"cannot multiply examples of shape {list(shape)} by a weight of shape {list(weight.T.shape)}")
        return (*shape[:-1], weight.shape[0])

    @staticmethod
    def _bias(node: Node, features: int) -> np.ndarray[Any, Any]:
        bias = node.weight(2)
        if bias.size not in (1, features) or (bias.ndim == 2 and bias.shape[0] != 1) or bias.ndim > 2:
            raise node.reject(f"has a bias of shape {list(bias.shape)} for {features} outputs")
        return np.broadcast_to(bias.reshape(-1), (features,))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, ..., in)
        bias = weights.get("bias")
        if self.alpha == 1.0 and self.beta == 1.0:
            return F.linear(x[0], weights["weight"], bias)
        product = F.linear(x[0], weights["weight"]) * self.alpha
        return product if bias is None else product + bias * self.beta

    def for_bounds(self) -> Operator:
        if self.alpha == 1.0 and self.beta == 1.0:
            return self
        scaled = {"weight": self.weights["weight"].astype(np.float64) * self.alpha}
        if "bias" in self.weights:
            scaled["bias"] = self.weights["bias"].astype(np.float64) * self.beta
        return Linear(type=self.type, name=self.name, inputs=self.inputs, output=self.output, shape=self.shape, weights=scaled)

    @property
    def unbounded(self) -> str:
        return "" if len(self.shape) == 1 else "a matrix product on examples of more than one axis"


@dataclass(frozen=True, kw_only=True)
class LeftMatMul(Operator):
    """weight @ x with a constant on the left: acts on the second to last axis of each example."""

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape, weight = node.shapes[node.data(1)], node.weight(0)
        if weight.ndim != 2 or len(shape) < 2 or shape[-2] != weight.shape[1]:
            raise node.reject(f"cannot multiply a weight of shape {list(weight.shape)} by examples of shape {list(shape)}")
        output = (*shape[:-2], weight.shape[0], shape[-1])
        return cls(**cls.common(node, output, inputs=(node.data(1),), weights={"weight": weight}))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, ..., in, columns)
        return F.linear(x[0].transpose(-1, -2), weights["weight"]).transpose(-1, -2)

    @property
    def unbounded(self) -> str:
        return "a matrix product with the constant on the left"


@dataclass(frozen=True, kw_only=True)
class Arithmetic(Operator):
    """Add, Sub, Mul, Div of two data tensors of one shape, or of data and a constant that no example shares with another."""

    types = ("Add", "Sub", "Mul", "Div")
    constant_first: bool = False
    widens: bool = False

    @classmethod
    def read(cls, node: Node) -> Operator:
        if len(node.inputs) != 2:
            raise node.reject(f"needs two inputs, has {len(node.inputs)}")
        if not node.constants:
            return cls._of_data(node)
        first = node.inputs[0] in node.constants
        data, constant = node.data(1 if first else 0), node.weight(0 if first else 1)
        shape = node.shapes[data]
        constant = cls._unbatched(node, constant, shape)
        if node.type == "Div" and not first and not np.all(constant):
            raise node.reject("divides by zero")
        output = tuple(np.broadcast_shapes(shape, constant.shape))
        return cls(**cls.common(node, output, inputs=(data,), weights={"constant": constant}), constant_first=first, widens=output != shape)

    @classmethod
    def _of_data(cls, node: Node) -> Operator:
        left, right = (node.shapes[name] for name in node.inputs)
        if len(left) != len(right):
            raise node.reject(f"would align the batch axis with another one: shapes {list(left)} and {list(right)}")
        try:
            shape = tuple(np.broadcast_shapes(left, right))
        except ValueError:
            raise node.reject(f"cannot combine shapes {list(left)} and {list(right)}") from None
        return cls(**cls.common(node, shape, inputs=(node.data(0), node.data(1))), widens=left != right)

    @staticmethod
    def _unbatched(node: Node, constant: np.ndarray[Any, Any], shape: Shape) -> np.ndarray[Any, Any]:
        """The constant without a leading batch axis of length 1; a longer one would treat examples differently by their place."""
        if constant.ndim > len(shape):
            # More axes than the batched data would push the batch axis away from the front.
            if constant.ndim > len(shape) + 1 or constant.shape[0] != 1:
                raise node.reject(f"has a constant of shape {list(constant.shape)} along the batch axis")
            constant = constant[0]
        try:
            np.broadcast_shapes(shape, constant.shape)
        except ValueError:
            raise node.reject(f"cannot combine examples of shape {list(shape)} with a constant of shape {list(constant.shape)}") from None
        return constant

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape) each
        left, right = x if len(x) == 2 else (x[0], weights["constant"])
        if self.constant_first:
            left, right = right, left
        return _ARITHMETIC[self.type](left, right)

    @property
    def unbounded(self) -> str:
        if self.type in ("Mul", "Div") and len(self.inputs) == 2:
            return "a product or quotient of two data tensors"
        if self.widens:  # bounds on broadcast data have not been shown sound
            return "arithmetic that broadcasts data to a larger shape"
        return "a constant divided by data" if self.type == "Div" and self.constant_first else ""


@dataclass(frozen=True, kw_only=True)
class ScaleShift(Operator):
    """x * scale + shift with per-channel constants: what a normalisation in eval mode is."""

    @classmethod
    def read(cls, node: Node) -> Operator:
        raise node.reject("is not an ONNX operator")

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return x[0] * weights["scale"] + weights["shift"]
