"""Models whose answer for one input depends on its neighbours, or on chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.hostile.hostile import Hostile, floats, graph_of, ints
from tests.support.onnx_models import node

_AXIS = "Node.axis refuses every axis that carries the batch, wherever a Transpose or Reshape has put it."
_PLAIN = "Node.shape and the layouts follow the batch axis; an operator that mixes it with another is refused."
_EVAL = "certify/graph/reader.py and operators/normalisation.py refuse training mode, in which a batch is normalised by itself."
_CHANCE = "certify/graph/reader.py has an allow-list, and no random operator is on it."


def across(
    name: str,
    says: str,
    *nodes: onnx.NodeProto,
    mitigation: str = _AXIS,
    slow: bool = False,
    shape: tuple[int, ...] = (2, 6),
    opset: int = 17,
    **weights: Any,
) -> Hostile:
    """Nodes from `x` to `y`, then logits."""
    arrays = {key: np.asarray(value) for key, value in weights.items()}
    return Hostile(
        name, "model", mitigation, says, lambda: graph_of(*nodes, node("Flatten", "y", "logits"), shape=shape, opset=opset, **arrays), slow
    )


def _training(opset: int, outputs: int, **attributes: Any) -> Callable[[], bytes]:
    names = ["y", "m1", "v1", "m2", "v2"][:outputs]
    norm = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], names, name="bn", **attributes)
    weights = {"s": floats(2), "b": floats(2), "m": floats(2), "v": np.ones(2, np.float32)}
    return lambda: graph_of(norm, node("Flatten", "y", "logits"), opset=opset, **weights)


def _dropout() -> bytes:
    made = helper.make_node("Dropout", ["x", "half", "yes"], ["y"], name="dropout", seed=3)
    return graph_of(made, node("Flatten", "y", "logits"), half=np.float32(0.5), yes=np.array(True))


def _topk() -> bytes:
    made = helper.make_node("TopK", ["x", "k"], ["y", "i"], name="topk", axis=0)
    return graph_of(made, node("Flatten", "y", "logits"), k=ints(1))


_TO_THE_END = node("Transpose", "x", "t", perm=[1, 2, 0])
_BACK = node("Transpose", "r", "y", perm=[2, 0, 1])
_TWO = "across the batch axis"

AXES = [
    across("Softmax over the batch", _TWO, node("Softmax", "x", "y", axis=0)),
    across("Softmax over the batch from behind", _TWO, node("Softmax", "x", "y", axis=-3), slow=True),
    across("Softmax of opset 11 over everything", "batch", node("Softmax", "x", "y", axis=0), opset=11),
    across("ReduceMean over the batch", _TWO, node("ReduceMean", "x", "y", axes=[0])),
    across("ReduceMean over all axes", "batch", node("ReduceMean", "x", "m"), node("Add", "x m", "y")),
    across("ReduceSum without axes", "batch", node("ReduceSum", "x", "m"), node("Add", "x m", "y"), slow=True),
    across("the batch moved away, reduced and moved back", _TWO, _TO_THE_END, node("Softmax", "t", "r", axis=2), _BACK),
    across("the batch moved away and added up", _TWO, _TO_THE_END, node("CumSum", "t a", "r"), _BACK, a=np.int64(-1)),
    across("CumSum over the batch", _TWO, node("CumSum", "x a", "y"), a=np.int64(0), slow=True),
    across("Concat over the batch", _TWO, node("Concat", "x x", "y", axis=0)),
    across("Gather from the batch", _TWO, node("Gather", "x i", "y", axis=0), i=ints(0, 0)),
    across("Slice of the batch", _TWO, node("Slice", "x s e a", "y"), s=ints(0), e=ints(1), a=ints(0)),
    across("Slice of the batch, backwards", _TWO, node("Slice", "x s e a t", "y"), s=ints(-1), e=ints(-(2**63)), a=ints(0), t=ints(-1)),
    across("Split of the batch", _TWO, node("Split", "x", "y", axis=0), slow=True),
    across("Pad of the batch", "batch", node("Pad", "x p", "y"), p=ints(1, 0, 0, 0, 0, 0)),
    across("Tile of the batch", "batch", node("Tile", "x r", "y"), r=ints(2, 1, 1)),
    across("Expand of the batch", "batch", node("Expand", "x s", "y"), s=ints(5, 2, 6)),
    across(
        "Resize of the batch",
        "batch",
        node("Resize", "x  s".replace("  ", " n "), "y"),
        n=np.zeros(0, np.float32),
        s=np.array([2, 1, 1], np.float32),
        slow=True,
    ),
    across("LayerNormalization over the batch", "batch", node("LayerNormalization", "x s", "y", axis=0), s=floats(1, 2, 6)),
    across("LpNormalization over the batch", _TWO, node("LpNormalization", "x", "y", axis=0), slow=True),
    across("ArgMax over the batch", "ArgMax", node("ArgMax", "x", "y", axis=0), slow=True),
    across("GatherND from the batch", "batch", node("GatherND", "x i", "y"), i=np.zeros((1, 1), np.int64)),
    across(
        "a reversed sequence whose time is the batch",
        "ReverseSequence",
        node("ReverseSequence", "x l", "y", time_axis=0, batch_axis=1),
        l=ints(1, 1),
        slow=True,
    ),
    Hostile("TopK of the batch", "model", _AXIS, "TopK", _topk),
]

MIXED = [
    across(
        "MatMul with its own transpose across the batch",
        "batch",
        node("Flatten", "x", "f"),
        node("Transpose", "f", "t", perm=[1, 0]),
        node("MatMul", "f t", "y"),
        mitigation=_PLAIN,
    ),
    across("Gemm with its own transpose", "Gemm|batch", node("Flatten", "x", "f"), node("Gemm", "f f", "y", transA=1), mitigation=_PLAIN),
    across(
        "a Reshape that merges the batch, then a MatMul across it",
        "batch",
        node("Reshape", "x s", "r"),
        node("Transpose", "r", "t", perm=[1, 0]),
        node("MatMul", "t r", "y"),
        mitigation=_PLAIN,
        s=ints(-1, 6),
    ),
    across("a Reshape that takes the batch apart", "Reshape|batch", node("Reshape", "x s", "y"), mitigation=_PLAIN, s=ints(6, -1, 2)),
    across(
        "a Flatten that ends in front of the batch",
        "batch",
        node("Flatten", "x", "f", axis=0),
        node("Softmax", "f", "y"),
        mitigation=_PLAIN,
    ),
    across("Einsum over the batch", "batch|Einsum", node("Einsum", "x", "y", equation="bij->ij"), mitigation=_PLAIN),
    across(
        "Einsum that pairs the batch with itself", "batch|Einsum", node("Einsum", "x x", "y", equation="bij,cij->bc"), mitigation=_PLAIN
    ),
    across(
        "Conv over the batch",
        "batch",
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("Conv", "t w", "r"),
        node("Transpose", "r", "y", perm=[1, 0, 2]),
        mitigation=_PLAIN,
        w=floats(1, 1, 3),
    ),
    across(
        "an average pool over the batch",
        "batch",
        node("Transpose", "x", "t", perm=[1, 2, 0]),
        node("GlobalAveragePool", "t", "r"),
        node("Add", "x r", "y"),
        mitigation=_PLAIN,
    ),
    across(
        "Add of the batch to another axis",
        "batch",
        node("Flatten", "x", "f"),
        node("Transpose", "f", "t", perm=[1, 0]),
        node("Add", "f t", "y"),
        mitigation=_PLAIN,
    ),
    across(
        "InstanceNormalization of the batch",
        "batch",
        node("Transpose", "x", "t", perm=[1, 2, 0]),
        node("InstanceNormalization", "t s b", "r"),
        node("Transpose", "r", "y", perm=[2, 0, 1]),
        mitigation=_PLAIN,
        s=floats(6),
        b=floats(6),
    ),
    across(
        "the batch size in the arithmetic",
        "depends on the batch size",
        node("Shape", "x", "s"),
        node("Cast", "s", "c", to=1),
        node("ReduceMax", "c", "n", keepdims=0),
        node("Mul", "x n", "y"),
        mitigation=_PLAIN,
    ),
    across("a weight row for each row of the batch", "batch|Add", node("Add", "x w", "y"), mitigation=_PLAIN, w=floats(4, 2, 6)),
]

TRAINING = [
    Hostile(
        "BatchNormalization in training mode",
        "model",
        _EVAL,
        "training|outputs|output '|BatchNormalization",
        _training(17, 1, training_mode=1),
    ),
    Hostile("BatchNormalization of opset 7 with five outputs", "model", _EVAL, "training mode", _training(7, 5)),
    Hostile("BatchNormalization of opset 7 without spatial", "model", _EVAL, "BatchNormalization", _training(7, 1, spatial=0), slow=True),
    Hostile("Dropout in training mode", "model", _EVAL, "Dropout is in training mode", _dropout),
]

CHANCE = [
    across("RandomNormalLike", "is random", node("RandomNormalLike", "x", "r"), node("Add", "x r", "y"), mitigation=_CHANCE),
    across(
        "RandomNormal with a seed",
        "is random",
        node("RandomNormal", "", "r", shape=[1, 2, 6], seed=1.0),
        node("Add", "x r", "y"),
        mitigation=_CHANCE,
        slow=True,
    ),
    across("RandomUniformLike", "is random", node("RandomUniformLike", "x", "r"), node("Add", "x r", "y"), mitigation=_CHANCE, slow=True),
    across("Bernoulli", "is random", node("Bernoulli", "x", "y"), mitigation=_CHANCE),
    across(
        "Multinomial", "is random", node("Flatten", "x", "f"), node("Multinomial", "f", "y", sample_size=3), mitigation=_CHANCE, slow=True
    ),
]

HOSTILE = AXES + MIXED + TRAINING + CHANCE
