"""A folder of images, one sub-folder for each class; nothing outside the folder is ever opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from certify.errors import DatasetRejected
from workers.datasets.images import MAX_ENCODED, rejected

Skip = Callable[[DatasetRejected], None]
_SKIP = "remove it, or skip such files with --skip-unreadable"


@dataclass(frozen=True)
class Folder:
    """The files that are to be read, in the order of the examples."""

    class_names: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]  # path and label
    root: Path

    def where(self, path: Path) -> str:
        return repr(str(path.relative_to(self.root)))


def open_folder(root: Path, limit: int | None, skip: Skip) -> Folder:
    """The classes and files of a folder, sorted by name.

    Args:
        limit: at most so many files of each class.
        skip: is told of each thing that is no image; it raises what it is told, or returns and the thing is left out.
    """
    classes = [entry for entry in _visible(root) if _inside(root, entry, skip) and _is_class(root, entry, skip)]
    files = []
    for label, entry in enumerate(classes):
        found = [path for path in _visible(entry) if _inside(root, path, skip) and _is_file(root, path, skip)]
        if not found:
            raise DatasetRejected.at("dataset", f"the class folder {entry.name!r} has no images", "add some, or remove the folder")
        files += [(path, label) for path in found[:limit]]
    if not classes:
        raise DatasetRejected.at(
            "dataset", f"{str(root)!r} has no sub-folders", "put the images of each class into a sub-folder of its name"
        )
    return Folder(tuple(entry.name for entry in classes), tuple(files), root)


def _visible(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DatasetRejected.at("dataset", f"cannot read {str(folder)!r}: {error.strerror}", "check the path") from None
    return (folder / name for name in names if not name.startswith("."))


def _inside(root: Path, path: Path, skip: Skip) -> bool:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # a link to nowhere, or to itself
        target = None
    if target is not None and target.is_relative_to(root.resolve()):
        return True
    skip(rejected(_shown(root, path), "is a link that leads outside the folder, or nowhere", _SKIP))
    return False


def _is_class(root: Path, path: Path, skip: Skip) -> bool:
    if path.is_dir():
        return True
    skip(rejected(_shown(root, path), "stands beside the class folders", _SKIP))
    return False


def _is_file(root: Path, path: Path, skip: Skip) -> bool:
    if path.is_file() and path.stat().st_size <= MAX_ENCODED:  # a pipe would never end
        return True
    what = f"has more than {MAX_ENCODED} bytes" if path.is_file() else "is no plain file"
    skip(rejected(_shown(root, path), what, _SKIP))
    return False


def _shown(root: Path, path: Path) -> str:
    return repr(str(path.relative_to(root)))
