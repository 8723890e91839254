"""Elementwise functions of one variable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from certify.graph.operators.base import Node, Operator
from certify.graph.operators.piecewise import ScaleShift, bend, two_sided
from certify.lipschitz.parts import Chain, Scaled

# The functions bound propagation has been shown sound for.
_BOUNDED = frozenset({"Abs", "Neg", "Relu", "Sigmoid", "Tanh"})


def _cosh(x: Tensor) -> Tensor:  # x: (batch, *shape)
    """torch's own overflows before the function does."""
    half = torch.exp(x.abs() / 2)
    return (half / 2) * half + (0.5 / half) / half


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": _cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": lambda x: x * (x / 6 + 0.5).clamp(0, 1),  # in this order nothing overflows
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": lambda x: 1 - x,  # truth values are the numbers 0 and 1
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}

# The largest slopes, rounded up: docs/lipschitz.md has the proofs.
_SLOPES: dict[str, float] = {
    "Abs": 1.0,
    "Asinh": 1.0,
    "Atan": 1.0,
    "Cos": 1.0,
    "Erf": 1.12838,
    "HardSwish": 1.5,
    "Mish": 1.08850,
    "Relu": 1.0,
    "Sigmoid": 0.25,
    "Sin": 1.0,
    "Softsign": 1.0,
    "Tanh": 1.0,
}
_WITHOUT: dict[str, str] = {
    "Acos": "its slope is unbounded at -1 and 1",
    "Acosh": "its slope is unbounded at 1",
    "Asin": "its slope is unbounded at -1 and 1",
    "Atanh": "its slope is unbounded at -1 and 1",
    "Ceil": "it jumps",
    "Cosh": "its slope is unbounded",
    "Exp": "its slope is unbounded",
    "Floor": "it jumps",
    "Log": "its slope is unbounded at 0",
    "Reciprocal": "its slope is unbounded at 0",
    "Round": "it jumps",
    "Sign": "it jumps",
    "Sinh": "its slope is unbounded",
    "Sqrt": "it is not Lipschitz at 0",
    "Tan": "its slope is unbounded",
}
_SWISH = 1.09985  # of x * sigmoid(a * x) for every a that is not 0: the slope is a function of a * x alone
_LINEAR = 2.0**60  # from here on, and long before, Gelu is x in float64 as well
_GELU = {"none": 1.12891, "tanh": 1.12900}


@dataclass(frozen=True, kw_only=True)
class Activation(Operator):
    """A function without parameters."""

    relaxed: ClassVar[bool] = True

    types = tuple(_FUNCTIONS)

    @classmethod
    def read(cls, node: Node) -> Operator:
        return cls(**cls.common(node, node.layout()))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return _FUNCTIONS[self.type](x[0])

    def parts(self) -> tuple[Chain, ...]:
        return ((Scaled(np.array(-1.0), self.shape),),) if self.type in ("Neg", "Not") else ()

    def lipschitz(self) -> float:
        if self.type in _SLOPES:
            return _SLOPES[self.type]
        raise self.no_constant(_WITHOUT[self.type])

    @property
    def gate(self) -> float:
        return _SWISH if self.type == "Sigmoid" else math.inf

    @property
    def unbounded(self) -> str:
        return "" if self.type in _BOUNDED else super().unbounded

    def for_bounds(self) -> Operator:
        if self.type == "Neg":
            return ScaleShift.of(self, {"scale": np.full(1, -1.0), "shift": np.zeros(1)})
        return two_sided(self, np.ones(1)) if self.type == "Abs" else self


def _softplus(x: Tensor) -> Tensor:  # x: (batch, *shape)
    # torch's own becomes linear above a threshold, or overflows where there is none.
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


