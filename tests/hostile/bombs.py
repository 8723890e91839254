"""Small files that ask for much: memory, multiplications, nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.hostile.hostile import Hostile, changed, floats, graph_of, ints
from tests.support.onnx_models import node

_DATA = "Operator.common bounds the shape of every tensor before anything is made of it."
_FOLD = "certify/graph/fold.py bounds the size of a constant before it is computed, out of one budget for the whole file."
_ALLOW = "certify/graph/operators/__init__.py lists what is read; everything else is refused by name."
_COUNT = "certify/graph/wire.py counts the items of the file, and proto.py its nodes, before anything walks them."
_COST = "certify/graph/reader.py bounds floating-point operations and live memory of one example."


def _on_data(
    kind: str, shape: tuple[int, ...] = (4, 8, 8), opset: int = 17, inputs: str = "", attributes: Any = None, **weights: Any
) -> Callable[[], bytes]:
    """One node on the input, then logits."""
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    made = node(kind, inputs or " ".join(["x", *weights]), "y", **(attributes or {}))
    return lambda: graph_of(made, node("Flatten", "y", "logits"), shape=shape, opset=opset, **arrays)


def _constants(*nodes: onnx.NodeProto, opset: int = 17, **weights: Any) -> Callable[[], bytes]:
    """Nodes on constants that make `big`, then logits that read it."""
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    tail = [node("ReduceMax", "big", "small", keepdims=0), node("Flatten", "x", "f"), node("Mul", "f small", "logits")]
    return lambda: graph_of(*nodes, *tail, opset=opset, **arrays)


def _chain(kind: str, length: int, shape: tuple[int, ...] = (2, 6), join: str = "{0} {0}", **attributes: Any) -> bytes:
    """Each node reads the one before it, twice if `join` says so."""
    nodes = [node(kind, join.format(f"t{i}" if i else "x"), f"t{i + 1}", **attributes) for i in range(length)]
    return graph_of(*nodes, node("Flatten", f"t{length}", "logits"), shape=shape)


def _constant_chain(kind: str, length: int, first: Any, join: str = "{0} {0}", **attributes: Any) -> Callable[[], bytes]:
    nodes = [node(kind, join.format(f"t{i}"), f"t{i + 1}" if i + 1 < length else "big", **attributes) for i in range(length)]
    return _constants(*nodes, t0=first)


def _outer_sums() -> bytes:
    """Add of a column and a row, again and again: 32 values become 2^40."""
    nodes, name, size = [], "x", 32
    for i in range(3):
        nodes += [
            node("Reshape", f"{name} column{i}", f"c{i}"),
            node("Reshape", f"{name} row{i}", f"r{i}"),
            node("Add", f"c{i} r{i}", f"a{i}"),
        ]
        name = f"a{i}"
    shapes = {f"{what}{i}": ints(0, *((-1, 1) if what == "column" else (1, -1))) for i in range(3) for what in ("column", "row")}
    return graph_of(*nodes, node("Flatten", name, "logits"), shape=(size,), **shapes)


def _outer_constants() -> bytes:
    tail = [node("Add", "column row", "big"), node("ReduceMax", "big", "small", keepdims=0), node("Flatten", "x", "f")]
    weights = {"column": np.zeros((2**17, 1), np.float32), "row": np.zeros((1, 2**17), np.float32)}
    return graph_of(*tail, node("Mul", "f small", "logits"), **weights)


def _sums_of_one_constant(count: int) -> bytes:
    """A constant of the largest size that is allowed, and thousands of nodes that each read all of it."""
    nodes = [node("ConstantOfShape", "size", "big")]
    nodes += [node("ReduceMax", "big", f"m{i}", keepdims=0) for i in range(count)]
    return graph_of(*nodes, node("Flatten", "x", "f"), node("Mul", f"f m{count - 1}", "logits"), size=ints(2**22))


def _products_of_constants(count: int) -> bytes:
    """Thousands of products of 2^29 multiplications in integers, each with a small result."""
    nodes = [node("ConstantOfShape", "size", "a", value=numpy_helper.from_array(ints(1)))]
    nodes += [node("MatMul", "a a", f"m{i}") for i in range(count)] + [node("Cast", "m0", "c", to=1)]
    return graph_of(
        *nodes,
        node("ReduceMax", "c", "small", keepdims=0),
        node("Flatten", "x", "f"),
        node("Mul", "f small", "logits"),
        size=ints(150, 150),
    )


def _empty_nodes(count: int) -> bytes:
    """A file of nothing but empty nodes: two bytes each."""
    body, size, length = b"\x0a\x00" * count, 2 * count, b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return b"\x08\x08\x3a" + length + bytes([size]) + body


def _identities(count: int) -> bytes:
    def change(model: onnx.ModelProto) -> None:
        last = model.graph.node[-1].output[0]
        model.graph.node.extend(helper.make_node("Identity", [last if i == 0 else f"i{i}"], [f"i{i + 1}"]) for i in range(count))
        model.graph.output[0].name = f"i{count}"

    return changed(change)


def _many_inputs() -> bytes:
    return graph_of(node("Concat", " ".join(["x"] * 300_000), "y", axis=1), node("Flatten", "y", "logits"), shape=(2, 60))


def _transposed_conv() -> bytes:
    return _on_data("ConvTranspose", w=floats(4, 3, 3, 3), attributes={"strides": [2**20, 2**20]})()


def _costly() -> bytes:
    """Within every tensor's size, and a week of multiplications."""
    nodes = [node("MatMul", "x x", "a0"), *(node("MatMul", f"a{i} x", f"a{i + 1}") for i in range(40))]
    return graph_of(*nodes, node("ReduceMax", "a40", "r", axes=[2], keepdims=0), node("Flatten", "r", "logits"), shape=(2048, 2048))


