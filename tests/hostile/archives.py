"""Zip bombs, and numpy and safetensors headers that lie."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.hostile.hostile import Hostile

_CAP = "workers/datasets/arrays.py reads the npy headers first and caps the number of values before it inflates any."
_DIRECTORY = "workers/datasets/arrays.py holds the sizes of the zip directory against the npy header and against what deflate can grow."
_MEMBERS = "workers/datasets/arrays.py counts the members before it parses the directory, and names no member twice."
_HEADER = "workers/datasets/arrays.py caps the npy header, its rank and every size before anything is allocated."
_TENSORS = "workers/datasets/tensors.py caps the header and every size before the safetensors library reads a tensor."
_VALUES = "workers/datasets/dataset.py checks types, shapes, finiteness and labels of all that was read."

Members = dict[str, bytes]


def npy(shape: Any, descr: str = "<f4", data: bytes = b"", *, version: int = 1, fortran: bool = False, pad: int = 64) -> bytes:
    """An npy file whose header says what it is told to."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape!r}, }}".encode()
    width = 2 if version == 1 else 4
    text += b" " * (-(8 + width + len(text) + 1) % pad) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little") + text + data


LABELS = npy((2,), "<i8", bytes(16))
INPUTS = npy((2, 3), "<f4", bytes(24))


def archive(members: Members, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=9) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return file.getvalue()


