"""The trust boundary: bytes -> a checked ONNX graph. Files are never opened, nothing is executed, sizes are checked before use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from certify.errors import ModelRejected
from certify.graph import wire
from certify.graph.names import rename_unprintable

MAX_BYTES = 512 * 2**20
MAX_NODES = 20_000
MAX_WEIGHT_ELEMENTS = 2**28
MAX_RANK = 16
MAX_INPUTS = 4096  # of one node
OPSETS = range(7, onnx.defs.onnx_opset_version() + 1)

_MEND = "export the model to a single ONNX file with torch.onnx.export"
_ELEMENT_TYPES = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}


def parse(data: bytes) -> onnx.ModelProto:
    """The model in `data`, with everything refused that no reading of the graph needs.

    Raises:
        ModelRejected: not ONNX, too large, or something outside the allow-list.
    """
    _sniff(data)
    model = onnx.ModelProto()
    try:
        wire.check_items(data, model.DESCRIPTOR)
        model.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError):
        raise ModelRejected.at("model", "is not an ONNX file: it cannot be parsed", _MEND) from None
    if not model.HasField("graph") or not model.graph.node:
        raise ModelRejected.at("model", "is not an ONNX file, or its graph is empty", _MEND)
    if len(model.graph.node) > MAX_NODES:
        raise ModelRejected.at("model", f"has {len(model.graph.node)} nodes, more than {MAX_NODES}", "export a smaller graph")
    if model.functions or model.graph.sparse_initializer or model.graph.quantization_annotation:
        raise ModelRejected.at("model", "uses ONNX functions, sparse weights or quantisation, which are not supported", _MEND)
    rename_unprintable(model.graph)
    return model


def _sniff(data: bytes) -> None:
    if not data:
        raise ModelRejected.at("model", "the file is empty", _MEND)
    if len(data) > MAX_BYTES:
        raise ModelRejected.at("model", f"the file has {len(data)} bytes, more than {MAX_BYTES}", "export a smaller model")
    if data[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ModelRejected.at("model", "is a Python pickle, which could run code and is never loaded", _MEND)
    if data[:4] == b"PK\x03\x04":
        raise ModelRejected.at("model", "is a zip archive (a PyTorch checkpoint, TorchScript or .pt2 file), which is never loaded", _MEND)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators; other domains are refused."""
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if len(versions) != len(model.opset_import):
        raise ModelRejected.at("model", "names the version of one operator set twice", _MEND)
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise ModelRejected.at("model", f"uses operators of the domain {foreign[0]!r}", "use standard ONNX operators only")
    opset = versions.get("ai.onnx", 0)
    if opset not in OPSETS:
        raise ModelRejected.at("model", f"has opset {opset}, not one of {OPSETS.start} to {OPSETS.stop - 1}", "export with opset 17")
    return int(opset)


def constants_of(graph: onnx.GraphProto) -> dict[str, np.ndarray[Any, Any]]:
    """The weights by name, each finite.

    Raises:
        ModelRejected: external data, unknown element types, sizes that lie, NaN or infinity; the weight is named.
    """
    budget, found = MAX_WEIGHT_ELEMENTS, {}
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in found:
            raise ModelRejected.at("model", f"has two weights named {tensor.name!r}, or one without a name", _MEND)
        found[tensor.name] = read_tensor(tensor, tensor.name)
        budget -= found[tensor.name].size
        if budget < 0:
            raise ModelRejected.at("model", f"has more than {MAX_WEIGHT_ELEMENTS} weights", "export a smaller model")
    return found


def read_tensor(tensor: onnx.TensorProto, name: str) -> np.ndarray[Any, Any]:
    """One constant, checked before anything is allocated for it."""
    where = f"model.{name}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ModelRejected.at(where, "keeps its data in another file", "save the model as one file, with the weights inside")
    if tensor.data_type not in _ELEMENT_TYPES:
        raise ModelRejected.at(where, f"has the element type {_type_name(tensor.data_type)}", "export the model in float32")
    if sum(map(bool, (tensor.raw_data, tensor.float_data, tensor.double_data, tensor.int32_data, tensor.int64_data))) > 1:
        raise ModelRejected.at(where, "holds its values twice", _MEND)
    # The rank first: the product of a million large sizes would never end.
    if len(tensor.dims) > MAX_RANK or any(d < 0 for d in tensor.dims) or math.prod(tensor.dims) != _stored_elements(tensor):
        shown = f"{list(tensor.dims[:MAX_RANK])}{' and more' if len(tensor.dims) > MAX_RANK else ''}"
        raise ModelRejected.at(where, f"says its shape is {shown} but holds another number of values", _MEND)
    try:
        value = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, IndexError):
        raise ModelRejected.at(where, "cannot be read", _MEND) from None
    if np.any(np.isnan(value)):
        raise ModelRejected.at(where, "contains NaN", "check the training run and export finite weights")
    if value.dtype == np.float32 and 0 < float(np.abs(value).max(initial=0.0)) < np.finfo(np.float32).tiny:
        # Some hardware takes such numbers for zero and some does not: the network would not be one function.
        raise ModelRejected.at(where, "contains only subnormal numbers (below 1.2e-38)", "rescale the weights, or export zeros")
    return value


