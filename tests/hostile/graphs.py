"""Graphs that are no straight line of known operators: control flow, strange domains, cycles, attributes of the wrong kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from tests.hostile.hostile import Hostile, changed, floats, graph_of, ints
from tests.support.onnx_models import model_bytes, node

_CONTROL = "certify/graph/reader.py has an allow-list, and no operator with a subgraph is on it."
_DOMAIN = "certify/graph/proto.py refuses every domain but the standard one, and all functions."
_OPSET = "certify/graph/proto.py reads one version of one operator set, and knows which."
_ORDER = "certify/graph/reader.py walks the nodes once; a name must be defined before it is read, and only once."
_SCHEMA = "certify/graph/proto.py holds every node against the ONNX schema: the number of inputs, the attributes and their kinds."
_SHAPE = "certify/graph/operators/shape.py follows every size, and the batch through it, in Python integers."
_OUTPUT = "certify/graph/reader.py takes one output, (batch, classes), that depends on the input."

Change = Callable[[onnx.ModelProto], object]


def _subgraph() -> onnx.GraphProto:
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])
    return helper.make_graph([helper.make_node("Identity", ["x"], ["inner"])], "inner", [], [value])


def _control(kind: str, inputs: str = "x", **attributes: Any) -> Callable[[], bytes]:
    return lambda: graph_of(node(kind, inputs, "y", **attributes), node("Flatten", "y", "logits"), yes=np.array(True), ten=np.int64(10))


def _sneaked(model: onnx.ModelProto) -> None:
    """A subgraph in an operator that has none."""
    model.graph.node[1].attribute.append(helper.make_attribute("body", _subgraph()))


def _function(model: onnx.ModelProto, calls: str) -> None:
    """A function of the file's own, which calls `calls`."""
    body = [helper.make_node(calls, ["a"], ["b"], domain="mine")]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("mine", 1)]))
    model.opset_import.add(domain="mine", version=1)
    model.graph.node[1].domain, model.graph.node[1].op_type = "mine", "Twice"


def _function_as_relu(model: onnx.ModelProto) -> None:
    """A function that takes the place of a standard operator."""
    body = [helper.make_node("Neg", ["a"], ["b"])]
    model.functions.append(helper.make_function("", "Relu", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))


