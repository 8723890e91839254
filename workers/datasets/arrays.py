"""Datasets as numpy files. Zip directory and npy headers are read first, and capped, and only then the values."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from certify.errors import DatasetRejected
from workers.datasets.dataset import MAX_NAME, MAX_NAMES, MAX_VALUES, MEND, Array, Dataset, build
from workers.datasets.refusals import readable, refuse_pickle

MAGIC = b"\x93NUMPY"
_READERS = {b"\x01\x00": (2, npy.read_array_header_1_0), b"\x02\x00": (4, npy.read_array_header_2_0)}
_MAX_HEADER = 10_000  # numpy's own limit for headers that are not trusted
_MAX_MEMBERS = 256
_MAX_DEFLATE = 1032  # no deflate stream grows more than this
_MAX_RATIO = 200  # images as float32 compress by ten, empty ones by a thousand
_MAX_FREE = 2**27  # bytes that may be inflated from anything
_CHUNK = 2**24
_PACK = "pack it with: assay dataset pack --x x.npy --y y.npy --out D.npz"


@dataclass(frozen=True)
class Header:
    """What an npy header says, checked: the sizes are sane and the values need no pickle."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    length: int  # bytes before the values

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.values * self.dtype.itemsize


def read_npz(data: bytes) -> Dataset:
    with readable(".npz"):
        if data.count(b"PK\x01\x02") > _MAX_MEMBERS:  # each directory entry has this mark, so no directory is parsed in vain
            raise DatasetRejected.at("dataset", f"has more than {_MAX_MEMBERS} members", MEND)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            headers = _headers(archive)
            if sum(header.values for header in headers.values()) > MAX_VALUES:
                raise DatasetRejected.at("dataset", f"has more than {MAX_VALUES} values", "split the dataset")
            found = {name: _values(archive, name, header) for name, header in headers.items()}
        names = found["classes"].tolist() if "classes" in found else None
        return build(found["x"], found["y"], names)


def read_structured(data: bytes) -> Dataset:
    """A bare `.npy` is a dataset only when it has the fields x and y."""
    with readable(".npy"):
        header = read_header(io.BytesIO(data), "dataset")
        fields = dict(header.dtype.fields or {})
        if set(fields) != {"x", "y"} or len(header.shape) != 1 or fields["y"][0].subdtype:
            raise DatasetRejected.at("dataset", "is an .npy file without the two fields x and y", _PACK)
        each = math.prod(fields["x"][0].shape)
        if header.values * each > MAX_VALUES or header.nbytes != len(data) - header.length:
            raise _too_large("dataset", header.shape)
        rows = np.frombuffer(data, header.dtype, header.values, header.length)
        return build(rows["x"], rows["y"])


def read_npy(data: bytes, field: str) -> Array:
    """One array of plain numbers from the bytes of an `.npy` file."""
    with readable(".npy"):
        file = io.BytesIO(data)
        header = read_header(file, field)
        _check_numbers(field, header)
        if header.nbytes != len(data) - header.length:
            raise _too_large(field, header.shape)
        return _body(file, header, field)


def read_header(file: IO[bytes], field: str) -> Header:
    """The header at the start of an npy file.

    Raises:
        DatasetRejected: it is not one, is too long, needs pickle or has sizes that no array can have.
    """
    start = file.read(8)
    if start[:6] != MAGIC or start[6:] not in _READERS:
        refuse_pickle(start + file.read(_CHUNK), field)
        raise DatasetRejected.at(field, "is not an array of npy version 1 or 2", MEND)
    width, reader = _READERS[start[6:]]
    size = file.read(width)
    length = int.from_bytes(size, "little")
    if length > _MAX_HEADER:
        raise DatasetRejected.at(field, f"has an npy header of {length} bytes, more than {_MAX_HEADER}", MEND)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran, dtype = reader(io.BytesIO(size + file.read(length)))
    except Exception:  # numpy evaluates a literal: 10 kB of brackets can raise nearly anything, MemoryError too
        raise DatasetRejected.at(field, "has an npy header that numpy cannot read", MEND) from None
    if dtype.hasobject:
        raise DatasetRejected.at(field, f"holds {dtype} objects, which would need pickle", MEND)
    header = Header(shape, fortran, dtype, 8 + width + length)
    if len(shape) > 16 or any(type(n) is not int or not 0 <= n <= MAX_VALUES for n in shape) or header.values > MAX_VALUES:
        raise _too_large(field, shape)
    return header


