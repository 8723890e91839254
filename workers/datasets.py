"""Dataset bytes -> tensors. Sizes are read from headers and capped before anything is allocated; nothing is ever unpickled."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from torch import Tensor

from certify.errors import DatasetRejected
from certify.facts import DatasetFacts

MAX_VALUES = 2**29
_MEND = "save it with numpy.savez(path, x=x, y=y): x float32 of shape (N, *input), y int64 of shape (N,)"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True)
class Dataset:
    x: Tensor  # (N, *input), float32
    y: Tensor  # (N,), int64


def read_dataset(data: bytes) -> Dataset:
    """The examples in the bytes of one `.npz` or `.safetensors` file.

    Raises:
        DatasetRejected: names the array that is wrong and the mend.
    """
    arrays = _arrays(data)
    for name in ("x", "y"):
        if name not in arrays:
            raise DatasetRejected.at(f"dataset.{name}", f"the file has no array {name!r}", _MEND)
    return Dataset(_inputs(arrays["x"]), _labels(arrays["y"], len(arrays["x"]) if arrays["x"].ndim else 0))


def dataset_facts(dataset: Dataset) -> DatasetFacts:
    return DatasetFacts(
        count=len(dataset.x),
        input_shape=tuple(dataset.x.shape[1:]),
        low=float(dataset.x.min()),
        high=float(dataset.x.max()),
        label_low=int(dataset.y.min()),
        label_high=int(dataset.y.max()),
    )


def _arrays(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    if not data:
        raise DatasetRejected.at("dataset", "the file is empty", _MEND)
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise DatasetRejected.at("dataset", "is a Python pickle, which could run code and is never loaded", _MEND)
    return _npz(data) if data[:4] == b"PK\x03\x04" else _safetensors(data)


def _npz(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: _npy(archive, f"{name}.npy", name) for name in ("x", "y") if f"{name}.npy" in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, SyntaxError, RuntimeError, zlib.error) as error:
        raise DatasetRejected.at("dataset", f"is not a readable .npz file ({error})", _MEND) from None


def _npy(archive: zipfile.ZipFile, member: str, name: str) -> np.ndarray[Any, Any]:
    with archive.open(member) as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise DatasetRejected.at(f"dataset.{name}", f"has the npy version {version}", _MEND)
        shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject or dtype.itemsize > 8:
        raise DatasetRejected.at(f"dataset.{name}", f"holds {dtype} objects, which would need pickle", _MEND)
    size = math.prod(shape)
    if size > MAX_VALUES or archive.getinfo(member).file_size < size * dtype.itemsize:
        raise DatasetRejected.at(
            f"dataset.{name}", f"says its shape is {list(shape)}, which is too large or not in the file", "split the dataset"
        )
    with archive.open(member) as file:
        array: np.ndarray[Any, Any] = npy.read_array(file, allow_pickle=False)
        return array


def _safetensors(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    try:
        return load_safetensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise DatasetRejected.at("dataset", "is neither an .npz nor a .safetensors file", _MEND) from None


def _inputs(x: np.ndarray[Any, Any]) -> Tensor:
    if x.dtype not in (np.float32, np.float64, np.float16):
        mend = "convert to float32 in the model's raw input range, for example (x / 255).astype('float32')"
        raise DatasetRejected.at("dataset.x", f"has the type {x.dtype}", mend)
    if x.ndim < 2 or x.size == 0:
        raise DatasetRejected.at("dataset.x", f"has shape {list(x.shape)}", _MEND)
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(x, dtype=np.float32)
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DatasetRejected.at("dataset.x", f"example {row} contains NaN or infinity", "remove or repair those examples")
    return torch.from_numpy(values.copy())


def _labels(y: np.ndarray[Any, Any], count: int) -> Tensor:
    if y.dtype.kind not in "iu":
        raise DatasetRejected.at("dataset.y", f"has the type {y.dtype}", "save the labels as int64")
    if y.shape != (count,):
        raise DatasetRejected.at(
            "dataset.y", f"has shape {list(y.shape)} for {count} examples", f"save one label for each example: shape ({count},)"
        )
    return torch.from_numpy(y.astype(np.int64))
