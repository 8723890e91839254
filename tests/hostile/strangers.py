"""Files that are something else, damaged files, and names made to hurt whoever reads the refusal."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import onnx
from onnx import TensorProto

from tests.hostile.hostile import Hostile, changed, graph_of
from tests.support.onnx_models import mlp, node

_PARSER = "certify/graph/proto.py parses protobuf and nothing else; what does not parse is refused."
_DOOR = "workers/datasets/reader.py knows its formats by their first bytes and tries no other."
_DEPTH = "certify/graph/wire.py counts items and depth before protobuf allocates anything."
_SHORT = "certify/graph/reader.py shortens every name from the file and drops what is not printable."
_TYPES = "certify/graph/reader.py takes exactly one float32 tensor as input and one tensor as output."

_ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQ", 2, 62, 1, 0x400000, 64, 0) + bytes(64)
_HTML = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n"
_TEXT = b"The weights are on the other machine, sorry.\n" * 20
_RANDOM = np.random.default_rng(11).bytes(4096)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 4, height: int = 4, rows: bytes | None = None) -> bytes:
    """A grey PNG; without `rows` its pixels are black, and honest."""
    rows = bytes((width + 1) * height) if rows is None else rows
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = len(data), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def _nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph in ..."""
    graph = _field(1, _field(4, b"Relu"))
    for _ in range(depth):
        graph = _field(1, _field(4, b"If") + _field(5, _field(6, graph)))
    return _field(7, graph)


def _nested_types(depth: int) -> bytes:
    """The type of the input: a sequence of sequences of sequences of ..."""
    kind = _field(1, b"\x08\x01")
    for _ in range(depth):
        kind = _field(4, _field(1, kind))
    return _field(7, _field(1, _field(4, b"Relu")) + _field(11, _field(1, b"x") + _field(2, kind)))


def _unknown_fields() -> bytes:
    """A valid model behind a hundred thousand groups, which protobuf no longer writes."""
    return b"\xfb\x01" * 100_000 + b"\xfc\x01" * 100_000 + mlp((4, 3))


def _raw_name(name: bytes) -> bytes:
    """The first weight and its reader get a name that is no UTF-8; it has the length of the old one."""
    data = changed(lambda m: _rename(m, "n" * len(name)))
    return data.replace(b"n" * len(name), name)


def _rename(model: onnx.ModelProto, name: str) -> None:
    """A node that reads `name`, which nothing defines."""
    model.graph.node[0].input[1] = name
    model.graph.node[0].name = name


def _named(name: str) -> bytes:
    return changed(lambda m: _rename(m, name))


def _operator(name: str) -> bytes:
    return changed(lambda m: setattr(m.graph.node[0], "op_type", name))


def _documented() -> bytes:
    """10 MB of documentation on a node that is not supported: the refusal shows none of it."""

    def change(model: onnx.ModelProto) -> None:
        model.doc_string = model.graph.doc_string = model.graph.name = "d" * 3_000_000
        model.graph.node[0].doc_string = "n" * 3_000_000
        model.graph.node[0].op_type = "Det"

    return changed(change)


def _input_type(kind: str) -> bytes:
    def change(model: onnx.ModelProto) -> None:
        value = model.graph.input[0]
        inner = value.type.tensor_type
        wrapped = onnx.TypeProto()
        if kind == "map":
            wrapped.map_type.key_type = TensorProto.INT64
            wrapped.map_type.value_type.tensor_type.CopyFrom(inner)
        else:
            getattr(wrapped, f"{kind}_type").elem_type.tensor_type.CopyFrom(inner)
        value.type.CopyFrom(wrapped)

    return changed(change)


def _element_type(kind: int) -> bytes:
    return changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", kind))


def _shape(*sizes: int | str) -> bytes:
    return graph_of(node("Flatten", "x", "f"), node("Softmax", "f", "logits"), shape=sizes)


def _second_input(model: onnx.ModelProto) -> None:
    model.graph.input.add().CopyFrom(model.graph.input[0])
    model.graph.input[1].name = "y"


def _no_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _class_names(text: str) -> bytes:
    return changed(lambda m: m.metadata_props.add(key="class_names", value=text))