def _headers(archive: zipfile.ZipFile) -> dict[str, Header]:
    twice = [name for name, count in Counter(archive.namelist()).items() if count > 1]
    if twice:
        raise DatasetRejected.at("dataset", f"has the member {twice[0][:100]!r} more than once", MEND)
    found = {name: _header(archive, name) for name in ("x", "y", "classes") if f"{name}.npy" in archive.namelist()}
    for name in ("x", "y"):
        if name not in found:
            _refuse_pickles(archive)
            raise DatasetRejected.at(f"dataset.{name}", f"the file has no array {name!r}", MEND)
    return found


def _refuse_pickles(archive: zipfile.ZipFile) -> None:
    for info in archive.infolist():
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            continue
        with archive.open(info) as file:
            refuse_pickle(file.read(4096), what=f"holds in {info.filename[:100]!r}")


def _header(archive: zipfile.ZipFile, name: str) -> Header:
    field, info = f"dataset.{name}", archive.getinfo(f"{name}.npy")
    if info.flag_bits & 1:
        raise DatasetRejected.at(field, "is encrypted", MEND)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others decompress without a limit
        raise DatasetRejected.at(field, f"is compressed with zip method {info.compress_type}", MEND)
    with archive.open(info) as file:
        header = read_header(file, field)
    _check_names(header) if name == "classes" else _check_numbers(field, header)
    grown = info.compress_size * (_MAX_DEFLATE if info.compress_type else 1)
    if not header.length + header.nbytes == info.file_size <= grown + 1024:
        raise _too_large(field, header.shape)
    if info.file_size > max(_MAX_FREE, _MAX_RATIO * info.compress_size):
        detail = f"grows from {info.compress_size} to {info.file_size} bytes, which no measured data does"
        raise DatasetRejected.at(field, detail, "save it with numpy.savez, which does not compress")
    return header


def _check_numbers(field: str, header: Header) -> None:
    if header.dtype.kind not in "biuf" or header.dtype.itemsize > 8:
        raise DatasetRejected.at(field, f"has the type {str(header.dtype)[:100]}", MEND)


def _check_names(header: Header) -> None:
    if header.dtype.kind != "U" or not 0 < header.dtype.itemsize <= 4 * MAX_NAME or len(header.shape) != 1 or header.values > MAX_NAMES:
        mend = f"save a list of at most {MAX_NAMES} names of at most {MAX_NAME} characters, as numpy.array(names)"
        raise DatasetRejected.at("dataset.classes", f"has the type {str(header.dtype)[:100]} and shape {list(header.shape)}", mend)


def _values(archive: zipfile.ZipFile, name: str, header: Header) -> Array:
    with archive.open(f"{name}.npy") as file:
        file.read(header.length)
        return _body(file, header, f"dataset.{name}")


def _body(file: IO[bytes], header: Header, field: str) -> Array:
    """The values after a header, read in steps: never more than the header needs."""
    buffer = np.empty(header.nbytes, np.uint8)
    for start in range(0, header.nbytes, _CHUNK):
        wanted = min(_CHUNK, header.nbytes - start)
        chunk = file.read(wanted)
        if len(chunk) != wanted:
            raise _too_large(field, header.shape)
        buffer[start : start + wanted] = np.frombuffer(chunk, np.uint8)
    return buffer.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _too_large(field: str, shape: tuple[Any, ...]) -> DatasetRejected:
    return DatasetRejected.at(
        field, f"says its shape is {str(list(shape))[:100]}, which is too large or not in the file", "split the dataset"
    )
