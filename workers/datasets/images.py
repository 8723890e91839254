"""Encoded images -> pixels. Sizes come from the image header and are capped before anything is decoded."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from certify.errors import AssayError, DatasetRejected
from workers.datasets.dataset import MAX_VALUES, Array

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MAX_PIXELS = 2**24
MAX_ENCODED = 2**26
EXTRA = "install what reads images: pip install 'assay[images]'"
_ALIKE = "make all images alike, for example with: assay dataset pack FOLDER --size H,W --grey --out D.npz"
_CONVERT = "convert it to an 8-bit grey or RGB image without transparency"
_FAMILIES = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGB"}
_ORIENTATION = 0x0112


def rejected(where: str, detail: str, mend: str) -> DatasetRejected:
    return DatasetRejected.at("dataset.x", f"{where} {detail}", mend)


def library() -> Any:
    """Pillow, which is an extra."""
    try:
        import PIL.Image
    except ImportError:
        raise DatasetRejected.at("dataset", "holds images, and Pillow is not installed", EXTRA) from None
    return PIL.Image


def open_image(data: bytes, where: str) -> Image:
    """One decoded image of mode L or RGB, with exactly the pixels of the file.

    Raises:
        DatasetRejected: names the image (`where`); too large, unreadable, or not to be had as 8-bit grey or RGB without loss.
    """
    pillow = library()
    if len(data) > MAX_ENCODED:
        raise rejected(where, f"has {len(data)} bytes, more than {MAX_ENCODED}", "save it smaller")
    _cap(_webp_size(data), where)  # Pillow makes the canvas of a WebP at once; other formats wait for load()
    try:
        with pillow.open(io.BytesIO(data), formats=FORMATS) as image:
            _cap(image.size, where)
            _refuse_loss(image, data, where)
            image.load()
            return _plain(image, where)
    except (AssayError, MemoryError):
        raise
    except pillow.DecompressionBombError:  # Pillow's own cap, far above ours, comes before we see the size
        raise rejected(where, f"has more than {MAX_PIXELS} pixels", "scale it down") from None
    except Exception:  # decoders raise whatever they like on damaged files
        raise rejected(where, "is not a readable PNG, JPEG, BMP or WebP image", "remove or replace it") from None


class Stack:
    """Images of one size and one colour family, as x: (count, channels, height, width), float32 in [0, 1]."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._x: Array | None = None
        self._labels: list[int] = []

    def add(self, image: Image, label: int, where: str) -> None:
        pixels = np.asarray(image)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        x = self._start(pixels, where) if self._x is None else self._x
        if pixels.shape != x.shape[1:]:
            raise rejected(where, f"is {_kind(pixels.shape)}, but the first image is {_kind(x.shape[1:])}", _ALIKE)
        if len(self._labels) == self._count:
            raise rejected(where, f"is one more than the {self._count} images that were announced", "write the file again")
        np.divide(pixels, np.float32(255), out=x[len(self._labels)], dtype=np.float32)
        self._labels.append(label)

    def arrays(self) -> tuple[Array, Array]:
        if self._x is None:
            raise DatasetRejected.at("dataset", "has no images", "add some")
        return self._x[: len(self._labels)], np.array(self._labels, np.int64)

    def _start(self, pixels: Array, where: str) -> Array:
        if self._count * pixels.size > MAX_VALUES:
            raise rejected(
                where,
                f"is {_kind(pixels.shape)}: {self._count} such images have more than {MAX_VALUES} values",
                "use fewer or smaller images",
            )
        self._x = np.empty((self._count, *pixels.shape), np.float32)
        return self._x


def _kind(shape: tuple[int, ...]) -> str:
    return f"{'grey' if shape[0] == 1 else 'RGB'} of {shape[1]} x {shape[2]}"


def _cap(size: tuple[int, int], where: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise rejected(where, f"has {size[1]} x {size[0]} pixels, more than {MAX_PIXELS}", "scale it down")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP, or (0, 0) when it is none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return 0, 0
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _refuse_loss(image: Image, data: bytes, where: str) -> None:
    """What Pillow would drop without a word."""
    if image.format == "PNG" and data[24:25] == b"\x10":
        raise rejected(where, "has 16 bits for each channel", _CONVERT)
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise rejected(where, "is animated", "save one frame of it")


def _plain(image: Image, where: str) -> Image:
    family = _FAMILIES.get(image.mode)
    if family is None:
        raise rejected(where, f"has the colour mode {image.mode}", _CONVERT)
    if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
        raise rejected(where, "is to be turned by its EXIF orientation, which programs do or do not", "turn its pixels and save it")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise rejected(where, "is transparent in places", "flatten it onto a background and save it without transparency")
    image.load()
    return image.convert(family)