def _stored_elements(tensor: onnx.TensorProto) -> int:
    if tensor.HasField("raw_data"):
        size = {"int64": 8, "double": 8, "bool": 1}.get(_type_name(tensor.data_type), 4)
        return len(tensor.raw_data) // size if len(tensor.raw_data) % size == 0 else -1
    if tensor.data_type == onnx.TensorProto.FLOAT:
        return len(tensor.float_data)
    if tensor.data_type == onnx.TensorProto.DOUBLE:
        return len(tensor.double_data)
    return len(tensor.int64_data if tensor.data_type == onnx.TensorProto.INT64 else tensor.int32_data)


def _type_name(data_type: int) -> str:
    try:
        return str(onnx.TensorProto.DataType.Name(data_type)).lower()
    except ValueError:
        return f"number {data_type}"


def check_schema(node: onnx.NodeProto, name: str, opset: int) -> None:
    """The number of inputs and the attributes with their kinds, as the ONNX standard has them at this opset.

    Raises:
        ModelRejected: an attribute that the operators here would overlook, or anything else the standard does not know.
    """
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        raise ModelRejected.at(f"model.{name}", f"the operator {node.op_type} does not exist in opset {opset}", _MEND) from None
    if not schema.min_input <= len(node.input) <= min(schema.max_input, MAX_INPUTS):
        raise ModelRejected.at(f"model.{name}", f"{node.op_type} has {len(node.input)} inputs", _MEND)
    seen: set[str] = set()
    for attribute in node.attribute:
        known: Any = schema.attributes.get(attribute.name)
        if known is None or attribute.name in seen or attribute.ref_attr_name or int(known.type.value) != attribute.type:
            raise ModelRejected.at(
                f"model.{name}", f"{node.op_type} has an attribute {attribute.name!r} that {_unfit(attribute, known, opset)}", _MEND
            )
        if extra := _more_than_its_value(attribute):
            raise ModelRejected.at(f"model.{name}", f"{node.op_type} has an attribute {attribute.name!r} that holds {extra} too", _MEND)
        seen.add(attribute.name)


def _unfit(attribute: onnx.AttributeProto, known: Any, opset: int) -> str:
    if known is None:
        return f"opset {opset} does not have"
    return "is given twice, by reference, or as another kind than the standard has it"


def _more_than_its_value(attribute: onnx.AttributeProto) -> str:
    """Values of other kinds that stand beside the one that counts, which another reader may take."""
    kinds = onnx.AttributeProto
    value = {kinds.FLOAT: "f", kinds.INT: "i", kinds.STRING: "s", kinds.TENSOR: "t"}
    own = value.get(attribute.type, kinds.AttributeType.Name(attribute.type).lower())
    return ", ".join(field.name for field, _ in attribute.ListFields() if field.name not in ("name", "type", "doc_string", own))


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attribute values by name; subgraphs (control flow) and external tensors are refused."""
    kinds = onnx.AttributeProto
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type == kinds.TENSOR:
            found[attribute.name] = read_tensor(attribute.t, node.name or node.op_type)
        elif attribute.type in (kinds.FLOAT, kinds.INT, kinds.STRING, kinds.FLOATS, kinds.INTS):
            value = onnx.helper.get_attribute_value(attribute)
            found[attribute.name] = list(value) if attribute.type in (kinds.FLOATS, kinds.INTS) else value
            if attribute.type in (kinds.FLOAT, kinds.FLOATS) and not np.all(np.isfinite(value)):
                where = f"model.{node.name or node.op_type}"
                raise ModelRejected.at(where, f"the attribute {attribute.name!r} is NaN or infinite", "export finite values")
        else:
            raise ModelRejected.at(
                f"model.{node.name or node.op_type}", f"{node.op_type} has a subgraph or an unusual attribute {attribute.name!r}", _MEND
            )
    return found
