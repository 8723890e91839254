"""Dataset files: what is read, and that nothing hostile is executed or allocated."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tracemalloc
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


@pytest.mark.parametrize("x", [X.astype(">f4"), X.astype(np.float64), np.float16(X)], ids=["big-endian", "float64", "float16"])
def test_other_float_types_are_read(x: Any) -> None:
    read = read_dataset(npz(x=x, y=Y))
    assert np.array_equal(read.x.numpy(), x.astype(np.float32))
    assert not dataset_facts(read).rounded


def test_float64_that_float32_does_not_have_is_rounded_and_said() -> None:
    x = X.astype(np.float64)
    x[3, 1, 2] += 1e-12
    read = read_dataset(npz(x=x, y=Y))
    assert np.array_equal(read.x.numpy(), X)
    assert dataset_facts(read).rounded


NAMES = ("cat", "d\u00f6g", "owl")


def with_names(names: Any) -> bytes:
    return npz(x=X, y=Y, classes=names)


@pytest.mark.parametrize(
    "data",
    [
        with_names(np.array(NAMES)),
        with_names(np.array(NAMES).astype(">U7")),
        save_safetensors({"x": X, "y": Y}, {"classes": json.dumps(NAMES)}),
    ],
)
def test_class_names_are_read(data: bytes) -> None:
    assert dataset_facts(read_dataset(data)).class_names == NAMES


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (np.array(NAMES, object), "objects"),
        (np.array([b"cat", b"dog", b"owl"]), "type |S3"),
        (np.array([1, 2, 3]), "type int64"),
        (np.array([NAMES]), "shape [1, 3]"),
        (np.array(NAMES[:2]), "has 2 names, but y has the label 2"),
        (np.array(["cat", "", "owl"]), "name 1"),
        (np.array(["cat", "dog", "o\x1b[2J"]), "name 2"),
        (np.array(["cat", "dog", "o" * 201]), "type <U201"),
        (np.full(2**15 + 1, "a"), "shape [32769]"),
    ],
)
def test_bad_class_names_are_refused(names: Any, words: str) -> None:
    with pytest.raises(DatasetRejected) as refused:
        read_dataset(with_names(names))
    assert refused.value.problems[0].field == "dataset.classes"
    assert words in str(refused.value)


@pytest.mark.parametrize("text", ["cat,dog,owl", '"owl"', '["cat", "dog", 3]', "[" * 100_000, '["\\ud800", "b", "c"]'])
def test_bad_class_names_in_safetensors_are_refused(text: str) -> None:
    with pytest.raises(DatasetRejected) as refused:
        read_dataset(save_safetensors({"x": X, "y": Y}, {"classes": text}))
    assert refused.value.problems[0].field == "dataset.classes"


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def structured(x: str = "<f4", y: str = "<i8", names: tuple[str, str] = ("x", "y")) -> Any:
    array = np.zeros(4, [(names[0], x, (2, 3)), (names[1], y)])
    array[names[0]], array[names[1]] = X, Y
    return array


def test_a_structured_npy_file_is_read_exactly() -> None:
    read = read_dataset(npy(structured()))
    assert np.array_equal(read.x.numpy(), X)
    assert read.y.tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(X), "assay dataset pack --x x.npy --y y.npy"),
        (npy(structured(names=("x", "label"))), "assay dataset pack"),
        (npy(structured(y="<f8")), "type float64"),
        (npy(structured(x="u1")), "type uint8"),
        (npy(structured())[:-1], "not in the file"),
        (npy(structured()) + b"\0", "not in the file"),
        (npy(np.array([{}], object)), "objects"),
        (npy(np.zeros(2, [("x", "O"), ("y", "<i8")])), "objects"),
    ],
)
def test_other_npy_files_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(DatasetRejected) as refused:
        read_dataset(data)
    assert words in str(refused.value)
    assert refused.value.problems[0].mend


class Innocent:
    """Its unpickling would fail the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _explode, ()


def _explode() -> None:
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


