"""Normalisation with stored statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from certify.graph.operators.affine import ScaleShift
from certify.graph.operators.base import Node, Operator


@dataclass(frozen=True, kw_only=True)
class BatchNormalization(Operator):
    """(x - mean) / sqrt(var + epsilon) * scale + bias for each channel, with the statistics of the file, never of the batch."""

    types = ("BatchNormalization",)
    epsilon: float

    @classmethod
    def read(cls, node: Node) -> Operator:
        if node.attributes.get("training_mode", 0):
            raise node.reject("in training mode mixes the examples of a batch", "call model.eval() before the export")
        if not node.attributes.get("spatial", 1):
            raise node.reject("with spatial = 0 is not supported")
        shape = node.shapes[node.data(0)]
        weights = {name: node.weight(i + 1) for i, name in enumerate(("scale", "bias", "mean", "var"))}
        if not shape or any(value.shape != (shape[0],) for value in weights.values()):
            raise node.reject(f"has statistics that do not fit examples of shape {list(shape)}")
        epsilon = float(node.attributes.get("epsilon", 1e-5))
        if not np.all(weights["var"].astype(np.float64) + epsilon > 0):
            raise node.reject("has a negative variance")
        return cls(**cls.common(node, shape, weights=weights), epsilon=epsilon)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, ...)
        return F.batch_norm(x[0], weights["mean"], weights["var"], weights["scale"], weights["bias"], False, 0.0, self.epsilon)

    def for_bounds(self) -> Operator:
        """One multiplication and one addition, made in float64 from the float32 weights of the file."""
        exact = {name: value.astype(np.float64) for name, value in self.weights.items()}
        scale = exact["scale"] / np.sqrt(exact["var"] + self.epsilon)
        shift = exact["bias"] - exact["mean"] * scale
        channels = (-1,) + (1,) * (len(self.shape) - 1)
        return ScaleShift(
            type="ScaleShift",
            name=self.name,
            inputs=self.inputs,
            output=self.output,
            shape=self.shape,
            weights={"scale": scale.reshape(channels), "shift": shift.reshape(channels)},
        )
