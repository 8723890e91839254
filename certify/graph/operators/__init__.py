"""The allow-list: an ONNX operator outside this table is refused by name. Adding one is one class and one entry."""

from __future__ import annotations

from certify.graph.operators.activation import Activation, Clip, Gelu, LeakyRelu, Parametric, PRelu, Truth
from certify.graph.operators.arithmetic import Arithmetic, Where
from certify.graph.operators.attention import Attention
from certify.graph.operators.base import Node, Operator
from certify.graph.operators.convolution import Conv, ConvTranspose
from certify.graph.operators.image import DepthToSpace, Resize
from certify.graph.operators.linear import Linear
from certify.graph.operators.normalisation import BatchNormalization, GroupNormalization, LayerNormalization, LocalResponse
from certify.graph.operators.pad import Pad
from certify.graph.operators.pooling import AveragePool, GlobalPool, MaxPool
from certify.graph.operators.product import Einsum, MatMul
from certify.graph.operators.reduction import CumSum, LpNormalization, Reduce, Softmax
from certify.graph.operators.select import Concat, Expand, Gather, GatherND, Slice, Split, Tile
from certify.graph.operators.shape import Reshape, Transpose

_CLASSES: tuple[type[Operator], ...] = (
    Activation,
    Arithmetic,
    Attention,
    AveragePool,
    BatchNormalization,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    CumSum,
    DepthToSpace,
    Einsum,
    Expand,
    Gather,
    GatherND,
    Gelu,
    GlobalPool,
    GroupNormalization,
    LayerNormalization,
    LeakyRelu,
    Linear,
    LocalResponse,
    LpNormalization,
    MatMul,
    MaxPool,
    PRelu,
    Pad,
    Parametric,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Split,
    Tile,
    Transpose,
    Truth,
    Where,
)

OPERATORS: dict[str, type[Operator]] = {name: cls for cls in _CLASSES for name in cls.types}

__all__ = ["OPERATORS", "Node", "Operator"]