def header(shape: str, descr: str = "'<f4'", version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


def zipped(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


LONG = len(header(f"({10**8},)"))


def resized(claim: int, deflate: bool = False, shape: str = "(4, 6)") -> bytes:
    """An x.npy whose zip directory claims another size than its bytes have."""
    data = bytearray(zipped(zipfile.ZIP_DEFLATED if deflate else 0, x=header(shape) + X.tobytes(), y=npy(Y)))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, claim)
    return bytes(data)


def zip64(claim: int) -> bytes:
    """The size of x.npy stands in a zip64 field of the directory, and says `claim`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("x.npy")
        archive.writestr(info, header("(4, 6)") + X.tobytes())
        info.extra = struct.pack("<HHQ", 1, 8, claim)
        archive.writestr("y.npy", npy(Y))
    data = bytearray(file.getvalue())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 2**32 - 1)
    return bytes(data)


def twice() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", npy(X))
        archive.writestr("y.npy", npy(Y))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", npy(X))
    return file.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped(x=npy(X), y=npy(Y)))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    return bytes(data)


def pickles_in_a_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Innocent()))
    return file.getvalue()


SAFE = save_safetensors({"x": X, "y": Y})
HEADERS = {
    "negative": (header("(-4, 6)"), "its shape is [-4, 6]"),
    "bool": (header("(True, 24)") + X.tobytes(), "its shape is [True, 24]"),
    "huge": (header("(" + "9" * 400 + ", 6)"), "too large"),
    "wraps to 24": (header(f"({2**62}, {2**62}, 6)"), "too large"),
    "many dimensions": (header("(" + "1, " * 40 + ")"), "too large"),
    "no tuple": (header("4"), "numpy cannot read"),
    "code": (header("(__import__('os').abort(), )"), "numpy cannot read"),
    "deep": (header("(" * 3000 + ")" * 3000), "numpy cannot read"),
    "minus": (header("(" + "-" * 9000 + "1,)"), "numpy cannot read"),
    "long": (header("(4, 6)" + " " * 20_000), "header of 20060 bytes"),
    "4 GiB long": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "header of 4294967295 bytes"),
    "version 9": (header("(4, 6)", version=9), "npy version"),
    "structured": (header("(4, 6)", "[('a', '<f4')]"), "dataset.x: has the type [('a'"),
    "sub-array": (header("(4, 6)", "('<f4', (1000000,))"), "dataset.x: has the type ('<f4'"),
    "complex": (header("(4, 6)", "'<c8'"), "type complex64"),
    "void": (header("(4, 6)", "'|V8'"), "type |V8"),
    "long double": (header("(4, 6)", "'<f16'"), "type float128"),
    "a zip": (npz(x=X, y=Y), "npy version"),
    "a pickle": (pickle.dumps(Innocent()), "dataset.x: is a Python pickle"),
}
FILES = {
    "twice": (twice(), "'x.npy' more than once"),
    "directory says less": (resized(100), "Bad CRC"),
    "directory says more": (resized(2**31), "not in the file"),
    "directory says more, deflated": (resized(2**31, deflate=True), "not in the file"),
    "directory and header say 400 MB": (resized(LONG + 4 * 10**8, shape=f"({10**8},)"), "not in the file"),
    "directory and header say 400 MB, deflated": (resized(LONG + 4 * 10**8, True, f"({10**8},)"), "not in the file"),
    "zip64 says 8 EiB": (zip64(2**63), "not in the file"),
    "zip64 says less": (zip64(1), "Bad CRC"),
    "encrypted": (encrypted(), "dataset.x: is encrypted"),
    "bzip2": (zipped(zipfile.ZIP_BZIP2, x=npy(X), y=npy(Y)), "zip method 12"),
    "lzma": (zipped(zipfile.ZIP_LZMA, x=npy(X), y=npy(Y)), "zip method 14"),
    "257 members": (zipped(**{f"m{i}": b"" for i in range(255)}, x=npy(X), y=npy(Y)), "more than 256 members"),
    "half": (npz(x=X, y=Y)[:200], "not a readable .npz"),
    "labels too large": (npz(x=X, y=np.array([0, 1, 2, 2**63], np.uint64)), "label 9223372036854775808"),
    "too large for float32": (npz(x=X.astype(np.float64) * 1e300, y=Y), "too large for float32"),
    "header of 8 EiB": (b"\xff" * 7 + b"\x7f{" + SAFE[9:], "header has 9223372036854775807 bytes"),
    "header of 2 MiB": ((2**21).to_bytes(8, "little") + b"{" + b" " * 2**21, "header has 2097152 bytes"),
    "nested header": ((2**17).to_bytes(8, "little") + b'{"x":' + b"[" * 2**17, "recursion"),
    "offsets beyond the end": (SAFE.replace(b"[0,", b"[9,"), "offset"),
    "shape beyond the bytes": (SAFE.replace(b"[4,2,3]", b"[4,2,9]"), "offset"),
    "huge shape": (SAFE.replace(b"[4,2,3]", b"[99999]").replace(b"99999", b"9e999", 1), "too large"),
    "bfloat16": (SAFE.replace(b'"F32"', b'"BF9"'), "not a readable .safetensors"),
    "name twice": (SAFE.replace(b'"y":', b'"x":'), "a name stands twice"),
}


@pytest.mark.parametrize("name", [*HEADERS, *FILES])
def test_lies_are_a_sentence_and_allocate_nothing(name: str) -> None:
    data, words = HEADERS.get(name) or FILES[name]
    data = zipped(x=data, y=npy(Y)) if name in HEADERS else data
    tracemalloc.start()
    try:
        with pytest.raises(DatasetRejected) as refused:
            read_dataset(data)
        assert tracemalloc.get_traced_memory()[1] < 2**25 + 4 * len(data)
    finally:
        tracemalloc.stop()
    assert words in str(refused.value)
    assert refused.value.problems[0].mend
    assert str(refused.value).isprintable()


def test_a_high_ratio_is_allowed_within_the_cap_and_no_further() -> None:
    read = read_dataset(npz(x=np.zeros((1000, 3000), np.float32), y=np.zeros(1000, np.int64)))
    assert read.x.shape == (1000, 3000)
    each = header("(400000000,)", "'|u1'") + b"\0"
    with pytest.raises(DatasetRejected, match="too large"):
        read_dataset(zipped(zipfile.ZIP_DEFLATED, x=each, y=each))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_pickles_of_every_protocol_are_named_and_never_run(protocol: int, wrap: Any) -> None:
    for content in ({"x": X, "y": Y}, [1, 2], Innocent()):
        with pytest.raises(DatasetRejected, match="a Python pickle, which could run code and is never loaded"):
            read_dataset(wrap(pickle.dumps(content, protocol)))


@pytest.mark.parametrize("data", [pickles_in_a_zip(), zipped(x=pickle.dumps(1), y=npy(Y)), zipped(x=pickle.dumps(Innocent(), 0))])
def test_pickles_in_a_zip_are_named(data: bytes) -> None:
    with pytest.raises(DatasetRejected, match="a Python pickle"):
        read_dataset(data)


def test_gzip_that_is_no_pickle_gets_another_mend() -> None:
    with pytest.raises(DatasetRejected, match="compressed with gzip; decompress it"):
        read_dataset(gzip.compress(npz(x=X, y=Y)))


def test_a_megabyte_that_would_be_a_gigabyte_is_refused_before_it_is_inflated() -> None:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros((40, 1024, 1024), np.float32), y=np.zeros(40, np.int64))
    with pytest.raises(DatasetRejected, match=r"grows from [0-9]+ to 167772288 bytes"):
        read_dataset(file.getvalue())
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros((4, 1024, 1024), np.float32), y=np.zeros(4, np.int64))
    assert len(read_dataset(file.getvalue()).x) == 4
