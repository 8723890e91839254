"""Normalisation: with stored statistics, and with those of each example alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from certify.graph.operators.base import Array, Loose, Node, Operator, Weights
from certify.graph.operators.piecewise import ScaleShift
from certify.lipschitz.parts import Chain, Scaled


@dataclass(frozen=True, kw_only=True)
class BatchNormalization(Operator):
    """(x - mean) / sqrt(var + epsilon) * scale + bias for each channel, with the statistics of the file, never of the batch."""

    types = ("BatchNormalization",)
    epsilon: float

    @classmethod
    def read(cls, node: Node) -> Operator:
        # Before opset 14 it is the number of outputs that asks for training.
        if node.attributes.get("training_mode", 0) or sum(map(bool, node.outputs)) > 1:
            raise node.reject("in training mode mixes the examples of a batch", "call model.eval() before the export")
        if not node.attributes.get("spatial", 1):
            raise node.reject("with spatial = 0 is not supported")
        shape = node.shape()
        weights = {name: node.weight(i + 1) for i, name in enumerate(("scale", "bias", "mean", "var"))}
        if not shape or any(value.shape != (shape[0],) for value in weights.values()):
            raise node.reject(f"has statistics that do not fit examples of shape {list(shape)}")
        epsilon = _epsilon(node)
        if not np.all(weights["var"].astype(np.float64) + epsilon > 0):
            raise node.reject("has a negative variance")
        return cls(**cls.common(node, node.layout(), weights=weights), epsilon=epsilon)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, ...)
        return F.batch_norm(x[0], weights["mean"], weights["var"], weights["scale"], weights["bias"], False, 0.0, self.epsilon)

    def parts(self) -> tuple[Chain, ...]:
        return ((Scaled(self._scale().reshape(-1, *(1,) * (len(self.shape) - 1)), self.shape, 4),),)

    def _scale(self) -> Array:
        scale: Array = self.weights["scale"].astype(np.float64) / np.sqrt(self.weights["var"].astype(np.float64) + self.epsilon)
        return scale

    @property
    def unbounded(self) -> str:
        return ""

    def for_bounds(self) -> Operator:
        """One multiplication and one addition, made in float64 from the float32 weights of the file."""
        exact = {name: value.astype(np.float64) for name, value in self.weights.items()}
        scale = exact["scale"] / np.sqrt(exact["var"] + self.epsilon)
        shift = exact["bias"] - exact["mean"] * scale
        channels = (-1,) + (1,) * (len(self.shape) - 1)
        return ScaleShift.of(self, {"scale": scale.reshape(channels), "shift": shift.reshape(channels)})

    @property
    def follows(self) -> bool:
        return True

    def line_off(self, name: str, off: Weights | None = None) -> Array:
        """At least how far the factor ("scale") or the shift of the line that it is can be off: (channels,), float64.

        With f = scale / std, |f - f'| <= |scale - scale'| / least + |scale| |var - var'| / (2 least^3), least the smallest std there is.

        Args:
            off: how far each statistic can be off; from real arithmetic, when left out.
        """
        known = {key: np.zeros(1) for key in self.weights} | dict(self.loose.errors() if off is None else off)
        exact = {key: np.abs(value.astype(np.float64)) for key, value in self.weights.items()}
        least = exact["var"] - known["var"] + self.epsilon
        least = np.sqrt(np.where(least > 0, least, np.nan))
        factor = exact["scale"] / np.sqrt(exact["var"] + self.epsilon)
        of_factor = known["scale"] / least + exact["scale"] * known["var"] / (2 * least**3)
        of_shift = known["bias"] + (exact["mean"] + known["mean"]) * of_factor + known["mean"] * factor
        found = (of_factor if name == "scale" else of_shift) * (1 + 1e-8)
        return np.where(np.isnan(found), np.inf, found)

    def sized(self) -> Operator:
        """One factor and one shift, whatever statistics they are made of."""
        exact = {name: np.abs(value.astype(np.float64)) for name, value in self.weights.items()}
        std = np.sqrt(exact["var"] + self.epsilon)
        factor = exact["scale"] / std + self.line_off("scale") / Loose.UNITS
        shift = exact["bias"] + exact["mean"] * exact["scale"] / std + self.line_off("shift") / Loose.UNITS
        weights = {"scale": 1.01 * factor * std, "bias": 1.01 * shift, "mean": np.zeros_like(std), "var": self.weights["var"]}
        return replace(self, weights=weights)

    def made_of(self) -> Weights:
        exact = {name: value.astype(np.float64) for name, value in self.weights.items()}
        size = np.abs(exact["bias"]) + np.abs(exact["mean"] * exact["scale"]) / np.sqrt(exact["var"] + self.epsilon)
        return {"shift": self.spread(size.reshape((-1,) + (1,) * (len(self.shape) - 1)))}

    @property
    def flops(self) -> int:
        return 2 * math.prod(self.shape)


def _useless(scale: Array, epsilon: float) -> str:
    if epsilon == 0:
        return "it is not Lipschitz where all its values are equal: train without it"
    constant = float(np.abs(scale).max()) / math.sqrt(epsilon)
    return f"its global constant is |scale| / sqrt(epsilon) = {constant:.0f}, useless: train without it"


def _epsilon(node: Node) -> float:
    epsilon = float(node.attributes.get("epsilon", np.float32(1e-5)))
    if epsilon < 0:
        raise node.reject(f"has epsilon = {epsilon:g}")
    return epsilon


@dataclass(frozen=True, kw_only=True)
class LayerNormalization(Operator):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, mean and variance over the last axes; without the mean for RMS."""

    types = ("LayerNormalization", "RMSNormalization")
    normalised: tuple[int, ...]
    epsilon: float

    @classmethod
    def read(cls, node: Node) -> Operator:
        layout = node.layout()
        start = node.axis(int(node.attributes.get("axis", -1)))
        if layout.batch is not None and layout.batch > start:
            raise node.across_batch()
        normalised = layout.sizes[start:]
        weights = {"scale": cls._affine(node, 1, normalised)}
        if node.has(2):
            weights["bias"] = cls._affine(node, 2, normalised)
        return cls(**cls.common(node, layout, weights=weights), normalised=normalised, epsilon=_epsilon(node))

    @staticmethod
    def _affine(node: Node, position: int, normalised: tuple[int, ...]) -> Array:
        value = node.weight(position)
        if value.ndim > len(normalised) or np.broadcast_shapes(value.shape, normalised) != normalised:
            raise node.reject(f"has a weight of shape {list(value.shape)} for the axes {list(normalised)}")
        return np.ascontiguousarray(np.broadcast_to(value, normalised))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, ..., *normalised)
        if self.type == "LayerNormalization":
            return F.layer_norm(x[0], self.normalised, weights["scale"], weights.get("bias"), self.epsilon)
        return F.rms_norm(x[0], self.normalised, weights["scale"], self.epsilon)

    def lipschitz(self) -> float:
        raise self.no_constant(_useless(self.weights["scale"], self.epsilon))

    @property
    def flops(self) -> int:
        return 5 * math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class GroupNormalization(Operator):
    """As layer normalisation, over all positions of a group of channels of one example; instance normalisation has one channel a group."""

    types = ("GroupNormalization", "InstanceNormalization")
    groups: int
    epsilon: float

    @classmethod
    def read(cls, node: Node) -> Operator:
        shape = node.shape()
        groups = int(node.attributes.get("num_groups", 0)) if node.type == "GroupNormalization" else (shape or (0,))[0]
        if len(shape) < 2 or groups < 1 or shape[0] % groups:
            raise node.reject(f"has {groups} groups for examples of shape {list(shape)}")
        # Before opset 21 a scale and a bias for each group, since then for each channel.
        given = groups if node.type == "GroupNormalization" and node.opset < 21 else shape[0]
        weights = {name: node.weight(i + 1) for i, name in enumerate(("scale", "bias"))}
        if any(value.shape != (given,) for value in weights.values()):
            raise node.reject(f"has weights that do not fit {given} values")
        weights = {name: np.repeat(value, shape[0] // given) for name, value in weights.items()}
        return cls(**cls.common(node, node.layout(), weights=weights), groups=groups, epsilon=_epsilon(node))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, ...)
        return F.group_norm(x[0], self.groups, weights["scale"], weights["bias"], self.epsilon)

    def lipschitz(self) -> float:
        raise self.no_constant(_useless(self.weights["scale"], self.epsilon))

    @property
    def flops(self) -> int:
        return 5 * math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class LocalResponse(Operator):
    """x / (bias + alpha * mean of x^2 over neighbouring channels) ^ beta."""

    types = ("LRN",)
    size: int
    alpha: float
    beta: float
    bias: float

    @classmethod
    def read(cls, node: Node) -> Operator:
        size, shape = int(node.attributes.get("size", 0)), node.shape()
        if len(shape) < 2 or not 1 <= size <= 2 * shape[0]:
            raise node.reject(f"has size {size} for examples of shape {list(shape)}")
        defaults = {"alpha": np.float32(1e-4), "beta": 0.75, "bias": 1.0}
        alpha, beta, bias = (float(node.attributes.get(name, default)) for name, default in defaults.items())
        if alpha < 0 or bias <= 0:
            raise node.reject(f"has alpha = {alpha:g} and bias = {bias:g}, so that it may be the power of a negative number")
        return cls(**cls.common(node, node.layout()), size=size, alpha=alpha, beta=beta, bias=bias)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, channels, ...)
        squares = x[0].square().flatten(2).transpose(1, 2)  # (batch, positions, channels)
        padded = F.pad(squares, ((self.size - 1) // 2, self.size // 2))
        mean = F.avg_pool1d(padded, self.size, 1).transpose(1, 2).reshape(x[0].shape)
        return x[0] / torch.pow(self.bias + self.alpha * mean, self.beta)

    def lipschitz(self) -> float:
        raise self.no_constant("no useful Lipschitz constant of it is known: train without it")

    @property
    def flops(self) -> int:
        return (self.size + 4) * math.prod(self.shape)