OTHER_FILES = [
    *(
        Hostile(f"{what} as {kind}", kind, mitigation, says, lambda data=data: data, slow=kind == "dataset" or what == "a text")  # type: ignore[arg-type]
        for what, data in {
            "a PNG": png(),
            "an HTML page": _HTML,
            "an ELF program": _ELF,
            "a text": _TEXT,
            "random bytes": _RANDOM,
            "an empty file": b"",
        }.items()
        for kind, mitigation, says in (
            ("model", _PARSER, "not an ONNX file|file is empty"),
            ("dataset", _DOOR, "neither an .npz|file is empty|pickle"),
        )
    ),
    Hostile("a CSV as dataset", "dataset", _DOOR, "neither an .npz|pickle", lambda: b"x0,x1,label\n" + b"0.5,0.25,1\n" * 100),
    Hostile("a JSON as dataset", "dataset", _DOOR, "neither an .npz|safetensors", lambda: b'{"x": [[0.5, 0.25]], "y": [1]}'),
    Hostile("a model as dataset", "dataset", _DOOR, "neither an .npz", lambda: mlp((4, 3)), slow=True),
    Hostile("a model cut in its middle", "model", _PARSER, "cannot be parsed", lambda: mlp((40, 30))[:-700]),
    Hostile("a model of one byte", "model", _PARSER, "not an ONNX file", lambda: b"\x3a"),
    Hostile("a length of 2^63 bytes", "model", _DEPTH, "cannot be parsed", lambda: b"\x3a" + b"\xff" * 9 + b"\x01"),
    Hostile("a varint without an end", "model", _DEPTH, "cannot be parsed", lambda: b"\x08" + b"\xff" * 100_000, slow=True),
]

NESTS = [
    Hostile("graphs nested a thousand deep", "model", _DEPTH, "nested more than 32 deep", lambda: _nested(1_000)),
    Hostile("types nested two thousand deep", "model", _DEPTH, "nested more than 32 deep", lambda: _nested_types(2_000)),
    Hostile("a hundred thousand open groups", "model", _DEPTH, "cannot be parsed", _unknown_fields),
]

NAMES = [
    Hostile("a name that is no UTF-8", "model", _SHORT, "cannot be parsed|reads", lambda: _raw_name(b"\xff\xfe\x80" * 7)),
    Hostile("a name with terminal escapes", "model", _SHORT, r"\?\[2J\?\]0;owned\?: reads", lambda: _named("\x1b[2J\x1b]0;owned\x07")),
    Hostile("a name with line breaks", "model", _SHORT, "which nothing before it defines", lambda: _named("w\nINFO: accepted\r\n")),
    Hostile("a name of 10 MB", "model", _SHORT, "reads 'nnnn", lambda: _named("n" * 10_000_000)),
    Hostile("a name that turns the writing direction", "model", _SHORT, "reads", lambda: _named("\u202eevil\u2066"), slow=True),
    Hostile("an operator type of 10 MB", "model", _SHORT, "operator OOOO", lambda: _operator("O" * 10_000_000)),
    Hostile("documentation of 9 MB", "model", _SHORT, "the operator Det is not supported", _documented, slow=True),
    Hostile("class names with terminal escapes in a model", "model", _SHORT, "printable", lambda: _class_names('["\\u001b[2J", "b", "c"]')),
    Hostile("class names of a hundred thousand brackets", "model", _SHORT, "not a JSON list", lambda: _class_names("[" * 100_000)),
]

INPUTS = [
    *(
        Hostile(f"an input that is {kind}", "model", _TYPES, "input", lambda kind=kind: _input_type(kind), kind == "optional")
        for kind in ("sequence", "optional", "map")
    ),
    *(
        Hostile(f"an input of {name}", "model", _TYPES, "not float32", lambda number=number: _element_type(number), slow=number != 8)
        for name, number in {"texts": 8, "float16": 10, "complex64": 14, "float64": 11, "type 255": 255}.items()
    ),
    Hostile("two inputs", "model", _TYPES, "has 2 inputs", lambda: changed(_second_input)),
    Hostile("no input", "model", _TYPES, "has 0 inputs", lambda: changed(lambda m: m.graph.ClearField("input")), slow=True),
    Hostile("an input without a shape", "model", _TYPES, r"shape \[\]", lambda: changed(_no_shape)),
    Hostile("dynamic spatial axes", "model", _TYPES, "the input has shape", lambda: _shape(3, "height", "width")),
    Hostile("a zero-sized axis", "model", _TYPES, "the input has shape", lambda: _shape(3, 0), slow=True),
    Hostile("a negative axis", "model", _TYPES, "the input has shape", lambda: _shape(-3, -4)),
    Hostile("an input of rank 60", "model", _TYPES, "the input has shape", lambda: _shape(*[1] * 60)),
    Hostile("an input whose size wraps int64", "model", _TYPES, "the input has shape", lambda: _shape(2**32, 2**32)),
    Hostile("an input of 16 GB", "model", _TYPES, "the input has shape", lambda: _shape(2**32), slow=True),
]

HOSTILE = OTHER_FILES + NESTS + NAMES + INPUTS
