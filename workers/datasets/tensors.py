"""Datasets as `.safetensors`: the header is capped and checked here before the library reads the tensors."""

from __future__ import annotations

import json
import math
from typing import Any

from safetensors.numpy import load

from certify.errors import DatasetRejected
from workers.datasets.dataset import MAX_VALUES, MEND, Dataset, build
from workers.datasets.refusals import readable

_MAX_HEADER = 2**20


def read_safetensors(data: bytes) -> Dataset:
    with readable(".safetensors"):
        header = _header(data)
        for name in ("x", "y"):
            if name not in header:
                raise DatasetRejected.at(f"dataset.{name}", f"the file has no array {name!r}", MEND)
            _check_size(name, header[name]["shape"])
        names = header.get("__metadata__", {}).get("classes")
        arrays = load(data)  # refuses tensors that overlap, leave gaps or are not as long as the header says
        return build(arrays["x"], arrays["y"], None if names is None else _list(names))


def _header(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if size > min(_MAX_HEADER, len(data) - 8):
        raise DatasetRejected.at("dataset", f"says its header has {size} bytes, which is too large or not in the file", MEND)
    found = json.loads(data[8 : 8 + size], object_pairs_hook=_once)
    if not isinstance(found, dict):
        raise ValueError("the header is not an object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def _check_size(name: str, shape: Any) -> None:
    good = isinstance(shape, list) and all(type(n) is int and 0 <= n <= MAX_VALUES for n in shape)
    if not good or math.prod(shape) > MAX_VALUES:
        raise DatasetRejected.at(f"dataset.{name}", f"says its shape is {str(shape)[:100]}, which is too large", "split the dataset")


def _list(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DatasetRejected.at("dataset.classes", "is not JSON", "write the class names as a JSON list into the metadata") from None
