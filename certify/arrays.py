"""Arrays in, arrays out: how the Python client turns what its user holds into files, and rows into columns. Runs on the user's machine."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from certify.errors import InputError, Problem

_AT_ONCE = 4096
_NUMBERS = ("radius", "alpha", "seconds", "distance_upper")
_INTEGERS = ("example", "certifier", "label", "prediction")
_TRUTHS = ("correct",)
_TEXTS = ("kind", "statement", "norm", "verdict", "reason", "example_digest")


def to_npz(x: ArrayLike, y: ArrayLike, class_names: Sequence[str] | None = None) -> bytes:
    """A dataset file of inputs and labels; the same arrays give the same bytes, so that an unchanged dataset is found again.

    Args:
        x: inputs (N, *input) in raw-input units; a torch tensor on the CPU will do. Whole numbers of 8 bits are divided by 255.
        y: labels (N,).
        class_names: one for each class, in the order of the labels.

    Raises:
        InputError: the shapes do not fit, or a value is NaN or infinite.
    """
    inputs, labels = np.asarray(x), np.asarray(y)
    if inputs.dtype == np.uint8:
        inputs = inputs.astype(np.float32) / np.float32(255)
    if inputs.ndim < 2 or labels.shape != inputs.shape[:1]:
        detail = f"x has shape {list(inputs.shape)} and y {list(labels.shape)}"
        raise InputError(Problem(field="x", detail=detail, mend="give x of shape (N, ...) and y of shape (N,)"))
    if labels.dtype.kind not in "iu":
        raise InputError(Problem(field="y", detail=f"holds {labels.dtype}", mend="give whole numbers"))
    inputs = np.ascontiguousarray(inputs, dtype=np.float32)
    if not np.isfinite(inputs).all():
        raise InputError(Problem(field="x", detail="contains NaN or infinity as float32", mend="remove or repair those examples"))
    found: dict[str, NDArray[Any]] = {"x": inputs, "y": labels.astype(np.int64)}
    return _archive(found if class_names is None else {**found, "classes": np.array(list(class_names))})


def _archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """What `numpy.savez` writes, without the time of day."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return file.getvalue()


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Rows as arrays of one length, in their order. A missing prediction is -1, a missing number NaN, a missing text empty."""
    found: dict[str, NDArray[Any]] = {}
    for name in _INTEGERS:
        found[name] = np.array([-1 if row.get(name) is None else row[name] for row in rows], dtype=np.int64)
    for name in _NUMBERS:
        if any(name in row for row in rows):
            found[name] = np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)
    for name in _TRUTHS:
        found[name] = np.array([bool(row[name]) for row in rows], dtype=bool)
    for name in _TEXTS:
        found[name] = np.array([row.get(name) or "" for row in rows], dtype=np.str_)
    return found


def write_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Rows into a Parquet file, a few thousand at a time; returns how many. Evidence and provenance are kept as JSON.

    Raises:
        ImportError: pyarrow is not installed.
    """
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        [(name, pyarrow.string()) for name in ("job", "model", "dataset", "partial")]
        + [(name, pyarrow.int64()) for name in _INTEGERS]
        + [(name, pyarrow.float64()) for name in ("radius", "alpha", "seconds")]
        + [(name, pyarrow.bool_()) for name in (*_TRUTHS, "epsilon_verified")]
        + [(name, pyarrow.string()) for name in (*_TEXTS, "evidence", "provenance")]
    )
    count, source = 0, iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while some := [_flat(row, schema.names) for row in islice(source, _AT_ONCE)]:
            writer.write_table(pyarrow.Table.from_pylist(some, schema))
            count += len(some)
    return count


def _flat(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: json.dumps(row[name]) if isinstance(row.get(name), dict) else row.get(name) for name in names}
