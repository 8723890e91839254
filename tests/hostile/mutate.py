"""Structure-aware mutations of ONNX files: what a file can contradict itself in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from certify.graph.operators import OPERATORS

Rng = np.random.Generator
Mutation = Callable[[onnx.ModelProto, Rng], object]

INTEGERS = [-(2**63), -(2**31), -17, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 12, 16, 17, 1000, 2**16, 2**24, 2**31, 2**32, 2**53, 2**62, 2**63 - 1]
SMALL = [-2, -1, -1, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 12]
FLOATS = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45, -1e-38, 3e38, -1.0, 0.5, 1.0, 2.0]
TYPES = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 16, 17, 21, 99]
OPSETS = [0, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 19, 21, 22, 23, 24, 25, 99, -1]
KINDS = sorted(
    {*OPERATORS, "Identity", "Dropout", "Constant", "Shape", "Size", "ConstantOfShape", "Range", "Cast", "If", "NonZero", "Loop"}
)


def mutated(file: bytes, others: list[bytes], rng: Rng) -> bytes:
    """The file after a few changes."""
    if rng.random() < 0.1:
        return _flipped(file, rng)
    model = onnx.load_model_from_string(file)
    splice = functools.partial(_splice, other=_pick(others, rng))
    for _ in range(int(rng.integers(1, 5))):
        mutation = _pick([*_MUTATIONS, splice, splice], rng)
        try:
            with np.errstate(all="ignore"):
                mutation(model, rng)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            continue  # nothing there to change, or protobuf does not hold such a value
    return bytes(model.SerializeToString())


def _pick(things: Any, rng: Rng) -> Any:
    """One of them; IndexError when there is none."""
    return things[int(rng.integers(len(things) or 1))]


def _integer(rng: Rng) -> int:
    return int(_pick(INTEGERS if rng.random() < 0.4 else SMALL, rng))


def _flipped(file: bytes, rng: Rng) -> bytes:
    data = bytearray(file)
    for _ in range(int(rng.integers(1, 9))):
        at, how = int(rng.integers(len(data))), int(rng.integers(4))
        if how == 0:
            data[at] = int(rng.integers(256))
        elif how == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif how == 2:
            del data[at : at + int(rng.integers(1, 9))]
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        if not data:
            break
    return bytes(data)


def _names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    made = [output for n in graph.node for output in n.output]
    return [*made, *(t.name for t in graph.initializer), *(v.name for v in graph.input), *made, "", "ghost"]


def _initializer_dims(model: onnx.ModelProto, rng: Rng) -> None:
    tensor = _pick(model.graph.initializer, rng)
    if len(tensor.dims) and rng.random() < 0.5:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _integer(rng)
    else:
        dims = [int(d) for d in tensor.dims]
        rng.shuffle(dims)
        tensor.dims[:] = dims if rng.random() < 0.5 else [*dims, 1]


def _initializer_values(model: onnx.ModelProto, rng: Rng) -> None:
    """Sizes, axes and indices usually are small tensors of integers: other values in the same shape."""
    tensor = _pick(model.graph.initializer, rng)
    value = numpy_helper.to_array(tensor).copy()
    for _ in range(int(rng.integers(1, 3))):
        value.reshape(-1)[int(rng.integers(value.size))] = _integer(rng) if value.dtype.kind in "iu" else _pick(FLOATS, rng)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _small_integers(model: onnx.ModelProto, rng: Rng) -> None:
    """As above, aimed at the integers."""
    tensor = _pick([t for t in model.graph.initializer if t.data_type == TensorProto.INT64], rng)
    value = numpy_helper.to_array(tensor).copy()
    value.reshape(-1)[int(rng.integers(value.size))] = _integer(rng)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _initializer_new(model: onnx.ModelProto, rng: Rng) -> None:
    """Another array of any small shape and type."""
    tensor = _pick(model.graph.initializer, rng)
    shape = tuple(int(v) for v in rng.integers(0, 7, size=int(rng.integers(0, 6))))
    dtype = _pick([np.float32, np.float32, np.int64, np.int32, np.float64, np.bool_, np.float16, np.uint8], rng)
    tensor.CopyFrom(numpy_helper.from_array(rng.integers(-3, 6, size=shape).astype(dtype), tensor.name))


def _initializer_type(model: onnx.ModelProto, rng: Rng) -> None:
    _pick(model.graph.initializer, rng).data_type = int(_pick(TYPES, rng))


def _node_input(model: onnx.ModelProto, rng: Rng) -> None:
    inputs = _pick(model.graph.node, rng).input
    inputs[int(rng.integers(len(inputs)))] = str(_pick(_names(model), rng))


def _more_inputs(model: onnx.ModelProto, rng: Rng) -> None:
    inputs = _pick(model.graph.node, rng).input
    if rng.random() < 0.5:
        inputs.append(str(_pick(_names(model), rng)))
    else:
        del inputs[int(rng.integers(len(inputs)))]


def _swap_inputs(model: onnx.ModelProto, rng: Rng) -> None:
    inputs = _pick(model.graph.node, rng).input
    order = [str(name) for name in inputs]
    rng.shuffle(order)
    inputs[:] = order


def _node_output(model: onnx.ModelProto, rng: Rng) -> None:
    outputs = _pick(model.graph.node, rng).output
    if rng.random() < 0.3:
        outputs.append(f"more{int(rng.integers(1000))}")
    else:
        outputs[int(rng.integers(len(outputs)))] = str(_pick(_names(model), rng))


def _op_type(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(model.graph.node, rng)
    node.op_type = str(_pick(KINDS, rng)) if rng.random() < 0.7 else str(_pick(model.graph.node, rng).op_type)


def _schema_attribute(model: onnx.ModelProto, rng: Rng) -> None:
    """An attribute that the operator does have, with a value of its kind."""
    node = _pick(model.graph.node, rng)
    schema = onnx.defs.get_schema(node.op_type) if onnx.defs.has(node.op_type) else None
    name = str(_pick(sorted(schema.attributes), rng)) if schema else "axis"
    kind = int(schema.attributes[name].type.value) if schema else 2
    for position, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[position]
            break
    value: Any = {
        1: float(_pick(FLOATS, rng)),
        2: _integer(rng),
        3: str(_pick(["SAME_UPPER", "VALID", "reflect", "edge", "nearest", "linear", "bij->bi", "DCR", "", "x"], rng)),
        6: [float(_pick(FLOATS, rng)) for _ in range(int(rng.integers(1, 5)))],
        7: [_integer(rng) for _ in range(int(rng.integers(1, 7)))],
    }[kind if kind in (1, 2, 3, 6, 7) else 2]
    node.attribute.append(helper.make_attribute(name, value))


def _attribute_value(model: onnx.ModelProto, rng: Rng) -> None:
    attribute = _pick(_pick(model.graph.node, rng).attribute, rng)
    value = _integer(rng)
    attribute.i, attribute.f = value, float(_pick(FLOATS, rng))
    if len(attribute.ints):
        attribute.ints[int(rng.integers(len(attribute.ints)))] = value
    if rng.random() < 0.2:
        attribute.ints.append(value)


def _attribute_damage(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(model.graph.node, rng)
    how, attribute = int(rng.integers(5)), _pick(node.attribute, rng)
    if how == 0:
        attribute.type = int(rng.integers(0, 16))
    elif how == 1:
        attribute.name = str(_pick(["axis", "axes", "keepdims", "pads", "perm", "value", "", "body", "\x1b[2J"], rng))
    elif how == 2:
        node.attribute.append(attribute)
    elif how == 3:
        node.attribute.append(AttributeProto(name=str(_pick(["axis", "value", "to"], rng)), type=4, t=_pick(model.graph.initializer, rng)))
    else:
        node.attribute.remove(attribute)


def _delete_node(model: onnx.ModelProto, rng: Rng) -> None:
    """A node goes, and who read it reads its input."""
    position = int(rng.integers(len(model.graph.node)))
    gone = model.graph.node[position]
    source, result = (gone.input[0] if gone.input else ""), gone.output[0]
    del model.graph.node[position]
    for node in model.graph.node:
        node.input[:] = [source if name == result else name for name in node.input]


def _insert_node(model: onnx.ModelProto, rng: Rng) -> None:
    """A node of any kind between another and those who read it."""
    position = int(rng.integers(len(model.graph.node)))
    before, name = model.graph.node[position], f"in{int(rng.integers(10**6))}"
    result = before.output[0]
    extra = [str(_pick(_names(model), rng)) for _ in range(int(rng.integers(0, 3)))]
    made = helper.make_node(str(_pick(KINDS, rng)), [name, *extra], [result])
    before.output[0] = name
    model.graph.node.insert(position + 1, made)


def _duplicate_node(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(model.graph.node, rng)
    model.graph.node.insert(int(rng.integers(len(model.graph.node) + 1)), node)


def _swap_nodes(model: onnx.ModelProto, rng: Rng) -> None:
    nodes = list(model.graph.node)
    a, b = (int(rng.integers(len(nodes))) for _ in range(2))
    nodes[a], nodes[b] = nodes[b], nodes[a]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    model.graph.ClearField("node")
    model.graph.node.extend(copies)


def _splice(model: onnx.ModelProto, rng: Rng, other: bytes) -> None:
    """Nodes and weights of another model behind this one's, reading what this one makes."""
    found, tag = onnx.load_model_from_string(other).graph, f"s{int(rng.integers(10**6))}_"
    last, mine = model.graph.output[0].name, {v.name for v in found.input}
    for tensor in found.initializer:
        tensor.name = tag + tensor.name
    model.graph.initializer.extend(found.initializer)
    for node in found.node:
        node.input[:] = [last if name in mine else (tag + name if name else "") for name in node.input]
        node.output[:] = [tag + name if name else "" for name in node.output]
    model.graph.node.extend(found.node)
    model.graph.output[0].name = tag + found.output[0].name