# Parameters in the order in which the function takes them, with the defaults of the ONNX standard: float32 numbers, as all attributes.
_PARAMETERS: dict[str, dict[str, float]] = {
    "Celu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": float(np.float32(0.2)), "beta": 0.5},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "Shrink": {"lambd": 0.5, "bias": 0.0},
    "Softplus": {},
    "Swish": {"alpha": 1.0},
    "ThresholdedRelu": {"alpha": 1.0},
}
_LARGEST_ALPHA = 2**10
_WITH_PARAMETERS: dict[str, Callable[..., Tensor]] = {
    # max(x, 0) + min(0, a (exp(x / a) - 1)), for either sign of a: the second is 0 wherever x is positive.
    "Celu": lambda x, a: x.clamp(min=0) + a * torch.expm1(x.clamp(max=0) / a),
    "Elu": lambda x, a: x.clamp(min=0) + a * torch.expm1(x.clamp(max=0)),
    "HardSigmoid": lambda x, a, b: (a * x + b).clamp(0, 1),
    "Selu": lambda x, a, g: g * (x.clamp(min=0) + a * torch.expm1(x.clamp(max=0))),
    "Shrink": lambda x, limit, b: torch.where(x < -limit, x + b, torch.where(x > limit, x - b, torch.zeros_like(x))),
    "Softplus": _softplus,
    "Swish": lambda x, a: x * torch.sigmoid(a * x),
    "ThresholdedRelu": lambda x, a: torch.where(x > a, x, torch.zeros_like(x)),
}


@dataclass(frozen=True, kw_only=True)
class Parametric(Operator):
    """A function with a few numbers from the file."""

    relaxed: ClassVar[bool] = True

    types = tuple(_PARAMETERS)
    parameters: tuple[float, ...]

    @classmethod
    def read(cls, node: Node) -> Operator:
        values = tuple(float(node.attributes.get(name, default)) for name, default in _PARAMETERS[node.type].items())
        if node.type == "Celu" and values[0] == 0:
            raise node.reject("has alpha = 0")
        if node.type in ("Celu", "Elu", "Selu") and abs(math.prod(values)) > _LARGEST_ALPHA:
            # Runtimes take 1 from exp(x), rounded: what is left of a small x would be another function.
            raise node.reject(f"has the factor {math.prod(values):g}, more than {_LARGEST_ALPHA}, before exp(x) - 1")
        return cls(**cls.common(node, node.layout()), parameters=values)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return _WITH_PARAMETERS[self.type](x[0], *self.parameters)

    def lipschitz(self) -> float:
        first, second = (*map(abs, self.parameters), 0.0, 0.0)[:2]
        if self.type in ("Shrink", "ThresholdedRelu"):
            # One that takes away what lies between its thresholds, and no more, does not jump.
            limit, away = (*self.parameters, 0.0)[:2]
            if limit < 0 or away != limit:
                raise self.no_constant("it jumps at its threshold")
            return 1.0
        if self.type == "Celu" and first == -self.parameters[0]:
            raise self.no_constant("its slope is unbounded for a negative alpha")
        slopes = {
            "Celu": 1.0,
            "Elu": max(1.0, first),
            "HardSigmoid": first,
            "Selu": second * max(1.0, first) * (1 + 1e-12),
            "Softplus": 1.0,
            "Swish": _SWISH,
        }
        return slopes[self.type]

    @property
    def gate(self) -> float:
        """x * clip(a x + b, 0, 1) has the slopes 0 and 1 outside, and -b to 2 - b between, whatever a is."""
        return max(1.0, abs(self.parameters[1]), abs(2.0 - self.parameters[1])) * (1 + 1e-12) if self.type == "HardSigmoid" else math.inf

    @property
    def unbounded(self) -> str:
        return "" if self.type == "HardSigmoid" else super().unbounded

    def for_bounds(self) -> Operator:
        return bend(self, 0.0, 1.0, (self.parameters[0], self.parameters[1])) if self.type == "HardSigmoid" else self


@dataclass(frozen=True, kw_only=True)
class LeakyRelu(Operator):
    """max(x, 0) + slope * min(x, 0)."""

    relaxed: ClassVar[bool] = True

    types = ("LeakyRelu",)
    slope: float

    @classmethod
    def read(cls, node: Node) -> Operator:
        return cls(**cls.common(node, node.layout()), slope=float(node.attributes.get("alpha", np.float32(0.01))))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return F.leaky_relu(x[0], self.slope)

    def lipschitz(self) -> float:
        return max(1.0, abs(self.slope))

    @property
    def unbounded(self) -> str:
        return ""

    def for_bounds(self) -> Operator:
        return self if 0.0 <= self.slope <= 1.0 else two_sided(self, np.full(1, -self.slope, np.float64))