DATA = [
    Hostile("Expand to 16 GB", "model", _DATA, "Expand", _on_data("Expand", (1,), s=ints(1, 2**32))),
    Hostile("Tile to 16 GB", "model", _DATA, "Tile", _on_data("Tile", (4,), r=ints(1, 2**30))),
    Hostile("Tile by sizes that wrap int64", "model", _DATA, "Tile", _on_data("Tile", (4, 4), r=ints(1, 2**32, 2**32))),
    Hostile("Resize by a million", "model", _DATA, "Resize", _on_data("Resize", inputs="x  s", s=np.array([1, 1, 1e6, 1e6], np.float32))),
    Hostile(
        "Resize to 2^40 pixels",
        "model",
        _DATA,
        "Resize",
        _on_data("Resize", inputs="x n n s", n=np.zeros(0, np.float32), s=ints(1, 4, 2**20, 2**20)),
    ),
    Hostile(
        "Resize by infinity",
        "model",
        _DATA,
        "Resize|contradicts",
        _on_data("Resize", inputs="x n s", n=np.zeros(0, np.float32), s=np.array([1, 1, np.inf, 1], np.float32)),
    ),
    Hostile(
        "Upsample by a million",
        "model",
        _DATA,
        "Upsample",
        _on_data("Upsample", opset=9, s=np.array([1, 1, 1e6, 1e6], np.float32)),
        slow=True,
    ),
    Hostile("Pad to 2^32 values", "model", _DATA, "Pad", _on_data("Pad", p=ints(0, 0, 0, 0, 0, 0, 0, 2**32))),
    Hostile("Pad by sizes that wrap int64", "model", _DATA, "Pad", _on_data("Pad", p=ints(0, 0, 0, 2**63 - 1, 0, 0, 0, 2**63 - 1))),
    Hostile("Conv with huge pads", "model", _DATA, "Conv", _on_data("Conv", w=floats(2, 4, 3, 3), attributes={"pads": [2**30] * 4})),
    Hostile(
        "Conv with a dilation of 2^62",
        "model",
        _DATA,
        "Conv",
        _on_data("Conv", w=floats(2, 4, 3, 3), attributes={"dilations": [2**62, 2**62]}),
    ),
    Hostile(
        "Conv with stride zero", "model", _DATA, "Conv|contradicts", _on_data("Conv", w=floats(2, 4, 3, 3), attributes={"strides": [0, 0]})
    ),
    Hostile("ConvTranspose with huge strides", "model", _DATA, "ConvTranspose", _transposed_conv),
    Hostile(
        "ConvTranspose with a huge output_shape",
        "model",
        _DATA,
        "ConvTranspose",
        _on_data("ConvTranspose", w=floats(4, 3, 3, 3), attributes={"output_shape": [2**31, 2**31]}),
        slow=True,
    ),
    Hostile(
        "ConvTranspose that makes much and crops nearly all of it",
        "model",
        _COST,
        "ConvTranspose|floating-point operations|values",
        _on_data("ConvTranspose", (4, 7, 6), w=floats(4, 3, 3, 3), attributes={"strides": [2**16, 2], "output_shape": [14, 12]}),
    ),
    Hostile(
        "MaxPool with a huge kernel",
        "model",
        _DATA,
        "MaxPool",
        _on_data("MaxPool", attributes={"kernel_shape": [2**31, 2**31], "pads": [2**30] * 4}),
    ),
    Hostile(
        "AveragePool with huge pads",
        "model",
        _DATA,
        "AveragePool",
        _on_data("AveragePool", attributes={"kernel_shape": [3, 3], "pads": [2**30] * 4}),
        slow=True,
    ),
    Hostile(
        "Einsum that is an outer product",
        "model",
        _DATA,
        "Einsum",
        lambda: graph_of(node("Einsum", "x x x", "y", equation="bi,bj,bk->bijk"), node("Flatten", "y", "logits"), shape=(2**10,)),
    ),
    Hostile("Concat that doubles forty times", "model", _DATA, "Concat", lambda: _chain("Concat", 40, axis=1)),
    Hostile("Add that squares three times", "model", _DATA, "Add", _outer_sums),
    Hostile(
        "MatMul that makes an outer product of everything",
        "model",
        _DATA,
        "MatMul",
        lambda: graph_of(node("MatMul", "x w", "y"), node("Flatten", "y", "logits"), shape=(2**20, 1), w=floats(1, 2**12)),
    ),
    Hostile(
        "Gather with a million indices in a row of rows",
        "model",
        _DATA,
        "Gather",
        _on_data("Gather", (64, 64), i=np.zeros(2**19, np.int64), attributes={"axis": 1}),
    ),
    Hostile("a network of a hundred teraflops", "model", _COST, "floating-point operations", _costly),
    Hostile(
        "DepthToSpace with a block of 2^31",
        "model",
        _DATA,
        "DepthToSpace",
        _on_data("DepthToSpace", attributes={"blocksize": 2**31}),
        slow=True,
    ),
    Hostile("OneHot of a depth of 2^32", "model", _ALLOW, "operator OneHot", _on_data("OneHot", (4,), d=np.int64(2**32), v=floats(2))),
    Hostile("EyeLike of everything", "model", _ALLOW, "operator EyeLike", _on_data("EyeLike", (2**12,)), slow=True),
]

