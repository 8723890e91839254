"""Dataset files: what is read, and that nothing hostile is executed or allocated."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

from certify.errors import DatasetRejected
from workers.datasets import dataset_facts, read_dataset

X = np.linspace(-1, 2, 24, dtype=np.float32).reshape(4, 2, 3)
Y = np.array([0, 1, 2, 1])


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("data", [npz(x=X, y=Y), npz(x=np.asfortranarray(X), y=Y.astype(np.uint8)), save_safetensors({"x": X, "y": Y})])
def test_values_and_labels_are_read_exactly(data: bytes) -> None:
    read = read_dataset(data)
    assert np.array_equal(read.x.numpy(), X)
    assert read.y.tolist() == Y.tolist()
    facts = dataset_facts(read)
    assert (facts.count, facts.input_shape, facts.low, facts.high, facts.label_high) == (4, (2, 3), -1.0, 2.0, 2)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError("unpickled")


def lying_npz() -> bytes:
    """x.npy whose header claims 8 GiB that are not in the file."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2147483648, 1), }"
    header += b" " * (117 - len(header)) + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        archive.writestr("y.npy", b"")
    return file.getvalue()


def corrupt_npz() -> bytes:
    """Valid directory, but the deflate stream of x is damaged."""
    data = bytearray(npz(x=X, y=Y))
    start = data.index(b"x.npy") + 35
    data[start : start + 8] = b"\xff" * 8
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        (b"", "dataset", "empty"),
        (b"hello", "dataset", "neither"),
        (pickle.dumps({"x": X}), "dataset", "pickle"),
        (npz(x=np.array([object()] * 4), y=Y), "dataset.x", "objects"),
        (lying_npz(), "dataset.x", "too large"),
        (corrupt_npz(), "dataset", "not a readable"),
        (npz(x=X), "dataset.y", "no array"),
        (npz(x=X[:3], y=Y), "dataset.y", "3 examples"),
        (npz(x=X[:0], y=Y[:0]), "dataset.x", "shape"),
        (npz(x=X, y=Y.astype(float)), "dataset.y", "type"),
        (npz(x=(X * 50).astype(np.uint8), y=Y), "dataset.x", "uint8"),
        (npz(x=np.where(X > 1, np.nan, X), y=Y), "dataset.x", "example 2"),
    ],
)
def test_bad_files_are_refused_with_a_sentence(data: bytes, field: str, words: str) -> None:
    with pytest.raises(DatasetRejected) as refused:
        read_dataset(data)
    assert refused.value.problems[0].field == field
    assert words in str(refused.value)
    assert refused.value.problems[0].mend
