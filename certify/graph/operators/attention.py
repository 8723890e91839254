"""Attention as one operator, which exporters write since opset 23."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from certify.graph.layout import Layout, Shape
from certify.graph.operators.arithmetic import beside
from certify.graph.operators.base import Array, Node, Operator


@dataclass(frozen=True, kw_only=True)
class Attention(Operator):
    """softmax(scale * queries @ keys^T + mask) @ values for each head of each example."""

    types = ("Attention",)
    scale: float
    heads: tuple[int, int]  # of the queries, and of keys and values
    packed: bool  # heads and features share the last axis
    work: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        if any(node.has(i) for i in (4, 5, 6)) or node.attributes.get("softcap", 0.0) or len(node.inputs) < 3:
            raise node.reject("with past keys, padding lengths or softcap is not supported")
        shapes = [node.shape(i) for i in range(3)]
        packed = len(shapes[0]) == 2
        heads = tuple(int(node.attributes.get(name, 0)) for name in ("q_num_heads", "kv_num_heads")) if packed else _heads(shapes)
        queries, keys, values = (_by_head(node, shape, h) for shape, h in zip(shapes, (heads[0], heads[1], heads[1]), strict=True))
        if queries[2] != keys[2] or keys[1] != values[1] or heads[0] % heads[1]:
            raise node.reject(f"cannot combine shapes {[list(shape) for shape in shapes]}")
        scale = float(node.attributes.get("scale", 1 / math.sqrt(queries[2])))
        output = (heads[0], queries[1], values[2])
        layout = Layout.of_example((queries[1], heads[0] * values[2]) if packed else output)
        scores = (heads[0], queries[1], keys[1])
        cls.common(node, Layout.of_example(scores))  # they are made on the way
        weights = _mask(node, scores)
        common = cls.common(node, layout, inputs=tuple(node.inputs[:3]), weights=weights)
        return cls(
            **common,
            scale=scale,
            heads=(heads[0], heads[1]),
            packed=packed,
            work=2 * math.prod(scores) * (queries[2] + values[2]),
            on_the_way=math.prod(scores),
        )

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, [heads,] length, features) each
        q, k, v = (self._split(value, h) for value, h in zip(x, (self.heads[0], self.heads[1], self.heads[1]), strict=True))
        if self.heads[0] != self.heads[1]:
            k, v = (value.repeat_interleave(self.heads[0] // self.heads[1], 1) for value in (k, v))
        made: Tensor = F.scaled_dot_product_attention(q, k, v, attn_mask=weights.get("mask"), scale=self.scale)
        return made.transpose(1, 2).flatten(2) if self.packed else made

    def lipschitz(self) -> float:
        raise self.no_constant("dot-product attention is not Lipschitz on an unbounded domain")

    def _split(self, value: Tensor, heads: int) -> Tensor:  # value: (batch, [heads,] length, features)
        return value.reshape(*value.shape[:2], heads, -1).transpose(1, 2) if self.packed else value

    @property
    def flops(self) -> int:
        return self.work


def _heads(shapes: list[Shape]) -> tuple[int, int]:
    return shapes[0][0], shapes[1][0]


def _by_head(node: Node, shape: Shape, heads: int) -> Shape:
    """(heads, length, features) of one example."""
    if len(shape) == 2 and heads > 0 and shape[1] % heads == 0:
        return heads, shape[0], shape[1] // heads
    if len(shape) == 3 and shape[0] == heads:
        return shape
    raise node.reject(f"cannot make {heads} heads of examples of shape {list(shape)}")


def _mask(node: Node, scores: Shape) -> dict[str, Array]:
    """What is added to the scores: minus infinity where a query may not look."""
    mask = np.zeros((), np.float32)
    if node.has(3):
        given = beside(node, Layout.of_example(scores), 3)
        mask = np.where(given, np.float32(0), np.float32(-np.inf)) if given.dtype == np.bool_ else given.astype(np.float32)
    if node.attributes.get("is_causal", 0):
        mask = mask + np.triu(np.full(scores[1:], -np.inf, np.float32), 1)
    if not mask.ndim:
        return {}
    if mask.ndim > len(scores) or np.broadcast_shapes(mask.shape, scores) != scores:
        raise node.reject(f"has a mask of shape {list(mask.shape)} for scores of shape {list(scores)}")
    return {"mask": np.broadcast_to(mask, scores[1:] if mask.ndim <= 2 else mask.shape)}