def with_x(x: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    return archive({"x.npy": x, "y.npy": LABELS}, compression)


def _endless() -> bytes:
    """Half a million rows in 2 kB for each megabyte: honest, and far over the cap."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made, made.open("x.npy", "w", force_zip64=True) as x:
        x.write(npy((2**20, 600)))
        for _ in range(16):
            x.write(bytes(2**20))
    return file.getvalue()


def _directory(change: Callable[[bytearray, int], None], of: bytes | None = None) -> bytes:
    """An archive with its first directory entry changed."""
    data = bytearray(of or with_x(INPUTS))
    change(data, data.index(b"PK\x01\x02"))
    return bytes(data)


def _grown(data: bytearray, at: int) -> None:
    """x.npy says that it has a terabyte of values, in its header and in both zip headers alike."""
    struct.pack_into("<I", data, at + 24, 2**32 - 2)
    struct.pack_into("<I", data, 22, 2**32 - 2)


def _encrypted(data: bytearray, at: int) -> None:
    data[at + 8] |= 1
    data[6] |= 1


def _overlapping() -> bytes:
    """Every member reads the same bytes: x.npy and y.npy begin at the same local header."""

    def change(data: bytearray, at: int) -> None:
        second = data.index(b"PK\x01\x02", at + 4)
        struct.pack_into("<I", data, second + 42, 0)

    return _directory(change)


def _quine() -> bytes:
    """An archive that is its own only member, as far as the directory says."""
    inner = archive({"r/r.zip": b""})
    return archive({"r/r.zip": inner + inner})


def _nested() -> bytes:
    data = archive({"x.npy": npy((2**20, 8), "<f4", bytes(2**20))})
    for level in range(5):
        data = archive({f"level{level}.zip": data})
    return data


def _many() -> bytes:
    return archive({f"member{n}.npy": b"" for n in range(20_000)}, zipfile.ZIP_STORED)


def _end_lies(data: bytearray, at: int) -> None:
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<HHII", data, end + 8, 65535, 65535, 2**32 - 2, at)


def _memory_map() -> bytes:
    """The header says that the values begin in the middle of another structure: numpy.memmap would follow it."""
    return npy((2, 3), "[('x', '<f4', (3,)), ('y', '<i8')]")[:-1] + b"\n" + bytes(8)


def tensors(header: Any, data: bytes = bytes(40), size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def _tensor(x: dict[str, Any], **more: Any) -> bytes:
    honest = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    return tensors({"x": {**honest, **x}, "y": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]}, **more})


def _arrays(x: Any, y: Any, **more: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, x=x, y=y, **more)
    return file.getvalue()


def _with_nan(value: float) -> bytes:
    x = np.zeros((4, 3), np.float32)
    x[2, 1] = value
    return _arrays(x, np.zeros(4, np.int64))


ZIPS = [
    Hostile("an npz of 1:1000 with an honest header", "dataset", _CAP, "too large|more than", _endless),
    Hostile("a zip directory that lies about sizes", "dataset", _DIRECTORY, "too large or not in the file", lambda: _directory(_grown)),
    Hostile("a zip in a zip in a zip", "dataset", _MEMBERS, "no array 'x'", _nested),
    Hostile("twenty thousand members", "dataset", _MEMBERS, "more than 256 members", _many),
    Hostile("members that overlap", "dataset", _DIRECTORY, r"shape|not a readable \.npz", _overlapping),
    Hostile("an archive that holds itself", "dataset", _MEMBERS, "no array 'x'", _quine, slow=True),
    Hostile("a directory that promises 65535 members", "dataset", _MEMBERS, "not a readable", lambda: _directory(_end_lies)),
    Hostile("an encrypted member", "dataset", _DIRECTORY, "is encrypted", lambda: _directory(_encrypted), slow=True),
    Hostile("a member under bzip2", "dataset", _DIRECTORY, "zip method 12", lambda: with_x(INPUTS, zipfile.ZIP_BZIP2)),
    Hostile("a member under lzma", "dataset", _DIRECTORY, "zip method 14", lambda: with_x(INPUTS, zipfile.ZIP_LZMA), slow=True),
    Hostile("a zip cut in its middle", "dataset", _DIRECTORY, "not a readable", lambda: with_x(INPUTS)[:120], slow=True),
]

HEADERS = [
    Hostile("an npy of a trillion values", "dataset", _HEADER, "too large", lambda: with_x(npy((2**20, 2**20), "<f4", bytes(24)))),
    Hostile("an npy of negative size", "dataset", _HEADER, "npy header|too large", lambda: with_x(npy((-2, -3), "<f4", bytes(24)))),
    Hostile("an npy whose sizes wrap int64", "dataset", _HEADER, "too large", lambda: with_x(npy((2**32, 2**32, 6), "<f4", bytes(24)))),
    Hostile("an npy of size zero times huge", "dataset", _HEADER, "too large", lambda: with_x(npy((0, 2**62), "<f4")), slow=True),
    Hostile("an npy of rank 60", "dataset", _HEADER, "too large", lambda: with_x(npy((1,) * 60, "<f4", bytes(4)))),
    Hostile(
        "an npy whose size is true", "dataset", _HEADER, "too large|npy header", lambda: with_x(npy((True, 6), "<f4", bytes(24))), slow=True
    ),
    Hostile("an npy of version 77", "dataset", _HEADER, "npy version 1 or 2", lambda: with_x(npy((2, 3), "<f4", bytes(24), version=77))),
    Hostile("an npy header of 60 kB", "dataset", _HEADER, "npy header of", lambda: with_x(npy((2, 3), data=bytes(24), pad=60_000))),
    Hostile(
        "an npy header that says it has 4 GB",
        "dataset",
        _HEADER,
        "npy header of 4294967295 bytes",
        lambda: with_x(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"),
    ),
    Hostile("an npy header of nine thousand brackets", "dataset", _HEADER, "npy header", lambda: with_x(_brackets(), zipfile.ZIP_DEFLATED)),
    Hostile("an npy header with code in it", "dataset", _HEADER, "npy header", lambda: with_x(npy("__import__('os').system('id')"))),
    Hostile("an npy that asks for a memory map of its own header", "dataset", _HEADER, "too large|without the two|npy header", _memory_map),
    Hostile("a dtype nobody knows", "dataset", _HEADER, "npy header", lambda: with_x(npy((2, 3), "<q9", bytes(24)))),
    Hostile("a dtype of 2 GB for each value", "dataset", _HEADER, "has the type|npy header", lambda: with_x(npy((2,), "<U536870911"))),
]

TENSORS = [
    Hostile(
        "safetensors with a header of 2^60 bytes", "dataset", _TENSORS, "too large or not in the file", lambda: tensors(b"{", size=2**60)
    ),
    Hostile("safetensors of a trillion values", "dataset", _TENSORS, "too large", lambda: _tensor({"shape": [2**20, 2**20]})),
    Hostile("safetensors that overlap", "dataset", _TENSORS, "not a readable", lambda: _tensor({"data_offsets": [16, 40]})),
    Hostile("safetensors beyond the end", "dataset", _TENSORS, "not a readable", lambda: _tensor({"data_offsets": [2**40, 2**40 + 24]})),
    Hostile("safetensors of negative size", "dataset", _TENSORS, "too large|readable", lambda: _tensor({"shape": [-2, -3]}), slow=True),
    Hostile("safetensors of an unknown type", "dataset", _TENSORS, "not a readable", lambda: _tensor({"dtype": "Q77"})),
    Hostile("safetensors with x twice", "dataset", _TENSORS, "twice", lambda: tensors(b'{"x": {}, "x": {}}'), slow=True),
    Hostile("safetensors of a hundred thousand brackets", "dataset", _TENSORS, "readable", lambda: tensors(b"{" + b'"a":{' * 100_000)),
    Hostile(
        "safetensors with numbers of 10 000 digits",
        "dataset",
        _TENSORS,
        "readable|large",
        lambda: tensors(b'{"x": ' + b"9" * 10_000 + b"}"),
    ),
]

VALUES = [
    Hostile("inputs with NaN", "dataset", _VALUES, "example 2 contains NaN or infinity", lambda: _with_nan(np.nan)),
    Hostile("inputs with infinity", "dataset", _VALUES, "example 2 contains NaN or infinity", lambda: _with_nan(-np.inf), slow=True),
    Hostile("inputs that float32 cannot hold", "dataset", _VALUES, "too large", lambda: _arrays(np.full((2, 2), 1e300), np.zeros(2, int))),
    Hostile("labels beyond int64", "dataset", _VALUES, "18446744073709551615", lambda: _arrays(_zeros(), np.full(2, 2**64 - 1, np.uint64))),
    Hostile("labels that are texts", "dataset", _VALUES, r"dataset\.y.*type", lambda: _arrays(_zeros(), np.array(["cat", "dog"]))),
    Hostile("labels that are fractions", "dataset", _VALUES, r"dataset\.y.*type", lambda: _arrays(_zeros(), np.zeros(2)), slow=True),
    Hostile("labels for other rows", "dataset", _VALUES, "for 2 examples", lambda: _arrays(_zeros(), np.zeros(9, int)), slow=True),
    Hostile(
        "class names with terminal escapes", "dataset", _VALUES, "printable", lambda: _arrays(_zeros(), _none(), classes=["\x1b[2J", "b"])
    ),
    Hostile(
        "no examples at all", "dataset", _VALUES, "has shape", lambda: _arrays(np.zeros((0, 3), np.float32), np.zeros(0, int)), slow=True
    ),
]


def _brackets() -> bytes:
    text = b"(" * 9_000 + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _zeros() -> Any:
    return np.zeros((2, 2), np.float32)


def _none() -> Any:
    return np.zeros(2, np.int64)


HOSTILE = ZIPS + HEADERS + TENSORS + VALUES
