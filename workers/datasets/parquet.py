"""Datasets as Parquet, plain or as Hugging Face writes them: an image column and a label column. Paths in it are never opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from certify.errors import DatasetRejected
from workers.datasets.dataset import MAX_VALUES, Dataset, build
from workers.datasets.images import EXTRA, Stack, open_image
from workers.datasets.refusals import readable

MAX_UNCOMPRESSED = 2**32
_MAX_FOOTER = 2**24
_MAX_GROUP = 2**30
_BATCH = 2**28
_COLUMNS = "name the columns image (encoded images) and label (integers)"


@dataclass(frozen=True)
class Table:
    """A Parquet file whose metadata has been checked."""

    file: Any
    image: str  # the name of the column
    leaf: str  # where its bytes are: image, or image.bytes
    label: str
    count: int
    sizes: list[int]  # uncompressed bytes of each row group
    class_names: Any

    def rows(self) -> Iterator[tuple[str, bytes, int]]:
        """Where it stands, the encoded image and the label, row by row."""
        row = 0
        for group in range(self.file.metadata.num_row_groups):
            for batch in self.file.iter_batches(self._batch(group), row_groups=[group], columns=[self.leaf, self.label], use_threads=False):
                for image, label in zip(batch.column(self.image), batch.column(self.label), strict=True):
                    yield f"row {row}", self._bytes(row, image.as_py()), self._integer(row, label.as_py())
                    row += 1
        if row != self.count:
            raise DatasetRejected.at("dataset", f"has {row} rows, but says {self.count}", "write the file again")

    def labels(self) -> list[int]:
        """All labels; no image is touched."""
        batches = self.file.iter_batches(2**16, columns=[self.label], use_threads=False)
        labels = (value.as_py() for batch in batches for value in batch.column(self.label))
        return [self._integer(row, label) for row, label in enumerate(labels)]

    def _batch(self, group: int) -> int:
        """So many rows that they fit even if each is as large as its whole row group: a dictionary can repeat one value."""
        return max(1, min(1024, _BATCH // max(1, self.sizes[group])))

    def _bytes(self, row: int, value: Any) -> bytes:
        found = value.get("bytes") if isinstance(value, dict) else value
        if found is None:
            detail = f"row {row} has no bytes, and paths are never opened"
            raise DatasetRejected.at(f"dataset.{self.image}", detail, "embed the images, for example with datasets' embed_table_storage")
        return bytes(found)

    def _integer(self, row: int, value: Any) -> int:
        if value is None or not -(2**63) <= value < 2**63:
            raise DatasetRejected.at(f"dataset.{self.label}", f"row {row} has the label {value}", "give every row a label")
        return int(value)


def read_parquet(data: bytes) -> Dataset:
    with readable("Parquet"):
        table = open_table(data)
        stack = Stack(table.count)
        for where, image, label in table.rows():
            stack.add(open_image(image, where), label, where)
        return build(*stack.arrays(), table.class_names)


def open_table(data: bytes) -> Table:
    """The table in the bytes, with its sizes checked and nothing decoded yet.

    Raises:
        DatasetRejected: pyarrow is missing, or the metadata shows that this cannot be read.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DatasetRejected.at("dataset", "is a Parquet file, and pyarrow is not installed", EXTRA) from None
    footer = int.from_bytes(data[-8:-4], "little")
    if not 0 < footer <= min(_MAX_FOOTER, len(data) - 12):
        raise DatasetRejected.at("dataset", f"says its footer has {footer} bytes, which is too large or not in the file", "write it again")
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, thrift_string_size_limit=_MAX_FOOTER, thrift_container_size_limit=2**20)
    schema, count = file.schema_arrow, file.metadata.num_rows
    image, label = _column(schema, ("image", "img")), _column(schema, ("label", "y"))
    leaf = _leaf(schema, image)
    if not pa.types.is_integer(schema.field(label).type):
        raise DatasetRejected.at(f"dataset.{label}", f"has the type {_type(schema, label)}", "save the labels as int64")
    sizes = _sizes(file.metadata)
    _check_sizes(count, sizes)
    return Table(file, image, leaf, label, count, sizes, _class_names(schema.metadata, label))


def _column(schema: Any, names: tuple[str, str]) -> str:
    found = [name for name in schema.names if name in names]
    if len(found) != 1:
        raise DatasetRejected.at("dataset", f"has {len(found)} columns named {names[0]} or {names[1]}, not one", _COLUMNS)
    return str(found[0])


def _leaf(schema: Any, image: str) -> str:
    """The path of the image bytes. Only these types: an extension type is not the type it stores."""
    import pyarrow as pa

    kind, leaf = schema.field(image).type, image
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, leaf = kind.field("bytes").type, f"{image}.bytes"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return leaf
    detail = f"has the type {_type(schema, image)}, not binary or struct<bytes: binary>"
    raise DatasetRejected.at(f"dataset.{image}", detail, "save the encoded images as binary values")


def _type(schema: Any, name: str) -> str:
    return str(schema.field(name).type)[:100]


def _check_sizes(count: int, sizes: list[int]) -> None:
    if not 0 < count <= MAX_VALUES or not sizes:
        raise DatasetRejected.at("dataset", f"has {count} rows in {len(sizes)} row groups", f"use 1 to {MAX_VALUES} rows")
    if min(sizes) < 0 or max(sizes) > _MAX_GROUP:
        raise DatasetRejected.at("dataset", f"has a row group of more than {_MAX_GROUP} bytes uncompressed", "write smaller row groups")
    if sum(sizes) > MAX_UNCOMPRESSED:
        raise DatasetRejected.at("dataset", f"has {sum(sizes)} bytes uncompressed, more than {MAX_UNCOMPRESSED}", "split the dataset")


def _sizes(metadata: Any) -> list[int]:
    """Uncompressed bytes of each row group. Not of each column: pyarrow aborts the process when column metadata is damaged."""
    return [int(metadata.row_group(group).total_byte_size) for group in range(metadata.num_row_groups)]


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> Any:
    text = (metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        found = json.loads(text)
        for key in ("info", "features", label):
            found = found.get(key) or {}
        return found.get("names")
    except (ValueError, RecursionError, AttributeError):
        raise DatasetRejected.at("dataset", "has Hugging Face metadata of an unknown form", "write the file again") from None
