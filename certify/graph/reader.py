"""ONNX bytes -> Graph, by our own converter with an operator allow-list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from certify.errors import ModelRejected, Problem
from certify.graph import proto
from certify.graph.batch_rules import follow
from certify.graph.batch_size import BatchConstant, shape_of, size_of
from certify.graph.fold import FOLDED, evaluated, fold
from certify.graph.folded_weights import read_all
from certify.graph.folding_error import Folded, approximated, computes
from certify.graph.graph import Graph
from certify.graph.layout import Layout
from certify.graph.operators import OPERATORS, Node, Operator
from certify.graph.operators.base import MAX_RANK, MAX_TENSOR_ELEMENTS
from certify.text import printable

Array = np.ndarray[Any, Any]

MAX_FLOPS = 2**38  # of one example; a large vision transformer needs half of it
MAX_VALUES = 2**29  # of one example, in all tensors together
MAX_LIVE_ELEMENTS = 2**26  # of one example, held at once
MAX_CLASSES = 2**17
_FOLD_BUDGET = 2**23

_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
_CONTROL = {"If", "Loop", "Scan", "SequenceMap"}
_PASSING = {"Identity", "Dropout"}


def read_onnx(data: bytes) -> Graph:
    """The classifier in the bytes of one ONNX file.

    The graph computes what the file says for a batch of one, for each row of any batch alone.

    Args:
        data: the file; it is parsed from memory and no other file is ever opened.

    Raises:
        ModelRejected: the file is not ONNX, or holds something outside the allow-list. The reason names it and the mend.
    """
    model = proto.parse(data)
    try:
        return _Reader(model).graph()
    except ModelRejected as error:
        # Names come from the file and may have any length and any character.
        short = (Problem(field=printable(p.field, 120), detail=printable(p.detail, 300), mend=p.mend) for p in error.problems)
        raise ModelRejected(*short) from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        # Attributes of a wrong kind and the like: the file contradicts the ONNX standard in a way no check above names.
        detail = printable(f"contradicts the ONNX standard ({type(error).__name__}: {error})", 300)
        raise ModelRejected.at("model", detail, "export it again") from None


class _Reader:
    """Walks the nodes once; every tensor is either a constant or data with a layout."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.proto = model.graph
        self.opset = proto.opset_of(model)
        self.class_names = _class_names(model)
        self.constants = proto.constants_of(model.graph)
        # The constants that depend on the batch size; null where it is not known how.
        self.by_batch: dict[str, BatchConstant | None] = {}
        self.folded: dict[str, Folded] = {}  # of the constants that nodes compute: in float64, with bounds of their errors
        self.layouts: dict[str, Layout] = {}
        self.alias: dict[str, str] = {}
        self.operators: list[Operator] = []
        self.defined = set(self.constants)
        self.fold_budget = _FOLD_BUDGET + 4 * sum(value.size for value in self.constants.values())
        self.fixed = False
        self.read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}

    def graph(self) -> Graph:
        name, layout = self._input()
        self.layouts[name] = layout
        self.defined.add(name)
        for position, node in enumerate(self.proto.node):
            self._node(node, node.name or f"{node.op_type}_{position}")
        output = self._output(name)
        kept = tuple(_reachable(self.operators, output))
        shapes = {name: layout.shape} | {operator.output: operator.shape for operator in kept}
        graph = Graph(name, layout.shape, output, shapes[output][0], kept, shapes, self.opset, self.class_names)
        _affordable(graph)
        return graph

    def _input(self) -> tuple[str, Layout]:
        inputs = [value for value in self.proto.input if value.name not in self.constants]
        if len(inputs) != 1:
            raise ModelRejected.at("model", f"has {len(inputs)} inputs", "export a classifier with exactly one input")
        tensor = inputs[0].type.tensor_type
        where = f"model.{inputs[0].name}"
        if tensor.elem_type != onnx.TensorProto.FLOAT:
            raise ModelRejected.at(where, "the input is not float32", "export the model in float32")
        sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim[: MAX_RANK + 1]]
        example = tuple(sizes[1:])
        if not 2 <= len(sizes) <= MAX_RANK or min(example) < 1 or int(np.prod(example, dtype=object)) > MAX_TENSOR_ELEMENTS:
            raise ModelRejected.at(
                where, f"the input has shape {sizes}", "export with a batch axis first and a fixed shape for each example after it"
            )
        if sizes[0] > 1 or sizes[0] < 0:
            raise ModelRejected.at(where, f"the batch axis is fixed to {sizes[0]}", "export with batch 1 or a dynamic batch axis")
        self.fixed = sizes[0] == 1
        return inputs[0].name, Layout.of_example(example)

    def _output(self, source: str) -> str:
        if len(self.proto.output) != 1:
            raise ModelRejected.at("model", f"has {len(self.proto.output)} outputs", "export a classifier with the logits as only output")
        name = self._resolve(self.proto.output[0].name)
        layout = self.layouts.get(name)
        if layout is None or name == source:
            raise ModelRejected.at("model", f"the output {name!r} does not depend on the input", "export the logits as output")
        one_of_one = layout.batch is None  # the file answers its batch of one without a batch axis
        if not (layout.plain or one_of_one) or len(layout.shape) != 1 or layout.shape[0] < 2:
            raise ModelRejected.at(
                "model",
                f"the output of one example has shape {list(layout.shape)}"
                + ("" if layout.plain or one_of_one else ", without a batch axis in front"),
                "export logits of shape (batch, classes) with at least 2 classes",
            )
        if layout.shape[0] > MAX_CLASSES:
            raise ModelRejected.at(
                "model", f"has {layout.shape[0]} classes, more than {MAX_CLASSES}", "export a classifier of fewer classes"
            )
        if self.class_names is not None and len(self.class_names) != layout.shape[0]:
            detail = f"names {len(self.class_names)} classes but has {layout.shape[0]} logits"
            raise ModelRejected.at("model.class_names", detail, "export one name for each logit")
        return name

    def _resolve(self, name: str) -> str:
        return self.alias.get(name, name)

    def _node(self, node: onnx.NodeProto, name: str) -> None:
        _allowed(node, name)
        proto.check_schema(node, name, self.opset)
        outputs = [output for output in node.output if output]
        if not outputs or not node.output[0]:
            raise ModelRejected.at(f"model.{name}", f"{node.op_type} has {len(outputs)} outputs", "export the model again")
        extra = [output for output in outputs[1:] if output in self.read] if node.op_type != "Split" else []
        if extra and self._resolve(node.input[0] if node.input else "") in self.layouts:
            detail = f"the output {extra[0]!r} of {node.op_type} is used, but only its first can be"
            raise ModelRejected.at(f"model.{name}", detail, "call model.eval() before the export")
        for output in outputs:
            if output in self.defined:
                raise ModelRejected.at(f"model.{name}", f"the tensor {output!r} is defined twice", "export the model again")
            self.defined.add(output)
        inputs = [self._resolve(i) for i in node.input]
        unknown = [i for i in inputs if i and i not in self.constants and i not in self.layouts]
        if unknown:
            mend = "export the model again; nodes must be sorted"
            raise ModelRejected.at(f"model.{name}", f"reads {unknown[0]!r}, which nothing before it defines", mend)
        self._define(node, name, inputs)

    def _define(self, node: onnx.NodeProto, name: str, inputs: list[str]) -> None:
        kind, attributes = node.op_type, proto.attributes_of(node)
        data = [i for i in inputs if i in self.layouts]
        if kind == "Constant":
            self.constants[node.output[0]] = _constant(name, attributes)
        elif kind in ("Shape", "Size") and data:
            self._shape(kind, node.output[0], self.layouts[data[0]], attributes)
        elif not data:
            self._fold(node, name, inputs)
            self._fold_by_batch(node, inputs, attributes)
        elif self._changes_nothing(kind, inputs, attributes):
            self._check_eval(kind, name, inputs)
            self.alias[node.output[0]] = inputs[0]
        elif kind in OPERATORS:
            self._append(node, name, inputs, attributes)
        else:
            raise ModelRejected.at(f"model.{name}", f"the operator {kind} on data is not supported", "remove this layer before the export")

    def _shape(self, kind: str, output: str, layout: Layout, attributes: dict[str, Any]) -> None:
        sizes = BatchConstant.shape_of(layout)
        found = shape_of(attributes, sizes) if kind == "Shape" else size_of(sizes)
        self.constants[output] = found.at(1)
        self._follow(output, found)

    def _follow(self, output: str, found: BatchConstant | None) -> None:
        """Take note of a constant that depends on the batch size; in a file for a batch of one there is none."""
        if not self.fixed and (found is None or not found.free):
            self.by_batch[output] = found

    def _check_eval(self, kind: str, name: str, inputs: Sequence[str]) -> None:
        training = kind == "Dropout" and len(inputs) > 2 and inputs[2] != ""
        asked = training and (inputs[2] in self.by_batch or bool(np.any(self.constants.get(inputs[2], True))))
        if inputs[0] not in self.layouts or asked:
            raise ModelRejected.at(f"model.{name}", f"{kind} is in training mode", "call model.eval() before the export")

    def _changes_nothing(self, kind: str, inputs: Sequence[str], attributes: dict[str, Any]) -> bool:
        if kind == "Pad":
            pads = self.constants.get(inputs[1]) if len(inputs) > 1 else attributes.get("pads")
            by_batch = len(inputs) > 1 and inputs[1] in self.by_batch
            return pads is not None and not by_batch and not np.any(pads)
        # Data is float, and truth values are the numbers 0 and 1.
        return kind in _PASSING or (kind == "Cast" and attributes.get("to") == onnx.TensorProto.FLOAT)

    def _append(self, node: onnx.NodeProto, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        used = dict.fromkeys(i for i in inputs if i)
        read = Node(
            type=node.op_type,
            name=name,
            inputs=tuple(inputs),
            outputs=tuple(node.output),
            opset=self.opset,
            attributes=attributes,
            layouts={i: self.layouts[i] for i in used if i in self.layouts},
            constants={i: self.constants[i] for i in used if i in self.constants},
            by_batch={i: self.by_batch[i] for i in used if i in self.by_batch},
            fixed=self.fixed,
        )
        for operator in read_all(read, self.folded):
            self.operators.append(operator)
            self.layouts[operator.output] = operator.layout

    def _fold(self, node: onnx.NodeProto, name: str, inputs: list[str]) -> None:
        values = {given: self.constants[used] for given, used in zip(node.input, inputs, strict=True) if given}
        self._keep(node, self.constants, fold(node, name, self.opset, values, self.fold_budget))
        self._bound_errors(node, name, [used for used in inputs if used])

    def _fold_by_batch(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        """What the node just folded makes at every batch size."""
        if not any(used in self.by_batch for used in inputs):
            return
        given = [self._at_every_batch(used) for used in inputs]
        known = len(node.output) == 1 and not any(used in self.by_batch and self.by_batch[used] is None for used in inputs)
        for output in filter(None, node.output):
            self._follow(output, follow(node.op_type, attributes, given, self.constants[output]) if known else None)

    def _at_every_batch(self, name: str) -> BatchConstant | None:
        """A constant at every batch size; null where there is none of that name, or it is not known."""
        if name in self.by_batch or not name:
            return self.by_batch.get(name)
        return BatchConstant.plain(self.constants[name])

    def _bound_errors(self, node: onnx.NodeProto, name: str, inputs: Sequence[str]) -> None:
        """Take note of how far the constants that a node makes can be off, where they can be."""
        outputs = [output for output in node.output if output]
        deployed = [self.constants[output] for output in outputs]
        values = [self.constants[used] for used in inputs]
        if not any(used in self.folded for used in inputs) and not computes(node.op_type, values, deployed):
            return
        operands = [self.folded.get(used) or Folded.exactly(value) for used, value in zip(inputs, values, strict=True)]
        places = [str(place) for place in range(len(operands))]

        def run(again: onnx.NodeProto, arrays: Sequence[Array]) -> list[Array]:
            return evaluated(again, f"model.{name}", self.opset, dict(zip(places, arrays, strict=True)))

        for output, made in zip(outputs, approximated(_numbered(node), operands, run, deployed), strict=True):
            if not made.exact:
                self.folded[output] = made

    def _keep(self, node: onnx.NodeProto, table: dict[str, Array], values: Sequence[Array]) -> None:
        self.fold_budget -= sum(value.size for value in values)
        table.update(zip(filter(None, node.output), values, strict=True))


def _numbered(node: onnx.NodeProto) -> onnx.NodeProto:
    """With inputs named by their places, as one tensor may stand in several."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    places = iter(range(len(node.input)))
    made.input[:] = [str(next(places)) if given else "" for given in node.input]
    return made


def _allowed(node: onnx.NodeProto, name: str) -> None:
    if node.op_type in OPERATORS or node.op_type in FOLDED or node.op_type in _PASSING or node.op_type == "Constant":
        return
    why = "is not supported"
    if node.op_type in _RANDOM:
        why = "is random, so that the model is no function of its input"
    elif node.op_type in _CONTROL:
        why = "is control flow, which is never run"
    mend = "replace this layer by supported ones; docs/design.md lists the operators"
    raise ModelRejected.at(f"model.{name}", f"the operator {node.op_type} {why}", mend)


def _affordable(graph: Graph) -> None:
    if graph.flops() > MAX_FLOPS:
        detail = f"needs {graph.flops():.3g} floating-point operations for one example, more than {MAX_FLOPS:.3g}"
        raise ModelRejected.at("model", detail, "use a smaller network or a smaller input")
    if graph.values() > MAX_VALUES:
        detail = f"makes {graph.values()} values for one example, more than {MAX_VALUES}"
        raise ModelRejected.at("model", detail, "use a smaller network or a smaller input")
    if graph.live_elements() > MAX_LIVE_ELEMENTS:
        detail = f"holds {graph.live_elements()} values at once for one example, more than {MAX_LIVE_ELEMENTS}"
        raise ModelRejected.at("model", detail, "use a smaller network or a smaller input")


def _class_names(model: onnx.ModelProto) -> tuple[str, ...] | None:
    """What `assay export --class-names` writes: a JSON list in the metadata."""
    texts = [entry.value for entry in model.metadata_props if entry.key == "class_names"]
    if not texts:
        return None
    try:
        names = json.loads(texts[0][: 2**20])
    except (ValueError, RecursionError):
        names = None
    if (
        len(texts) > 1
        or not isinstance(names, list)
        or not all(isinstance(n, str) and 0 < len(n) <= 200 and n.isprintable() for n in names)
    ):
        raise ModelRejected.at(
            "model.class_names", "is not a JSON list of printable names in the metadata", "export again with --class-names"
        )
    return tuple(names)


def _constant(name: str, attributes: dict[str, Any]) -> Array:
    for key, dtype in (
        ("value", None),
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in attributes:
            value = np.asarray(attributes[key], dtype=dtype)
            if np.any(np.isnan(value)):
                raise ModelRejected.at(f"model.{name}", "contains NaN", "export finite constants")
            return value
    raise ModelRejected.at(f"model.{name}", "Constant has no numeric value", "export the model again")


def _reachable(operators: list[Operator], output: str) -> list[Operator]:
    needed, kept = {output}, []
    for operator in reversed(operators):
        if operator.output in needed:
            needed.update(operator.inputs)
            kept.append(operator)
    return kept[::-1]
