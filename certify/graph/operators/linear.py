"""Matrix products with a constant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from certify.graph.layout import Layout
from certify.graph.operators.affine import Affine, Maps, along_axes, linear_form, spreads, too_large
from certify.graph.operators.base import Array, Node, Operator
from certify.lipschitz.parts import Chain


@dataclass(frozen=True, kw_only=True)
class Linear(Operator):
    """x @ weight.T + bias on the last axis: Gemm, and MatMul with a matrix on the right."""

    types = ("Gemm",)
    alpha: float = 1.0
    beta: float = 1.0

    @classmethod
    def read(cls, node: Node) -> Operator:
        attributes = node.attributes
        if attributes.get("transA", 0):
            raise node.reject("with transA mixes the examples of a batch")
        weight = node.weight(1) if attributes.get("transB", 0) else node.weight(1).T
        layout = cls._layout(node, weight)
        if layout.rank != 2:
            raise node.reject(f"needs examples of one axis, not of shape {list(layout.shape)}")
        weights = {"weight": weight}
        if node.has(2):
            weights["bias"] = cls._bias(node, weight.shape[0])
        alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
        return cls(**cls.common(node, layout, weights=weights), alpha=alpha, beta=beta)

    @classmethod
    def of_matmul(cls, node: Node) -> Operator:
        weight = node.weight(1).T
        return cls(**cls.common(node, cls._layout(node, weight), weights={"weight": weight}))

    @staticmethod
    def _layout(node: Node, weight: Array) -> Layout:
        layout = node.layout()
        if weight.ndim != 2 or layout.sizes[-1] != weight.shape[1]:
            raise node.reject(f"cannot multiply examples of shape {list(layout.shape)} by a weight of shape {list(weight.T.shape)}")
        node.axis(-1)
        return layout.resized((*layout.sizes[:-1], weight.shape[0]))

    @staticmethod
    def _bias(node: Node, features: int) -> Array:
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
        if len(self.shape) > 1:
            bias = self.weights.get("bias")
            return linear_form(self, self._maps(), offset=None if bias is None else bias.astype(np.float64) * self.beta)
        if self.alpha == 1.0 and self.beta == 1.0 and "bias" in self.weights:
            return self
        # Without a bias the product is traced as another operator, of which the engine gives no margins.
        bias = self.weights.get("bias", np.zeros(self.shape[-1]))
        scaled = {"weight": self.weights["weight"].astype(np.float64) * self.alpha, "bias": bias.astype(np.float64) * self.beta}
        return replace(self, weights=scaled, alpha=1.0, beta=1.0)

    @property
    def follows(self) -> bool:
        return True

    def sized(self) -> Operator:
        return replace(super().sized(), alpha=abs(self.alpha), beta=abs(self.beta))  # type: ignore[call-arg]

    @property
    def unbounded(self) -> str:
        return "" if len(self.shape) == 1 else too_large(self.type, self._maps())

    def parts(self) -> tuple[Chain, ...]:
        return tuple(spreads(chain, 0 if self.alpha == 1.0 else 1, given=True) for chain in self._maps())

    def _maps(self) -> Maps:
        matrix, shape = self.weights["weight"], self.sources[0]
        return (along_axes(shape, {len(shape): (len(matrix), lambda: matrix.astype(np.float64) * self.alpha)}),)

    @property
    def flops(self) -> int:
        return 2 * math.prod(self.shape) * int(self.weights["weight"].shape[1])


@dataclass(frozen=True, kw_only=True)
class LeftMatMul(Affine):
    """weight @ x with a matrix on the left: acts on the second to last axis of each example."""

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout, weight = node.layout(1), node.weight(0)
        if layout.rank < 2 or layout.sizes[-2] != weight.shape[1]:
            raise node.reject(f"cannot multiply a weight of shape {list(weight.shape)} by examples of shape {list(layout.shape)}")
        node.axis(-2, 1)
        if layout.batch is not None and layout.batch == layout.rank - 1:
            raise node.reject("needs the batch axis before the last two axes")
        output = layout.resized((*layout.sizes[:-2], weight.shape[0], layout.sizes[-1]))
        return cls(**cls.common(node, output, inputs=(node.data(1),), weights={"weight": weight}))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, ..., in, columns)
        return F.linear(x[0].transpose(-1, -2), weights["weight"]).transpose(-1, -2)

    @property
    def follows(self) -> bool:
        return True

    def maps(self) -> Maps:
        matrix, shape = self.weights["weight"], self.sources[0]
        return (along_axes(shape, {len(shape) - 1: (len(matrix), lambda: matrix)}),)

    @property
    def flops(self) -> int:
        return 2 * math.prod(self.shape) * int(self.weights["weight"].shape[1])
