"""One door for all dataset files: the first bytes decide who reads them."""

from __future__ import annotations

from certify.errors import DatasetRejected
from workers.datasets import arrays, refusals, tensors
from workers.datasets.dataset import MEND, Dataset


def read_dataset(data: bytes) -> Dataset:
    """The examples in the bytes of one `.npz`, `.safetensors`, Parquet or structured `.npy` file.

    Raises:
        DatasetRejected: names the array that is wrong and the mend.
    """
    if not data:
        raise DatasetRejected.at("dataset", "the file is empty", MEND)
    if data[:4] == b"PK\x03\x04":
        return arrays.read_npz(data)
    if data[:6] == arrays.MAGIC:
        return arrays.read_structured(data)
    if data[:4] == data[-4:] == b"PAR1":
        from workers.datasets.parquet import read_parquet  # pyarrow and Pillow are an extra

        return read_parquet(data)
    if data[8:9] == b"{":
        return tensors.read_safetensors(data)
    refusals.refuse_gzip(data)
    refusals.refuse_pickle(data)
    raise DatasetRejected.at("dataset", "is neither an .npz nor a .safetensors, Parquet or .npy file", MEND)
