"""ONNX bytes -> Graph, by our own converter with an operator allow-list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from certify.errors import ModelRejected, Problem
from certify.graph import proto
from certify.graph.graph import Graph
from certify.graph.operators import OPERATORS, Node, Operator
from certify.graph.operators.base import MAX_TENSOR_ELEMENTS
from certify.graph.operators.shape import BATCH, fold

_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
_CONTROL = {"If", "Loop", "Scan"}


def read_onnx(data: bytes) -> Graph:
    """The classifier in the bytes of one ONNX file.

    The graph computes what the file says for every batch size, each row alone, although the file may fix the batch to 1.

    Args:
        data: the file; it is parsed from memory and no other file is ever opened.

    Raises:
        ModelRejected: the file is not ONNX, or holds something outside the allow-list. The reason names it and the mend.
    """
    model = proto.parse(data)
    try:
        return _Reader(model).graph()
    except ModelRejected as error:
        # Names come from the file and may have any length.
        short = (Problem(field=p.field[:200], detail=p.detail[:400], mend=p.mend) for p in error.problems)
        raise ModelRejected(*short) from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        # Attributes of a wrong kind and the like: the file contradicts the ONNX standard in a way no check above names.
        raise ModelRejected.at("model", f"contradicts the ONNX standard ({type(error).__name__}: {error})", "export it again") from None


def _too_large(shape: tuple[int, ...]) -> bool:
    return len(shape) >= proto.MAX_RANK or min(shape, default=1) < 1 or math.prod(shape) > MAX_TENSOR_ELEMENTS


class _Reader:
    """Walks the nodes once; every tensor is either a constant or data with the shape of one example."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.proto = model.graph
        self.opset = proto.opset_of(model)
        self.constants = proto.constants_of(model.graph)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.alias: dict[str, str] = {}
        self.operators: list[Operator] = []
        self.folded = 0

    def graph(self) -> Graph:
        name, shape = self._input()
        self.shapes[name] = shape
        for position, node in enumerate(self.proto.node):
            self._node(node, node.name or f"{node.op_type}_{position}")
        output = self._output()
        kept = _reachable(self.operators, output)
        shapes = {name: shape} | {operator.output: operator.shape for operator in kept}
        return Graph(name, shape, output, shapes[output][0], tuple(kept), shapes)

    def _input(self) -> tuple[str, tuple[int, ...]]:
        inputs = [value for value in self.proto.input if value.name not in self.constants]
        if len(inputs) != 1:
            raise ModelRejected.at("model", f"has {len(inputs)} inputs", "export a classifier with exactly one input")
        tensor = inputs[0].type.tensor_type
        where = f"model.{inputs[0].name}"
        if tensor.elem_type != onnx.TensorProto.FLOAT:
            raise ModelRejected.at(where, "the input is not float32", "export the model in float32")
        sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
        if len(sizes) < 2 or _too_large(tuple(sizes[1:])):
            raise ModelRejected.at(
                where, f"the input has shape {sizes}", "export with a batch axis first and a fixed shape for each example after it"
            )
        if sizes[0] > 1:
            raise ModelRejected.at(where, f"the batch axis is fixed to {sizes[0]}", "export with batch 1 or a dynamic batch axis")
        return inputs[0].name, tuple(sizes[1:])

    def _output(self) -> str:
        if len(self.proto.output) != 1:
            raise ModelRejected.at("model", f"has {len(self.proto.output)} outputs", "export a classifier with the logits as only output")
        name = self._resolve(self.proto.output[0].name)
        shape = self.shapes.get(name)
        if shape is None or name == next(iter(self.shapes)):
            raise ModelRejected.at("model", f"the output {name!r} does not depend on the input", "export the logits as output")
        if len(shape) != 1 or shape[0] < 2:
            raise ModelRejected.at(
                "model",
                f"the output of one example has shape {list(shape)}",
                "export logits of shape (batch, classes) with at least 2 classes",
            )
        return name

    def _resolve(self, name: str) -> str:
        return self.alias.get(name, name)

    def _node(self, node: onnx.NodeProto, name: str) -> None:
        self._allowed(node, name)
        proto.check_schema(node, name, self.opset)
        outputs = [output for output in node.output if output]
        if not outputs or not node.output[0] or (len(outputs) > 1 and node.op_type != "Dropout"):
            raise ModelRejected.at(f"model.{name}", f"{node.op_type} has {len(outputs)} outputs", "export in eval mode")
        if outputs[0] in self.constants or outputs[0] in self.shapes or outputs[0] in self.alias:
            raise ModelRejected.at(f"model.{name}", f"the tensor {outputs[0]!r} is defined twice", "export the model again")
        inputs = [self._resolve(i) for i in node.input]
        unknown = [i for i in inputs if i and i not in self.constants and i not in self.shapes]
        if unknown:
            raise ModelRejected.at(
                f"model.{name}", f"reads {unknown[0]!r}, which nothing before it defines", "export the model again; nodes must be sorted"
            )
        self._define(node.op_type, name, inputs, outputs[0], proto.attributes_of(node))

    def _allowed(self, node: onnx.NodeProto, name: str) -> None:
        known = {*OPERATORS, "Constant", "Identity", "Dropout", "Shape", "Gather", "Concat", "Cast", "Pad"}
        if node.op_type in known:
            return
        why = "is not supported"
        if node.op_type in _RANDOM:
            why = "is random, so that the model is no function of its input"
        elif node.op_type in _CONTROL:
            why = "is control flow, which is never run"
        raise ModelRejected.at(
            f"model.{name}", f"the operator {node.op_type} {why}", f"use only {', '.join(sorted(OPERATORS))}, Identity, Dropout"
        )

    def _define(self, kind: str, name: str, inputs: list[str], output: str, attributes: dict[str, Any]) -> None:
        data = [i for i in inputs if i in self.shapes]
        if kind == "Constant":
            self._keep(output, _constant(name, attributes))
        elif kind == "Shape" and data:
            self._keep(
                output, np.array([BATCH, *self.shapes[data[0]]], dtype=np.int64)[slice(attributes.get("start"), attributes.get("end"))]
            )
        elif not data:
            self._fold(kind, name, [self.constants[i] for i in inputs if i], output, attributes)
        elif kind in ("Identity", "Dropout") or (kind == "Pad" and self._pads_nothing(inputs, attributes)):
            self._check_eval(kind, name, inputs)
            self.alias[output] = inputs[0]
        elif kind in OPERATORS:
            self._append(kind, name, inputs, output, attributes)
        else:
            raise ModelRejected.at(f"model.{name}", f"the operator {kind} on data is not supported", "remove this layer before the export")

    def _check_eval(self, kind: str, name: str, inputs: Sequence[str]) -> None:
        training = kind == "Dropout" and len(inputs) > 2 and inputs[2] != ""
        if inputs[0] not in self.shapes or (training and bool(np.any(self.constants.get(inputs[2], True)))):
            raise ModelRejected.at(f"model.{name}", f"{kind} is in training mode", "call model.eval() before the export")

    def _pads_nothing(self, inputs: Sequence[str], attributes: dict[str, Any]) -> bool:
        pads = self.constants.get(inputs[1]) if len(inputs) > 1 else attributes.get("pads")
        return pads is not None and not np.any(pads)

    def _append(self, kind: str, name: str, inputs: list[str], output: str, attributes: dict[str, Any]) -> None:
        shapes = {i: self.shapes[i] for i in inputs if i in self.shapes}
        constants = {i: self.constants[i] for i in inputs if i in self.constants}
        operator = OPERATORS[kind].read(Node(kind, name, tuple(inputs), output, self.opset, attributes, shapes, constants))
        if _too_large(operator.shape):
            raise ModelRejected.at(
                f"model.{name}", f"makes a tensor of shape {list(operator.shape)}", f"keep every tensor below {MAX_TENSOR_ELEMENTS} values"
            )
        self.operators.append(operator)
        self.shapes[output] = operator.shape

    def _fold(self, kind: str, name: str, values: list[np.ndarray[Any, Any]], output: str, attributes: dict[str, Any]) -> None:
        # Sizes first: a short chain of Concat or Gather could otherwise ask for any amount of memory.
        grows = {"Concat": 16, "Gather": 16 * max(1, values[-1].size if values else 1)}
        self.folded += sum(value.size for value in values) * grows.get(kind, 1)
        if self.folded > proto.MAX_WEIGHT_ELEMENTS:
            raise ModelRejected.at(f"model.{name}", "makes constants that are too large", "export with constant folding")
        value = fold(kind, attributes, values)
        if value is None:
            raise ModelRejected.at(f"model.{name}", f"the operator {kind} on constants is not supported", "export with constant folding")
        self._keep(output, value)

    def _keep(self, name: str, value: np.ndarray[Any, Any]) -> None:
        self.constants[name] = value


def _constant(name: str, attributes: dict[str, Any]) -> np.ndarray[Any, Any]:
    for key, dtype in (
        ("value", None),
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in attributes:
            value = np.asarray(attributes[key], dtype=dtype)
            if not np.all(np.isfinite(value)):
                raise ModelRejected.at(f"model.{name}", "contains NaN or infinity", "export finite constants")
            return value
    raise ModelRejected.at(f"model.{name}", "Constant has no numeric value", "export the model again")


def _reachable(operators: list[Operator], output: str) -> list[Operator]:
    needed, kept = {output}, []
    for operator in reversed(operators):
        if operator.output in needed:
            needed.update(operator.inputs)
            kept.append(operator)
    return kept[::-1]
