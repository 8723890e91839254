"""What a dataset is, and the checks every file format ends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify.errors import DatasetRejected
from certify.facts import DatasetFacts
from certify.sampling.noise.grid import on_grid

Array = np.ndarray[Any, Any]

MAX_VALUES = 2**29
MAX_NAMES = 2**15
MAX_NAME = 200
MEND = "save it with numpy.savez(path, x=x, y=y): x float32 of shape (N, *input), y int64 of shape (N,)"
_STEP = 2**22  # values looked at at once: checks must not need as much memory as the data


@dataclass(frozen=True)
class Dataset:
    x: Tensor  # (N, *input), float32
    y: Tensor  # (N,), int64
    class_names: tuple[str, ...] | None = None
    rounded: bool = False  # float64 values were rounded to float32


def dataset_facts(dataset: Dataset) -> DatasetFacts:
    return DatasetFacts(
        count=len(dataset.x),
        input_shape=tuple(dataset.x.shape[1:]),
        low=float(dataset.x.min()),
        high=float(dataset.x.max()),
        label_low=int(dataset.y.min()),
        label_high=int(dataset.y.max()),
        class_names=dataset.class_names,
        rounded=dataset.rounded,
        on_grid=all(on_grid(part) for part in torch.split(dataset.x, max(1, _STEP // dataset.x[0].numel()))),
    )


def build(x: Array, y: Array, names: object = None) -> Dataset:
    """The dataset of these arrays.

    Raises:
        DatasetRejected: names the array that is wrong and the mend.
    """
    inputs, rounded = _inputs(x)
    labels = _labels(y, len(x))
    return Dataset(torch.from_numpy(inputs), torch.from_numpy(labels), class_names(names, int(labels.max())), rounded)


def class_names(names: object, highest: int) -> tuple[str, ...] | None:
    """The names of classes 0, 1, ..., one for each label up to `highest`; duplicates are allowed, ImageNet has some."""
    if names is None:
        return None
    mend = "give one printable name for each class, in the order of the labels"
    if not isinstance(names, Sequence) or isinstance(names, str) or not 0 < len(names) <= MAX_NAMES:
        raise DatasetRejected.at("dataset.classes", f"is not a list of 1 to {MAX_NAMES} names", mend)
    for position, name in enumerate(names):
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise DatasetRejected.at("dataset.classes", f"name {position} is not a printable text of 1 to {MAX_NAME} characters", mend)
    if highest >= len(names):
        raise DatasetRejected.at("dataset.classes", f"has {len(names)} names, but y has the label {highest}", mend)
    return tuple(names)


def _inputs(x: Array) -> tuple[Array, bool]:
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        mend = "convert to float32 in the model's raw input range, for example (x / 255).astype('float32')"
        raise DatasetRejected.at("dataset.x", f"has the type {x.dtype}", mend)
    if x.ndim < 2 or x.size == 0:
        raise DatasetRejected.at("dataset.x", f"has shape {list(x.shape)}", MEND)
    if x.size > MAX_VALUES:
        raise DatasetRejected.at("dataset.x", f"has {x.size} values, more than {MAX_VALUES}", "split the dataset")
    rounded, rows = False, max(1, _STEP // (x.size // len(x)))
    # What is float32 already is not copied: a large dataset would be in memory once more.
    fits = x.dtype == np.float32 and x.flags.c_contiguous and x.flags.writeable
    values = x if fits else np.empty(x.shape, np.float32)
    for start in range(0, len(x), rows):
        given, kept = x[start : start + rows], values[start : start + rows]
        if not fits:
            with np.errstate(over="ignore", invalid="ignore"):
                kept[...] = given
        finite = np.isfinite(kept).reshape(len(kept), -1).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            what = "NaN or infinity" if not np.isfinite(x[row]).all() else "values too large for float32"
            raise DatasetRejected.at("dataset.x", f"example {row} contains {what}", "remove or repair those examples")
        rounded = rounded or bool((kept != given).any())
    return values, rounded


def _labels(y: Array, count: int) -> Array:
    if y.dtype.kind not in "iu":
        raise DatasetRejected.at("dataset.y", f"has the type {y.dtype}", "save the labels as int64")
    if y.shape != (count,):
        raise DatasetRejected.at(
            "dataset.y", f"has shape {list(y.shape)} for {count} examples", f"save one label for each example: shape ({count},)"
        )
    if int(y.max()) > np.iinfo(np.int64).max:
        raise DatasetRejected.at("dataset.y", f"has the label {int(y.max())}", "save the labels as int64")
    return y.astype(np.int64)