@dataclass(frozen=True, kw_only=True)
class Gelu(Operator):
    """x times the normal distribution function of x, or its approximation by tanh."""

    types = ("Gelu",)
    approximate: str

    @classmethod
    def read(cls, node: Node) -> Operator:
        approximate = node.attributes.get("approximate", b"none").decode()
        if approximate not in ("none", "tanh"):
            raise node.reject(f"has approximate = {approximate!r}")
        return cls(**cls.common(node, node.layout()), approximate=approximate)

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        # torch multiplies by x before it halves: up here, where the function is x, that would overflow.
        return F.gelu(x[0].clamp(max=_LINEAR), approximate=self.approximate) + torch.relu(x[0] - _LINEAR)

    def lipschitz(self) -> float:
        return _GELU[self.approximate]


@dataclass(frozen=True, kw_only=True)
class Clip(Operator):
    """min(max(x, low), high); an end left out is infinite."""

    relaxed: ClassVar[bool] = True

    types = ("Clip",)
    low: float
    high: float

    @classmethod
    def read(cls, node: Node) -> Operator:
        low, high = (cls._end(node, 1 + i, name, end) for i, (name, end) in enumerate((("min", -math.inf), ("max", math.inf))))
        if low > high:
            raise node.reject(f"has min = {low:g} above max = {high:g}")
        return cls(**cls.common(node, node.layout()), low=low, high=high)

    @staticmethod
    def _end(node: Node, position: int, name: str, infinite: float) -> float:
        if node.has(position):
            value = node.constant(position)
            if value.size != 1:
                raise node.reject(f"has {value.size} values for {name}")
            return float(value.reshape(-1)[0])
        return float(node.attributes.get(name, infinite))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return x[0].clamp(self.low, self.high)

    def lipschitz(self) -> float:
        if self.low == math.inf or self.high == -math.inf:
            raise self.no_constant("a clip to infinity")
        return 1.0

    @property
    def unbounded(self) -> str:
        return "" if self.low < math.inf and self.high > -math.inf else "a clip to infinity"

    def for_bounds(self) -> Operator:
        return bend(self, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Truth(Operator):
    """Cast of data to a truth value: 1 where it is not 0. Casts to float change nothing and are not in the graph."""

    types = ("Cast",)

    @classmethod
    def read(cls, node: Node) -> Operator:
        to = int(node.attributes.get("to", 0))
        if to != onnx.TensorProto.BOOL:
            raise node.reject(f"of data to the element type number {to} is not supported", "keep the network in float32")
        return cls(**cls.common(node, node.layout()))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return (x[0] != 0).to(x[0].dtype)

    def lipschitz(self) -> float:
        raise self.no_constant("a truth value jumps")


@dataclass(frozen=True, kw_only=True)
class PRelu(Operator):
    """x where it is positive, slope * x elsewhere; the slope is shared along axes of length 1."""

    relaxed: ClassVar[bool] = True

    types = ("PRelu",)

    @classmethod
    def read(cls, node: Node) -> Operator:
        from certify.graph.operators.arithmetic import beside  # which explains how constants meet data

        slope = node.checked(1, beside(node, node.layout(), 1))
        if np.broadcast_shapes(slope.shape, node.layout().shape) != node.layout().shape:
            raise node.reject(f"has slopes of shape {list(slope.shape)} for examples of shape {list(node.layout().shape)}")
        return cls(**cls.common(node, node.layout(), weights={"slope": slope}))

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape)
        return torch.where(x[0] > 0, x[0], x[0] * weights["slope"])

    def lipschitz(self) -> float:
        return max(1.0, float(np.abs(self.weights["slope"]).max()))

    @property
    def unbounded(self) -> str:
        return ""

    def for_bounds(self) -> Operator:
        return two_sided(self, -self.weights["slope"].astype(np.float64))