CONSTANTS = [
    Hostile(
        "ConstantOfShape of 16 GB",
        "model",
        _FOLD,
        "constants that are too large",
        _constants(node("ConstantOfShape", "s", "big"), s=ints(2**32)),
    ),
    Hostile(
        "ConstantOfShape whose size wraps int64",
        "model",
        _FOLD,
        "constants that are too large",
        _constants(node("ConstantOfShape", "s", "big"), s=ints(2**32, 2**32)),
    ),
    Hostile(
        "Range to 2^40",
        "model",
        _FOLD,
        "constants that are too large",
        _constants(node("Range", "a b c", "big"), a=np.int64(0), b=np.int64(2**40), c=np.int64(1)),
    ),
    Hostile(
        "Range in steps of zero",
        "model",
        _FOLD,
        "constants that are too large",
        _constants(node("Range", "a b c", "big"), a=np.int64(0), b=np.int64(9), c=np.int64(0)),
        slow=True,
    ),
    Hostile(
        "Expand of a constant to 16 GB",
        "model",
        _FOLD,
        "constants that are too large",
        _constants(node("Expand", "a s", "big"), a=floats(1), s=ints(2**32)),
    ),
    Hostile(
        "Tile of a constant to 16 GB",
        "model",
        _FOLD,
        "constants that are too large",
        _constants(node("Tile", "a s", "big"), a=floats(4), s=ints(2**30)),
        slow=True,
    ),
    Hostile(
        "Pad of a constant to 16 GB",
        "model",
        _FOLD,
        "constants that are too large",
        _constants(node("Pad", "a s", "big"), a=floats(4), s=ints(0, 2**32)),
    ),
    Hostile(
        "Gather by an index tensor of 2^34 values",
        "model",
        _FOLD,
        "constants that are too large",
        _constants(
            node("ConstantOfShape", "s", "i", value=numpy_helper.from_array(ints(0))),
            node("Gather", "a i", "big"),
            a=floats(2**12, 1),
            s=ints(2**34),
        ),
    ),
    Hostile(
        "Gather that repeats a large row",
        "model",
        _FOLD,
        "constants that are too large",
        _constants(node("Gather", "a i", "big"), a=floats(1, 2**12), i=np.zeros(2**16, np.int64)),
    ),
    Hostile(
        "Concat of constants that doubles forty times",
        "model",
        _FOLD,
        "constants that are too large",
        _constant_chain("Concat", 40, floats(16), axis=0),
    ),
    Hostile("Add of constants that squares", "model", _FOLD, "constants that are too large", _outer_constants),
    Hostile(
        "thousands of constants that together are 16 GB",
        "model",
        _FOLD,
        "constants that are too large",
        _constant_chain("Identity", 5_000, floats(2**16), join="{0}"),
    ),
    Hostile("ten thousand nodes that each read 16 MB of constants", "model", _FOLD, "constants", lambda: _sums_of_one_constant(10_000)),
    Hostile("nineteen thousand integer products of constants", "model", _FOLD, "constants", lambda: _products_of_constants(19_000)),
]

COUNTS = [
    Hostile("a million empty nodes", "model", _COUNT, "more than 1,000,000", lambda: _empty_nodes(1_000_000)),
    Hostile("ten million empty nodes", "model", _COUNT, "more than 1,000,000", lambda: _empty_nodes(10_000_000), slow=True),
    Hostile(
        "two hundred thousand Identity nodes", "model", _COUNT, "nodes, more than 20000|more than 1,000,000", lambda: _identities(200_000)
    ),
    Hostile("one node over the cap", "model", _COUNT, "nodes, more than 20000", lambda: _identities(20_000), slow=True),
    Hostile("a node with 300 000 inputs", "model", _DATA, "Concat|nodes, names", _many_inputs),
]

HOSTILE = DATA + CONSTANTS + COUNTS
