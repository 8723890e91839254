"""Makes one `.npz` dataset of images or arrays: `python -m workers.pack ...`, behind `assay dataset pack`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from certify.errors import DatasetRejected
from certify.exit_codes import Exit
from workers.command import Parser, answered, read_file, whole_file, wrong
from workers.datasets.arrays import read_npy
from workers.datasets.dataset import Array, Dataset, build
from workers.datasets.folder import Folder, open_folder
from workers.datasets.images import Stack, library, open_image
from workers.datasets.refusals import readable

if TYPE_CHECKING:
    from PIL.Image import Image

_Item = TypeVar("_Item")
_MAX_SIDE = 4096
_SHOWN_NAMES = 10


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return answered(lambda: _pack(options))


def _pack(options: argparse.Namespace) -> int:
    size = _size(options.size)
    if options.limit is not None and options.limit < 1:
        raise wrong("limit", f"{options.limit} is not a positive number", "write for example --limit 100")
    packed = _dataset(options, size)
    _save(Path(options.out), packed)
    _say(_summary(options.out, packed))
    return Exit.DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="assay dataset pack", description="Make one .npz dataset: x float32, y int64 and the names of the classes.")
    parser.add_argument("source", nargs="?", help="a folder with one sub-folder of images for each class, or a Parquet file; x in [0, 1]")
    parser.add_argument("--x", metavar="x.npy", help="instead of a source: the inputs, floats as they are or bytes divided by 255")
    parser.add_argument("--y", metavar="y.npy", help="with --x: the labels")
    parser.add_argument("--classes", metavar="A,B,C", help="with --x: the names of the classes")
    parser.add_argument("--out", required=True, metavar="D.npz")
    parser.add_argument("--size", metavar="H,W", help="resize images, with antialias; the ratio of the sides is not kept")
    parser.add_argument("--grey", action="store_true", help="turn colour images grey")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N examples of each class, the first ones")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out what is no readable image, and say so")
    return parser


def _dataset(options: argparse.Namespace, size: tuple[int, int] | None) -> Dataset:
    arrays = options.x is not None or options.y is not None or options.classes is not None
    if arrays == (options.source is not None):
        raise wrong("source", "give either a folder or Parquet file, or --x and --y", "see assay dataset pack --help")
    if not arrays:
        images = _Images(options, size)
        return images.of_folder() if Path(options.source).is_dir() else images.of_parquet()
    if options.x is None or options.y is None:
        raise wrong("x", "--x and --y belong together", "give both")
    if size or options.grey or options.skip_unreadable:
        raise wrong("x", "--size, --grey and --skip-unreadable are for images", "remove them")
    return _of_arrays(options)


def _of_arrays(options: argparse.Namespace) -> Dataset:
    x, y = read_npy(read_file(options.x, "x"), "dataset.x"), read_npy(read_file(options.y, "y"), "dataset.y")
    if x.dtype == np.uint8:
        _say("x holds bytes: divided by 255")
        x = x / np.float32(255)
    names = None if options.classes is None else [name.strip() for name in options.classes.split(",")]
    packed = build(x, y, names)
    if packed.rounded:
        _say("x held float64 values that float32 does not have: rounded")
    kept = [row for row, wanted in enumerate(_kept(packed.y.tolist(), options.limit)) if wanted]
    return Dataset(packed.x[kept], packed.y[kept], packed.class_names, packed.rounded)


class _Images:
    """Reads images one by one into a stack: resized, grey, limited and skipped as the options say."""

    def __init__(self, options: argparse.Namespace, size: tuple[int, int] | None) -> None:
        self._options, self._size = options, size
        self._resized = self._greyed = self._skipped = 0

    def of_folder(self) -> Dataset:
        library()
        folder = open_folder(Path(self._options.source), self._options.limit, self._skip)
        stack = Stack(len(folder.files))
        for path, label in _reported(iter(folder.files), len(folder.files)):
            self._add(stack, self._bytes(folder, path), label, folder.where(path))
        return self._built(stack, folder.class_names)

    def of_parquet(self) -> Dataset:
        from workers.datasets.parquet import open_table

        data = read_file(self._options.source, "source")
        if data[:4] != b"PAR1":
            raise wrong("source", f"{self._options.source} is neither a folder nor a Parquet file", "see assay dataset pack --help")
        with readable("Parquet"):
            table = open_table(data)
            keep = _kept(table.labels(), self._options.limit)
            stack = Stack(sum(keep))
            for (where, image, label), wanted in zip(_reported(table.rows(), table.count), keep, strict=True):
                if wanted:
                    self._add(stack, image, label, where)
            return self._built(stack, table.class_names)

    def _add(self, stack: Stack, data: bytes, label: int, where: str) -> None:
        try:
            image = open_image(data, where)
        except DatasetRejected as error:
            self._skip(error)
            return
        stack.add(self._changed(image), label, where)

    def _changed(self, image: Image) -> Image:
        if self._options.grey and image.mode != "L":
            self._greyed += 1
            image = image.convert("L")
        if self._size and image.size != self._size:
            self._resized += 1
            image = image.resize(self._size, library().Resampling.BILINEAR)  # Pillow widens the filter when it shrinks: antialias
        return image

    def _bytes(self, folder: Folder, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise DatasetRejected.at("dataset.x", f"cannot read {folder.where(path)}: {error.strerror}", "check its rights") from None

    def _skip(self, error: DatasetRejected) -> None:
        if not self._options.skip_unreadable:
            raise error
        self._skipped += 1
        _say(f"skipped: {error.problems[0].detail}")

    def _built(self, stack: Stack, names: object) -> Dataset:
        packed = build(*stack.arrays(), names)
        height, width = packed.x.shape[2:]
        if self._resized:
            _say(f"resized {self._resized} images to {height} x {width}, bilinear with antialias, the ratio of the sides not kept")
        if self._greyed:
            _say(f"turned {self._greyed} images grey (ITU-R 601 luma)")
        if self._skipped:
            _say(f"skipped {self._skipped}")
        return packed


def _kept(labels: Sequence[int], limit: int | None) -> list[bool]:
    """Which examples are among the first of their class."""
    seen, kept = Counter[int](), []
    for label in labels:
        seen[label] += 1
        kept.append(limit is None or seen[label] <= limit)
    return kept


def _reported(items: Iterator[_Item], total: int) -> Iterator[_Item]:
    """Passes items on and says on stderr how many have been read."""
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= 1.0 or done == total:
            last = now
            _say(f"read {done} of {total}")


def _save(path: Path, dataset: Dataset) -> None:
    """The same data give the same bytes."""
    arrays: dict[str, Array] = {"x": dataset.x.numpy(), "y": dataset.y.numpy()}
    if dataset.class_names is not None:
        arrays["classes"] = np.array(dataset.class_names)
    with whole_file(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _size(text: str | None) -> tuple[int, int] | None:
    """Width and height, in Pillow's order, of H,W."""
    if text is None:
        return None
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:
        height, width = 0, 0
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise wrong("size", f"{text!r} is not H,W from 1 to {_MAX_SIDE}", "write for example --size 32,32")
    return width, height


def _summary(path: str, packed: Dataset) -> str:
    names = packed.class_names
    classes = f"labels {int(packed.y.min())} to {int(packed.y.max())} without names"
    if names is not None:
        more = ", ..." if len(names) > _SHOWN_NAMES else ""
        classes = f"{len(names)} classes: {', '.join(names[:_SHOWN_NAMES])}{more}"
    low, high = float(packed.x.min()), float(packed.x.max())
    return f"wrote {path}: {len(packed.x)} examples of shape {list(packed.x.shape[1:])}, values {low:g} to {high:g}, {classes}"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
