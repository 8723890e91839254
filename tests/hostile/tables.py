"""Parquet files and images in them: sizes that lie, bombs, paths instead of bytes. Empty where pyarrow is not installed."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from tests.hostile.hostile import Hostile, traps
from tests.hostile.strangers import chunk, png

_SIZES = "workers/datasets/parquet.py caps footer, row groups and rows by the metadata before a page is decoded."
_PATHS = "workers/datasets/parquet.py takes image bytes only and opens no path."
_PIXELS = "workers/datasets/images.py caps the pixels by the image header before anything is decoded."
_FORMATS = "workers/datasets/images.py lets Pillow try PNG, JPEG, BMP and WebP, and nothing else."
_LABELS = "workers/datasets/parquet.py takes integer labels within int64 in every row."


def table(images: list[Any], labels: Any = None, kind: Any = None, **options: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [0] * len(images) if labels is None else labels
    file = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": labels}), file, **options)
    return file.getvalue()


def _one(image: bytes) -> Callable[[], bytes]:
    return lambda: table([image])


def _repeated() -> bytes:
    """One image of 4096 x 4096 in a dictionary, two thousand times."""
    return table([png(4096, 4096)] * 2_000, use_dictionary=True)


def _blown() -> bytes:
    """A row group that says it has a terabyte uncompressed."""
    import pyarrow.parquet as pq

    data = table([png()])
    size = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).total_byte_size
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[start:-8].replace(b"\x16" + _zigzag(size), b"\x16" + _zigzag(2**40))  # 0x16: the next field is a 64-bit integer
    return data[:start] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def _zigzag(value: int) -> bytes:
    """As Thrift's compact protocol writes an integer."""
    value, text = 2 * value, b""
    while value > 127:
        text, value = text + bytes([value & 127 | 128]), value >> 7
    return text + bytes([value])


def _footer(size: int) -> bytes:
    data = bytearray(table([png()]))
    data[-8:-4] = struct.pack("<I", size)
    return bytes(data)


def _damaged() -> bytes:
    """Every varint of the footer as large as it can be."""
    data = bytearray(table([png()]))
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[start : start + 40] = b"\xff" * 40
    return bytes(data)


def _zeros_png() -> bytes:
    """A PNG of 4 x 4 whose pixels unpack to 200 MB."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()
    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _text_png() -> bytes:
    """A PNG with 100 MB of text in 100 kB."""
    text = chunk(b"zTXt", b"c\x00\x00" + zlib.compress(bytes(100 * 2**20), 9))
    data = png()
    return data[:33] + text + data[33:]


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 14 + len(header), 0, 0, 54) + header


def _paths() -> bytes:
    import pyarrow as pa

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return table([{"bytes": None, "path": str(traps() / "weights.bin")}], kind=kind)


def _texts() -> bytes:
    return table([str(traps() / "weights.bin")])


def _labels(*values: int) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.uint64())


def _eps() -> bytes:
    """PostScript: a program, which Pillow would hand to Ghostscript."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(executed) (w) file closefile\n%%EOF\n"


def _cases() -> list[Hostile]:
    from pickle import dumps

    def case(name: str, mitigation: str, says: str, build: Callable[[], bytes], slow: bool = False) -> Hostile:
        return Hostile(name, "dataset", mitigation, says, build, slow)

    return [
        case("Parquet that unpacks to a terabyte", _SIZES, "uncompressed", _blown),
        case("Parquet of one large image two thousand times", _SIZES, "more than|uncompressed", _repeated),
        case("Parquet with a footer of 4 GB", _SIZES, "says its footer has 4294967295 bytes", lambda: _footer(2**32 - 1)),
        case("Parquet with a footer of nothing", _SIZES, "says its footer has 0 bytes", lambda: _footer(0), slow=True),
        case("Parquet with a damaged footer", _SIZES, "not a readable Parquet", _damaged),
        case("Parquet cut in its middle", _SIZES, "footer", lambda: table([png()])[:-9] + b"PAR1", slow=True),
        case("Parquet of image paths in structs", _PATHS, "paths are never opened", _paths),
        case("Parquet of image paths as texts", _PATHS, "type string, not binary", _texts),
        case("Parquet of pickles", _FORMATS, "not a readable PNG", _one(dumps({"x": 1}))),
        case("an image that is a program", _FORMATS, "not a readable PNG", _one(_eps())),
        case("a PNG of 2^62 pixels", _PIXELS, "pixels|readable", _one(png(2**31 - 1, 2**31 - 1, b"\0"))),
        case("a PNG of 5000 x 5000", _PIXELS, "5000 x 5000 pixels", _one(png(5000, 5000, b"\0"))),
        case("a BMP of 60000 x 60000", _PIXELS, "pixels", _one(_bmp(60_000, 60_000)), slow=True),
        case("a PNG with 100 MB of text", _FORMATS, "not a readable PNG", lambda: table([_text_png()])),
        case("labels that are texts in Parquet", _LABELS, "type string", lambda: table([png()], ["cat"])),
        case("labels beyond int64 in Parquet", _LABELS, "label 18446744073709551615", lambda: table([png()], _labels(2**64 - 1))),
        case("labels that are missing in Parquet", _LABELS, "row 1 has the label None", lambda: table([png()] * 2, [1, None]), slow=True),
    ]


HOSTILE = _cases() if all(map(importlib.util.find_spec, ("pyarrow", "PIL"))) else []
