"""The allow-list: an ONNX operator outside this table is refused by name. Adding one is one class and one entry."""

from __future__ import annotations

from certify.graph.operators.activation import Activation, LeakyRelu
from certify.graph.operators.affine import Arithmetic, Linear
from certify.graph.operators.base import Node, Operator
from certify.graph.operators.convolution import Conv
from certify.graph.operators.normalisation import BatchNormalization
from certify.graph.operators.pooling import AveragePool, GlobalAveragePool, MaxPool
from certify.graph.operators.shape import Reshape, Transpose

_CLASSES: tuple[type[Operator], ...] = (
    Activation,
    Arithmetic,
    AveragePool,
    BatchNormalization,
    Conv,
    GlobalAveragePool,
    LeakyRelu,
    Linear,
    MaxPool,
    Reshape,
    Transpose,
)

OPERATORS: dict[str, type[Operator]] = {name: cls for cls in _CLASSES for name in cls.types}

__all__ = ["OPERATORS", "Node", "Operator"]
