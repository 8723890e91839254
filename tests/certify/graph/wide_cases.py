"""One file for each operator beyond the classic convolutional network, to be compared with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from tests.support.onnx_models import Array, model_bytes, node

RNG = np.random.default_rng(11)
IMAGE = (4, 7, 6)
FLAT = node("Flatten", "y", "logits")


def random(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def chain(*nodes: onnx.NodeProto, shape: tuple[int, ...] = IMAGE, opset: int = 17, fixed: bool = False, **weights: Array) -> bytes:
    """Nodes from `x` to `y`, flattened to logits."""
    batch = 1 if fixed else "batch"
    return model_bytes([*nodes, FLAT], {k: np.asarray(v) for k, v in weights.items()}, input_shape=(batch, *shape), opset=opset)


def one(
    kind: str, shape: tuple[int, ...] = IMAGE, *, order: str = "", opset: int = 17, attributes: Mapping[str, Any] | None = None, **w: Array
) -> bytes:
    return chain(node(kind, order or " ".join(["x", *w]), "y", **(attributes or {})), shape=shape, opset=opset, **w)


def after(first: str, kind: str, *, opset: int = 17, **attributes: Any) -> bytes:
    """A function on what another one leaves in its domain."""
    return chain(node(first, "x", "h"), node(kind, "h", "y", **attributes), opset=opset)


def split(opset: int, parts: str = "a b c", **attributes: Any) -> bytes:
    weights = {"sizes": ints(1, 2, 1)} if opset >= 13 and "num_outputs" not in attributes else {}
    made = onnx.helper.make_node("Split", ["x", *weights], parts.split(), name="split", axis=1, **attributes)
    return chain(made, node("Concat", "c a", "y", axis=1), opset=opset, **weights)


_UNARY = (
    "Abs Asinh Atan Ceil Cos Erf Exp Floor HardSwish Neg Round Sign Sin Sinh Cosh Softsign Tan Relu Sigmoid Tanh "
    "Softplus Elu Selu Celu HardSigmoid ThresholdedRelu Shrink"
)

UNARY: dict[str, bytes] = {
    **{kind.lower(): one(kind) for kind in _UNARY.split()},
    "acos": after("Tanh", "Acos"),
    "asin": after("Tanh", "Asin"),
    "atanh": chain(node("Tanh", "x", "t"), node("Mul", "t half", "h"), node("Atanh", "h", "y"), half=np.float32(0.5)),
    "swish": one("Swish", opset=24, attributes={"alpha": 1.5}),
    "log": after("Exp", "Log"),
    "sqrt": after("Abs", "Sqrt"),
    "reciprocal": after("Exp", "Reciprocal"),
    "acosh": chain(node("Exp", "x", "e"), node("Add", "e one", "h"), node("Acosh", "h", "y"), one=np.float32(1.0)),
    "mish": one("Mish", opset=18),
    "gelu": one("Gelu", opset=20),
    "gelu tanh": one("Gelu", opset=20, attributes={"approximate": "tanh"}),
    "elu 0.3": one("Elu", attributes={"alpha": 0.3}),
    "celu 2": one("Celu", attributes={"alpha": 2.0}),
    "selu parameters": one("Selu", attributes={"alpha": 1.2, "gamma": 0.9}),
    "hard sigmoid parameters": one("HardSigmoid", attributes={"alpha": 1 / 6, "beta": 0.5}),
    "shrink parameters": one("Shrink", attributes={"lambd": 0.3, "bias": 0.1}),
    "thresholded 0.2": one("ThresholdedRelu", attributes={"alpha": 0.2}),
    "prelu channels": one("PRelu", slope=random(4, 1, 1)),
    "prelu scalar": one("PRelu", slope=random(1)),
    "prelu batched": one("PRelu", slope=random(1, 4, 1, 1)),
    "clip both": one("Clip", low=np.float32(-0.5), high=np.float32(0.5)),
    "clip low": one("Clip", low=np.float32(-0.5)),
    "clip high": one("Clip", opset=10, attributes={"max": 0.3}),
    "clip opset 9": one("Clip", opset=9, attributes={"min": 0.0, "max": 6.0}),
}

ARITHMETIC: dict[str, bytes] = {
    "pow constant": one("Pow", c=np.float32(2.0)),
    "pow integer": one("Pow", c=np.int64(3)),
    "pow of a constant": one("Pow", order="c x", c=np.float32(1.5)),
    "max": chain(node("Relu", "x", "r"), node("Max", "r x c", "y"), c=random(6)),
    "min": chain(node("Neg", "x", "r"), node("Min", "r x", "y")),
    "sum": chain(node("Relu", "x", "r"), node("Sum", "r x c", "y"), c=random(4, 1, 1)),
    "mean": chain(node("Relu", "x", "r"), node("Mean", "r x", "y")),
    "where mask": one("Where", order="m x c", m=random(7, 6) > 0, c=np.float32(-100.0)),
    "where data": chain(node("Greater", "x c", "m"), node("Sigmoid", "x", "s"), node("Where", "m s x", "y"), c=np.float32(0.2)),
    "comparisons": chain(
        node("Less", "x zero", "a"),
        node("GreaterOrEqual", "x low", "b"),
        node("LessOrEqual", "x high", "c"),
        node("And", "b c", "d"),
        node("Or", "d a", "e"),
        node("Xor", "e a", "f"),
        node("Not", "f", "g"),
        node("Cast", "g", "h", to=1),
        node("Mul", "h x", "y"),
        zero=np.float32(0),
        low=np.float32(0.5),
        high=np.float32(1.0),
    ),
    "equal": chain(node("Floor", "x", "f"), node("Equal", "f c", "e"), node("Cast", "e", "y", to=1), c=np.float32(1.0)),
    "cast to truth": chain(node("Relu", "x", "r"), node("Cast", "r", "t", to=9), node("Cast", "t", "y", to=1)),
    "add batch moved": chain(
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("Add", "t c", "a"),
        node("Transpose", "a", "y", perm=[1, 0, 2]),
        shape=(5, 6),
        c=random(5, 1, 6),
    ),
    "mask with minus infinity": chain(
        node("Add", "x m", "s"), node("Softmax", "s", "y"), shape=(3, 3), m=np.triu(np.full((3, 3), -np.inf, np.float32), 1)
    ),
}

PRODUCTS: dict[str, bytes] = {
    "matmul stack on the right": one("MatMul", (4, 5, 6), w=random(4, 6, 3)),
    "matmul stack on the left": one("MatMul", (4, 6, 5), order="w x", w=random(4, 3, 6)),
    "matmul stack with a batch of one": one("MatMul", (4, 5, 6), w=random(1, 4, 6, 3)),
    "matmul of data": chain(node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("MatMul", "x t", "y")),
    "attention by hand": chain(
        node("Transpose", "x", "k", perm=[0, 2, 1]),
        node("MatMul", "x k", "s"),
        node("Softmax", "s", "p"),
        node("MatMul", "p x", "y"),
        shape=(5, 6),
    ),
    "heads merged with the batch": chain(
        node("Transpose", "x", "t", perm=[1, 0, 2]),  # length, batch, features
        node("Reshape", "t heads", "h"),  # length, batch x 2, 3
        node("Transpose", "h", "q", perm=[1, 0, 2]),
        node("Transpose", "h", "k", perm=[1, 2, 0]),
        node("MatMul", "q k", "s"),
        node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p q", "o"),
        node("Transpose", "o", "l", perm=[1, 0, 2]),
        node("Reshape", "l rows", "r"),  # length x batch, features
        node("Gemm", "r w b", "g", transB=1),
        node("Reshape", "g back", "v"),
        node("Transpose", "v", "y", perm=[1, 0, 2]),
        shape=(5, 6),
        heads=ints(5, -1, 3),
        rows=ints(-1, 6),
        back=ints(5, -1, 6),
        w=random(6, 6),
        b=random(6),
    ),
    "einsum of data": chain(node("Sigmoid", "x", "s"), node("Einsum", "x s", "y", equation="bchw,bkhw->bck")),
    "einsum of a constant": one("Einsum", attributes={"equation": "bchw,cd->bdhw"}, w=random(4, 3)),
    "einsum alone": one("Einsum", attributes={"equation": "bchw->bwc"}),
    "einsum of three": one("Einsum", attributes={"equation": "bchw,cd,we->bdeh"}, v=random(4, 3), w=random(6, 2)),
}

WINDOWS: dict[str, bytes] = {
    "conv 3-D": one("Conv", (2, 4, 5, 6), w=random(3, 2, 2, 3, 3), b=random(3), attributes={"pads": [1, 1, 1, 0, 1, 1]}),
    "maxpool ceil": one("MaxPool", attributes={"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
    "maxpool ceil padded": one("MaxPool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    "maxpool dilated and padded": one("MaxPool", attributes={"kernel_shape": [2, 2], "dilations": [2, 2], "pads": [1, 1, 1, 1]}),
    "maxpool 3-D": one("MaxPool", (2, 4, 6, 6), attributes={"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    "averagepool asymmetric": one("AveragePool", attributes={"kernel_shape": [3, 2], "pads": [0, 1, 2, 0]}),
    "averagepool asymmetric counted": one("AveragePool", attributes={"kernel_shape": [3, 2], "pads": [0, 1, 2, 0], "count_include_pad": 1}),
    "averagepool ceil": one("AveragePool", attributes={"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}, opset=19),
    "averagepool ceil padded": one(
        "AveragePool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1}, opset=19
    ),
    "averagepool ceil padded counted": one(
        "AveragePool",
        attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1},
        opset=19,
    ),
    "averagepool same": one("AveragePool", attributes={"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "averagepool 3-D": one("AveragePool", (2, 4, 6, 6), attributes={"kernel_shape": [2, 3, 2]}),
    "globalmaxpool": one("GlobalMaxPool"),
    "globalaveragepool 1-D": one("GlobalAveragePool", (4, 9)),
    "convtranspose": one(
        "ConvTranspose", w=random(4, 3, 3, 3), b=random(3), attributes={"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]}
    ),
    "convtranspose groups": one("ConvTranspose", w=random(4, 2, 3, 2), attributes={"group": 2, "dilations": [2, 1], "strides": [1, 3]}),
    "convtranspose 1-D": one("ConvTranspose", (4, 6), w=random(4, 3, 4), b=random(3), attributes={"strides": [3], "pads": [2, 1]}),
    "convtranspose output shape": one("ConvTranspose", w=random(4, 3, 3, 3), attributes={"strides": [2, 2], "output_shape": [14, 12]}),
    "convtranspose same": one("ConvTranspose", w=random(4, 3, 3, 3), attributes={"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
}

NORMS: dict[str, bytes] = {
    "layernorm": one("LayerNormalization", s=random(6), b=random(6)),
    "layernorm two axes": one("LayerNormalization", s=random(7, 6), b=random(7, 6), attributes={"axis": -2, "epsilon": 1e-3}),
    "layernorm without bias": one("LayerNormalization", s=random(6)),
    "rmsnorm": one("RMSNormalization", s=random(6), opset=23),
    "instancenorm": one("InstanceNormalization", s=random(4), b=random(4)),
    "groupnorm": one("GroupNormalization", s=random(4), b=random(4), attributes={"num_groups": 2}, opset=21),
    "groupnorm opset 18": one("GroupNormalization", s=random(2), b=random(2), attributes={"num_groups": 2}, opset=18),
    "lrn": one("LRN", attributes={"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 1.5}),
    "lpnorm": one("LpNormalization", attributes={"axis": 1}),
    "lpnorm 1": one("LpNormalization", attributes={"p": 1}),
    "softmax": one("Softmax"),
    "softmax axis": one("Softmax", attributes={"axis": 1}),
    "softmax opset 11": one("Softmax", opset=11, attributes={"axis": 2}),
    "softmax opset 11 default": one("Softmax", opset=11),
    "logsoftmax": one("LogSoftmax", attributes={"axis": 1}),
    "cumsum": one("CumSum", a=np.int64(2)),
    **{
        f"{kind.lower()} {name}": one(kind, opset=13 if kind != "ReduceSum" else 11, attributes=attributes)
        for kind in (
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceProd",
            "ReduceLogSumExp",
        )
        for name, attributes in {"keep": {"axes": [1, -1]}, "drop": {"axes": [2, 3], "keepdims": 0}}.items()
    },
    "reducelogsum": after("Exp", "ReduceLogSum", axes=[2]),
    "reducemean opset 18": one("ReduceMean", a=ints(-1), opset=18, attributes={"keepdims": 0}),
    "reducesum opset 13": one("ReduceSum", a=ints(1, 2), opset=13),
}

MOVES: dict[str, bytes] = {
    "slice": one("Slice", s=ints(1, 0), e=ints(6, 2**62), a=ints(2, 3), t=ints(2, 1)),
    "slice backwards": one("Slice", s=ints(-1, 4), e=ints(-(2**62), 0), a=ints(3, 2), t=ints(-1, -2)),
    "slice all of the batch": one("Slice", s=ints(0, 1), e=ints(2**63 - 1, 3), a=ints(0, 1)),
    "slice opset 9": one("Slice", opset=9, attributes={"starts": [0, 1], "ends": [2147483647, -1], "axes": [0, 2]}),
    "split": split(13),
    "split opset 11": split(11, split=[1, 2, 1]),
    "split opset 18": split(18, "a c", num_outputs=2),
    "gather one": one("Gather", i=np.int64(-1), attributes={"axis": 2}),
    "gather many": one("Gather", i=ints(3, 0, 0, -2), attributes={"axis": 1}),
    "gather a table": one("Gather", i=np.array([[0, 1], [3, 2]]), attributes={"axis": 1}),
    "gathernd": chain(
        node("Transpose", "x", "t", perm=[1, 2, 0, 3]),
        node("GatherND", "t i", "g"),
        node("Transpose", "g", "y", perm=[1, 0, 2]),
        i=np.array([[0, 1], [3, -1], [2, 2]]),
    ),
    "concat with a token": chain(node("Concat", "token x", "y", axis=1), shape=(5, 6), fixed=True, token=random(1, 1, 6)),
    "concat data": chain(node("Relu", "x", "r"), node("Concat", "x r x", "y", axis=-1)),
    "token expanded by the batch": chain(
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "n"),
        node("Unsqueeze", "n zeros", "n1"),
        node("Concat", "n1 minus minus", "target", axis=0),
        node("ConstantOfShape", "three", "ones", value=onnx.numpy_helper.from_array(np.array([1]))),
        node("Mul", "ones minus", "minuses"),
        node("Equal", "target minuses", "same"),
        node("Where", "same ones target", "sizes"),
        node("Expand", "token sizes", "tokens"),
        node("Concat", "tokens x", "y", axis=1),
        shape=(5, 6),
        zero=np.int64(0),
        zeros=ints(0),
        minus=ints(-1),
        three=ints(3),
        token=random(1, 1, 6),
    ),
    "expand": one("Expand", (4, 1, 6), s=ints(1, 4, 3, 6)),
    "expand last": one("Expand", (4, 1), s=ints(6)),
    "tile": one("Tile", r=ints(1, 2, 1, 3)),
    "pad": one("Pad", p=ints(0, 1, 2, 0, 0, 0, 1, 3)),
    "pad value": one("Pad", p=ints(0, 0, 1, 0, 0, 0, 0, 1), v=np.float32(0.7)),
    "pad crop": one("Pad", p=ints(0, 0, -1, 0, 0, 0, 2, -2)),
    "pad reflect": one("Pad", p=ints(0, 0, 2, 1, 0, 0, 1, 3), attributes={"mode": "reflect"}),
    "pad edge": one("Pad", p=ints(0, 0, 2, 1, 0, 0, 1, 3), attributes={"mode": "edge"}),
    "pad wrap": one("Pad", p=ints(0, 0, 2, 1, 0, 0, 1, 3), attributes={"mode": "wrap"}, opset=19),
    "pad axes": one("Pad", order="x p  a".replace("  ", " v "), p=ints(1, 2), v=np.float32(0.0), a=ints(-1), opset=18),
    "pad opset 9": one("Pad", opset=9, attributes={"pads": [0, 0, 1, 0, 0, 0, 0, 2], "value": 0.5}),
    "transpose that moves the batch": chain(
        node("Transpose", "x", "t", perm=[2, 0, 3, 1]), node("Relu", "t", "r"), node("Transpose", "r", "y", perm=[1, 3, 0, 2])
    ),
    "depth to space": one("DepthToSpace", (8, 3, 4), attributes={"blocksize": 2}),
    "depth to space CRD": one("DepthToSpace", (8, 3, 4), attributes={"blocksize": 2, "mode": "CRD"}),
    "space to depth": one("SpaceToDepth", (3, 4, 6), attributes={"blocksize": 2}),
    "squeeze a batch of one": chain(
        node("Squeeze", "x a", "s"), node("Unsqueeze", "s a", "u"), node("Relu", "u", "y"), fixed=True, a=ints(0)
    ),
    "reshape away a batch of one": chain(
        node("Reshape", "x all", "v"),
        node("MatMul", "v w", "h"),
        node("Reshape", "h s", "y"),
        fixed=True,
        all=ints(28, 6),
        w=random(6, 2),
        s=ints(1, 56),
    ),
    "flatten axis 2": chain(node("Flatten", "x", "f", axis=2), node("Relu", "f", "r"), node("Reshape", "r s", "y"), s=ints(-1, 4, 42)),
    "unsqueeze in front": chain(node("Unsqueeze", "x a", "u"), node("Relu", "u", "r"), node("Squeeze", "r a", "y"), a=ints(0)),
}


def attention(names: str, *, shape: tuple[int, ...], attributes: Mapping[str, Any] | None = None, **weights: Array) -> bytes:
    keys = [node("Mul", "x two", "k"), node("Sigmoid", "x", "v")]
    return chain(*keys, node("Attention", names, "y", **(attributes or {})), shape=shape, opset=23, two=np.float32(2), **weights)


ATTENTION: dict[str, bytes] = {
    "attention": attention("x k v", shape=(2, 5, 3)),
    "attention scaled and causal": attention("x k v", shape=(2, 5, 3), attributes={"scale": 0.3, "is_causal": 1}),
    "attention masked": attention("x k v m", shape=(2, 5, 3), m=np.tri(5, 5, 1, dtype=np.bool_)),
    "attention with a mask that is added": attention("x k v m", shape=(2, 5, 3), m=random(1, 2, 5, 5)),
    "attention packed": attention("x k v", shape=(5, 6), attributes={"q_num_heads": 3, "kv_num_heads": 3}),
}


def resize(mode: str, place: str, *, scales: Array | None = None, sizes: Array | None = None, opset: int = 13, **attributes: Any) -> bytes:
    weights = {"scales": scales} if scales is not None else {"sizes": sizes}
    inputs = ["x", "", "scales"] if scales is not None else ["x", "", "", "sizes"]
    made = onnx.helper.make_node("Resize", inputs, ["y"], name="resize", mode=mode, coordinate_transformation_mode=place, **attributes)
    return chain(made, opset=opset, fixed=sizes is not None, **weights)


RESIZES: dict[str, bytes] = {
    **{
        f"resize {mode} {place} {name}": resize(mode, place, **how)
        for mode in ("nearest", "linear", "cubic")
        for place in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for name, how in {
            "twice": {"scales": np.array([1, 1, 2, 2], np.float32)},
            "sizes": {"sizes": ints(1, 4, 5, 13)},
            "down": {"scales": np.array([1, 1, 0.6, 0.5], np.float32)},
        }.items()
    },
    **{
        f"resize {how}": resize("nearest", "half_pixel", sizes=ints(1, 4, 9, 5), nearest_mode=how)
        for how in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    },
    "resize opset 10": one("Resize", scales=np.array([1, 1, 2, 3], np.float32), opset=10, attributes={"mode": "linear"}),
    "upsample": one("Upsample", scales=np.array([1, 1, 2, 3], np.float32), opset=9),
    "upsample opset 8": one("Upsample", opset=8, attributes={"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}),
}

WIDE = UNARY | ARITHMETIC | PRODUCTS | WINDOWS | NORMS | MOVES | ATTENTION | RESIZES
