"""Pickles in every disguise; each would create the marker file if anything loaded it."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np

from tests.hostile.hostile import Hostile, Payload, pickled
from tests.support.onnx_models import mlp

_SNIFF = "certify/graph/proto.py knows pickles and zips by their first bytes and loads neither."
_PARSER = "certify/graph/proto.py parses protobuf and nothing else; what does not parse is refused."
_WALK = "workers/datasets/refusals.py walks pickle opcodes without running one, and nothing ever loads a pickle."
_HEADER = "workers/datasets/arrays.py refuses object arrays by their header, before numpy sees the values."


def _zip(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _checkpoint() -> bytes:
    """As torch.save writes it."""
    return _zip(**{"archive/data.pkl": pickled(2), "archive/version": b"3\n", "archive/data/0": bytes(64), "archive/byteorder": b"little"})


def _torchscript() -> bytes:
    code = b"class Net(Module):\n  def forward(self, x: Tensor) -> Tensor:\n    return x\n"
    members = {"net/data.pkl": pickled(2), "net/constants.pkl": pickled(2), "net/code/__torch__.py": code, "net/version": b"4\n"}
    return _zip(**members)


def _exported_program() -> bytes:
    """As torch.export.save writes it: a graph as JSON, and pickles beside it."""
    graph = json.dumps({"graph_module": {"graph": {"nodes": []}}}).encode()
    return _zip(**{"net/models/model.json": graph, "net/data/weights/model.pt": _checkpoint(), "net/archive_format": b"pt2"})


def _tar() -> bytes:
    """As torch before 0.1.10 wrote it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            entry, data = tarfile.TarInfo(name), pickled(2)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def _legacy_torch() -> bytes:
    """As torch before 1.6 wrote it: a magic number, a version and the object, pickled one after another."""
    return b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})) + pickled(2)


def _joblib() -> bytes:
    """As joblib compresses: zlib around a pickle."""
    return zlib.compress(pickled(4))


def _objects() -> np.ndarray:  # type: ignore[type-arg]
    return np.array([Payload()] * 3, dtype=object)


def _npz_objects() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=_objects(), y=np.zeros(3, np.int64))
    return file.getvalue()


def _npy_objects() -> bytes:
    file = io.BytesIO()
    np.save(file, _objects(), allow_pickle=True)
    return file.getvalue()


def _npy_mask(version: bytes = b"\x01\x00") -> bytes:
    """The magic of npy, and then a pickle."""
    return b"\x93NUMPY" + version + pickled(4)


def _structured_objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([(Payload(), 0)], dtype=[("x", object), ("y", np.int64)]), allow_pickle=True)
    return file.getvalue()


def _tail() -> bytes:
    """A safetensors file with the payload behind the tensors."""
    header = json.dumps(
        {
            "x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
            "y": {"dtype": "I64", "shape": [2], "data_offsets": [16, 32]},
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + bytes(32) + pickled(4)


def _classes() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.zeros((3, 2), np.float32), y=np.zeros(3, np.int64), classes=_objects())
    return file.getvalue()


MODELS = [
    *(
        Hostile(
            f"a pickle of protocol {n} named model.onnx", "model", _SNIFF if n > 1 else _PARSER, says, lambda n=n: pickled(n), n in (0, 3)
        )
        for n, says in enumerate(["not an ONNX file", "not an ONNX file", "pickle", "pickle", "pickle", "pickle"])
    ),
    Hostile("a torch.save checkpoint", "model", _SNIFF, "zip archive .* never loaded", _checkpoint),
    Hostile("a TorchScript archive", "model", _SNIFF, "TorchScript", _torchscript),
    Hostile("a .pt2 archive", "model", _SNIFF, r"\.pt2", _exported_program, slow=True),
    Hostile("a torch checkpoint of the tar days", "model", _PARSER, "not an ONNX file", _tar),
    Hostile("a torch checkpoint before zip", "model", _SNIFF, "pickle", _legacy_torch, slow=True),
    Hostile("a gzipped pickle as model", "model", _PARSER, "not an ONNX file", lambda: gzip.compress(pickled())),
    Hostile("a joblib file as model", "model", _PARSER, "not an ONNX file", _joblib, slow=True),
    Hostile("a pickle behind a valid model", "model", _PARSER, "not an ONNX file", lambda: mlp((4, 3)) + pickled()),
    Hostile("a pickle behind a zip", "model", _SNIFF, "zip archive", lambda: _zip(readme=b"hello") + pickled(), slow=True),
]

DATASETS = [
    *(
        Hostile(f"a pickle of protocol {n} as dataset", "dataset", _WALK, "pickle", lambda n=n: pickled(n), n in (1, 3, 5))
        for n in range(6)
    ),
    Hostile("a torch.save checkpoint as dataset", "dataset", _WALK, "pickle", _checkpoint),
    Hostile("a pickle behind a zip as dataset", "dataset", _WALK, "no array 'x'|not a readable", lambda: _zip(readme=b"hi") + pickled()),
    Hostile("a gzipped pickle as dataset", "dataset", _WALK, "behind gzip, a Python pickle", lambda: gzip.compress(pickled())),
    Hostile("a pickle under xz", "dataset", _WALK, "neither an .npz", lambda: lzma.compress(pickled()), slow=True),
    Hostile("a joblib file", "dataset", _WALK, "neither an .npz", _joblib),
    Hostile("a tar of pickles", "dataset", _WALK, "neither an .npz", _tar, slow=True),
    Hostile("an object array in an npz", "dataset", _HEADER, "object objects, which would need pickle", _npz_objects),
    Hostile("an object array as npy", "dataset", _HEADER, "pickle", _npy_objects),
    Hostile("a structured array with an object field", "dataset", _HEADER, "pickle", _structured_objects, slow=True),
    Hostile("class names that are pickled objects", "dataset", _HEADER, r"dataset\.classes.*pickle", _classes),
    Hostile("a pickle behind the magic of npy", "dataset", _HEADER, "npy header", _npy_mask),
    Hostile("a pickle behind the magic of npy 9", "dataset", _HEADER, "npy version 1 or 2", lambda: _npy_mask(b"\x09\x00"), slow=True),
    Hostile("a pickle as a member named x.npy", "dataset", _WALK, "pickle", lambda: _zip(**{"x.npy": pickled(), "y.npy": pickled()})),
    Hostile(
        "a pickle behind safetensors",
        "dataset",
        "safetensors refuses bytes that no tensor owns, and nothing reads them.",
        "not a readable .safetensors",
        _tail,
    ),
]

HOSTILE = MODELS + DATASETS