def _domain(name: str, kind: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import.add(domain=name, version=1)
        model.graph.node[1].domain, model.graph.node[1].op_type = name, kind

    return change


def _opset(*versions: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.ClearField("opset_import")
        for version in versions:
            model.opset_import.add(domain="", version=version)

    return change


def _reads(position: int, name: str) -> Change:
    """A node of the usual model (Gemm h0, Relu a0, Gemm logits) reads another tensor."""
    return lambda model: model.graph.node[position].input.__setitem__(0, name)


def _writes(position: int, name: str) -> Change:
    return lambda model: model.graph.node[position].output.__setitem__(0, name)


def _unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def _attribute(position: int, **fields: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[position].attribute.append(AttributeProto(**fields))

    return change


def _retyped(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].CopyFrom(AttributeProto(name="transB", type=AttributeProto.STRING, s=b"1" * 100))


def _lying_type(model: onnx.ModelProto) -> None:
    """transB is the integer that it says it is, and a graph besides."""
    model.graph.node[0].attribute[0].CopyFrom(AttributeProto(name="transB", type=AttributeProto.INT, i=1, g=_subgraph()))


def _untyped(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].ClearField("type")


def _twice(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("transB", 0))


def _referring(model: onnx.ModelProto) -> None:
    """An attribute that takes its value from the function around it; there is none."""
    model.graph.node[0].attribute[0].ref_attr_name = "outer"


def _reshape(*sizes: int, shape: tuple[int, ...] = (2, 6), **attributes: Any) -> Callable[[], bytes]:
    return lambda: graph_of(node("Reshape", "x s", "y", **attributes), node("Flatten", "y", "logits"), shape=shape, s=ints(*sizes))


def _permuted(*perm: int) -> Callable[[], bytes]:
    return lambda: graph_of(node("Transpose", "x", "y", perm=perm), node("Flatten", "y", "logits"))


def _outputs(count: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        value = onnx.ValueInfoProto()
        value.CopyFrom(model.graph.output[0])
        model.graph.ClearField("output")
        model.graph.output.extend([value] * count)

    return change


def _output(name: str) -> Change:
    return lambda model: setattr(model.graph.output[0], "name", name)


def _scalar_output() -> bytes:
    return model_bytes([node("ReduceMean", "x", "logits", axes=[1], keepdims=0)], {}, input_shape=("batch", 4))


def _case(name: str, mitigation: str, says: str, change: Change, slow: bool = False) -> Hostile:
    return Hostile(name, "model", mitigation, says, lambda: changed(change), slow)


def _built(name: str, mitigation: str, says: str, build: Callable[[], bytes], slow: bool = False) -> Hostile:
    return Hostile(name, "model", mitigation, says, build, slow)


CONTROL = [
    _built("If", _CONTROL, "If is control flow", _control("If", "yes", then_branch=_subgraph(), else_branch=_subgraph())),
    _built("Loop without an end", _CONTROL, "Loop is control flow", _control("Loop", "ten yes x", body=_subgraph())),
    _built("Scan", _CONTROL, "Scan is control flow", _control("Scan", "x", body=_subgraph(), num_scan_inputs=1), slow=True),
    _built("SequenceMap", _CONTROL, "SequenceMap is control flow", _control("SequenceMap", "x", body=_subgraph())),
    _built("SequenceConstruct", _CONTROL, "SequenceConstruct is not supported", _control("SequenceConstruct", "x x"), slow=True),
    _built("StringNormalizer", _CONTROL, "StringNormalizer is not supported", _control("StringNormalizer"), slow=True),
    _case("a subgraph in a Relu", _CONTROL, "attribute 'body'", _sneaked),
]

DOMAINS = [
    _case("a custom domain", _DOMAIN, "domain 'evil.example'", _domain("evil.example", "Shell")),
    _case("a domain with a line break", _DOMAIN, "domain 'evil", _domain("evil\nINFO accepted", "Shell"), slow=True),
    _case("an operator of ai.onnx.ml", _DOMAIN, r"domain 'ai\.onnx\.ml'", _domain("ai.onnx.ml", "TreeEnsembleRegressor")),
    _case("an operator of com.microsoft", _DOMAIN, r"domain 'com\.microsoft'", _domain("com.microsoft", "FusedGemm")),
    _case("training of the preview domain", _DOMAIN, "domain 'ai.onnx.preview", _domain("ai.onnx.preview.training", "Adam"), slow=True),
    _case("a local function", _DOMAIN, "ONNX functions", lambda m: _function(m, "Other")),
    _case("a local function that calls itself", _DOMAIN, "ONNX functions", lambda m: _function(m, "Twice")),
    _case("a local function in place of Relu", _DOMAIN, "ONNX functions", _function_as_relu),
]

OPSETS = [
    *(
        _case(f"opset {version}", _OPSET, f"opset {version}", _opset(version), version not in (6, 999))
        for version in (0, 6, 999, -1, 2**62)
    ),
    _case("no opset", _OPSET, "opset 0", _opset()),
    _case("the opset twice", _OPSET, "twice", _opset(17, 18)),
    _case("a hundred thousand opsets", _OPSET, "twice", _opset(*range(7, 100_007)), slow=True),
]

ORDER = [
    _case("a cycle", _ORDER, "which nothing before it defines", _reads(0, "a0")),
    _case("a node that reads itself", _ORDER, "which nothing before it defines", _reads(1, "a0")),
    _case("nodes in the wrong order", _ORDER, "which nothing before it defines", _unsorted),
    _case("a tensor nobody makes", _ORDER, "which nothing before it defines", _reads(1, "ghost"), slow=True),
    _case("two nodes that write one tensor", _ORDER, "defined twice", _writes(1, "h0")),
    _case("a node that writes the input", _ORDER, "defined twice", _writes(1, "x")),
    _case("a node that writes a weight", _ORDER, "defined twice", _writes(1, "w1")),
    _case("a node that writes nothing", _ORDER, "outputs", _writes(1, ""), slow=True),
]

ATTRIBUTES = [
    _case("an attribute of the wrong kind", _SCHEMA, "attribute 'transB'", _retyped),
    _case("an attribute that lies about its kind", _SCHEMA, "attribute", _lying_type),
    _case("an attribute without a kind", _SCHEMA, "attribute 'transB'", _untyped, slow=True),
    _case("an attribute twice", _SCHEMA, "attribute 'transB'", _twice),
    _case("an attribute by reference", _SCHEMA, "attribute 'transB'", _referring),
    _case("an attribute nobody knows", _SCHEMA, "attribute 'backdoor'", _attribute(0, name="backdoor", type=2, i=1), slow=True),
    _case("an attribute of 10 MB", _SCHEMA, "attribute 'nnnn", _attribute(0, name="n" * 10_000_000, type=3, s=b"")),
    _case(
        "a text of 10 MB", _SCHEMA, "attribute 'alpha'|attribute 'text'", _attribute(1, name="text", type=3, s=b"t" * 10_000_000), slow=True
    ),
    _case("an attribute of half a million integers", _SCHEMA, "attribute", _attribute(1, name="ints", type=7, ints=[2**63 - 1] * 500_000)),
    _built(
        "an axis of 2^63 - 1",
        _SCHEMA,
        "axis 9223372036854775807",
        lambda: graph_of(node("Softmax", "x", "y", axis=2**63 - 1), node("Flatten", "y", "logits")),
    ),
    _built(
        "alpha that is infinite",
        _SCHEMA,
        "NaN or infinite",
        lambda: graph_of(node("LeakyRelu", "x", "y", alpha=float("inf")), node("Flatten", "y", "logits")),
    ),
    _case("a node with forty inputs", _SCHEMA, "has 4[0-9] inputs", lambda m: m.graph.node[1].input.extend(["h0"] * 39)),
]

SHAPES = [
    _built("Reshape by sizes that wrap int64", _SHAPE, "Reshape", _reshape(0, 2**32, 2**32, 12)),
    _built("Reshape with two unknown sizes", _SHAPE, "Reshape", _reshape(0, -1, -1)),
    _built("Reshape to zero", _SHAPE, "Reshape", _reshape(0, 0, 12, allowzero=1)),
    _built("Reshape to negative sizes", _SHAPE, "Reshape", _reshape(0, -3, -4), slow=True),
    _built("Reshape to a thousand axes", _SHAPE, "Reshape", _reshape(0, 12, *[1] * 1_000)),
    _built("Reshape of a prime", _SHAPE, "Reshape", _reshape(0, 5, -1), slow=True),
    _built("Transpose that names an axis twice", _SHAPE, "Transpose", _permuted(0, 1, 1)),
    _built("Transpose by axes that do not exist", _SHAPE, "Transpose", _permuted(0, 7, -9), slow=True),
]

OUTPUTS = [
    _case("no output", _OUTPUT, "has 0 outputs", _outputs(0)),
    _case("two outputs", _OUTPUT, "has 2 outputs", _outputs(2), slow=True),
    _case("an output that is a weight", _OUTPUT, "does not depend on the input", _output("w0")),
    _case("an output that is the input", _OUTPUT, "does not depend on the input", _output("x"), slow=True),
    _case("an output nobody makes", _OUTPUT, "does not depend on the input", _output("ghost")),
    _built("one number for each example", _OUTPUT, r"has shape \[\]", _scalar_output),
    _built(
        "an output that is constant",
        _OUTPUT,
        "does not depend on the input",
        lambda: graph_of(node("Relu", "w", "logits"), w=floats(1, 3)),
    ),
]

HOSTILE = CONTROL + DOMAINS + OPSETS + ORDER + ATTRIBUTES + SHAPES + OUTPUTS
