"""Elementwise functions of one variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.graph.operators.base import Node, Operator


@dataclass(frozen=True, kw_only=True)
class Activation(Operator):
    """Relu, Sigmoid, Tanh, Neg."""

    types = ("Relu", "Sigmoid", "Tanh", "Neg")

    @classmethod
    def read(cls, node: Node) -> Operator:
        return cls(**cls.common(node, node.shapes[node.data(0)]))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return {"Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Neg": torch.neg}[self.type](x[0])

    @property
    def unbounded(self) -> str:
        return "a negation" if self.type == "Neg" else ""


@dataclass(frozen=True, kw_only=True)
class LeakyRelu(Operator):
    """max(x, 0) + slope * min(x, 0)."""

    types = ("LeakyRelu",)
    slope: float

    @classmethod
    def read(cls, node: Node) -> Operator:
        return cls(**cls.common(node, node.shapes[node.data(0)]), slope=float(node.attributes.get("alpha", 0.01)))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return F.leaky_relu(x[0], self.slope)

    @property
    def unbounded(self) -> str:
        return "" if 0.0 <= self.slope <= 1.0 else f"a leaky ReLU with slope {self.slope:g}, outside [0, 1]"