def _input_shape(model: onnx.ModelProto, rng: Rng) -> None:
    shape = _pick(model.graph.input, rng).type.tensor_type.shape
    how = rng.random()
    if how < 0.2:
        shape.dim.add(dim_value=_integer(rng))
    elif how < 0.3:
        del shape.dim[int(rng.integers(len(shape.dim)))]
    else:
        _pick(shape.dim, rng).dim_value = _integer(rng)


def _batch_one(model: onnx.ModelProto, rng: Rng) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _input_output(model: onnx.ModelProto, rng: Rng) -> None:
    how = int(rng.integers(4))
    if how == 0:
        model.graph.input[0].type.tensor_type.elem_type = int(_pick(TYPES, rng))
    elif how == 1:
        model.graph.input.append(model.graph.input[0])
    elif how == 2:
        model.graph.output[0].name = str(_pick(_names(model), rng))
    else:
        model.graph.input[0].name = str(_pick(_names(model), rng))


def _opset(model: onnx.ModelProto, rng: Rng) -> None:
    model.opset_import[0].version = int(_pick(OPSETS, rng))


_MUTATIONS: list[Mutation] = [
    *[_initializer_values, _small_integers, _initializer_new, _node_input, _op_type, _schema_attribute, _attribute_value, _insert_node] * 3,
    *[_delete_node, _swap_inputs, _more_inputs, _opset, _input_shape, _initializer_dims, _duplicate_node] * 2,
    *[_initializer_type, _node_output, _attribute_damage, _swap_nodes, _batch_one, _input_output],
]
