"""Parquet datasets: pixels exactly, sizes before decoding, no path opened, no extension type run."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certify.errors import DatasetRejected
from certify.facts import DatasetFacts
from storage.records import InspectionLease
from tests.support.sandboxed import inspected
from workers.datasets import dataset_facts, images, parquet, read_dataset

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
PIL = pytest.importorskip("PIL.Image")

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
LABELS = [1, 0, 1, 2, 0]
NAMES = ["cat", "dog", "owl"]


def encoded(pixels: Any, kind: str = "PNG", **more: Any) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, PIL.Image) else PIL.fromarray(pixels)
    image.save(file, kind, **more)
    return file.getvalue()


def written(images_: Any, labels: Any = LABELS, columns: tuple[str, str] = ("image", "label"), names: Any = NAMES, **options: Any) -> bytes:
    table = pa.table(dict(zip(columns, (images_, labels), strict=True)))
    if names is not None:
        features = {columns[1]: {"names": names, "_type": "ClassLabel"}, columns[0]: {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def structs(found: list[bytes | None], path: str = "x.png") -> Any:
    return pa.array([{"bytes": data, "path": path} for data in found])


def refusal(data: bytes) -> str:
    with pytest.raises(DatasetRejected) as refused:
        read_dataset(data)
    assert refused.value.problems[0].mend
    return str(refused.value)


def row_1(data: bytes) -> str:
    """The refusal of a file whose second image is `data`."""
    return refusal(written(structs([encoded(PIXELS[0]), data]), [0, 1]))


LOSSLESS = [
    encoded(p, kind, **more) for p, (kind, more) in zip(PIXELS, [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})] * 2, strict=False)
]


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
@pytest.mark.parametrize(
    ("image", "columns"),
    [(structs(LOSSLESS), ("image", "label")), (pa.array(LOSSLESS), ("img", "y")), (pa.array(LOSSLESS, pa.large_binary()), ("image", "y"))],
    ids=["hugging face", "binary", "large binary"],
)
def test_pixels_labels_and_names_are_read_exactly(image: Any, columns: tuple[str, str], compression: str) -> None:
    read = read_dataset(written(image, columns=columns, compression=compression, row_group_size=2))
    assert np.array_equal(read.x.numpy(), (PIXELS / np.float32(255)).transpose(0, 3, 1, 2))
    assert read.y.tolist() == LABELS
    facts = dataset_facts(read)
    assert facts.class_names == tuple(NAMES)
    assert facts.input_shape == (3, 4, 6)


def test_grey_has_one_channel_and_names_may_be_missing() -> None:
    grey = PIXELS[..., 0]
    read = read_dataset(written(structs([encoded(p) for p in grey]), names=None))
    assert np.array_equal(read.x.numpy(), (grey / np.float32(255))[:, None])
    assert read.class_names is None


def test_what_converts_without_loss_is_converted() -> None:
    colours = PIL.fromarray(PIXELS[0]).quantize(4)
    exact = np.asarray(colours.convert("RGB"))
    opaque = np.dstack([PIXELS[1], np.full((4, 6), 255, np.uint8)])
    read = read_dataset(written(structs([encoded(colours), encoded(opaque)]), [0, 1]))
    assert np.array_equal(read.x.numpy()[0], (exact / np.float32(255)).transpose(2, 0, 1))
    assert np.array_equal(read.x.numpy()[1], (PIXELS[1] / np.float32(255)).transpose(2, 0, 1))
    bits = PIXELS[..., 0] > 99
    assert np.array_equal(read_dataset(written(structs([encoded(b) for b in bits]))).x.numpy()[:, 0], bits.astype(np.float32))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG header with nothing behind it that would fill its pixels."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def webp(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


RGBA = np.dstack([PIXELS[1], np.full((4, 6), 254, np.uint8)])
TURNED = PIL.Exif()
TURNED[0x0112] = 6
FRAMES: dict[str, Any] = {"save_all": True, "append_images": [PIL.fromarray(PIXELS[2])]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png(60_000, 60_000), "more than 16777216 pixels"),
        (png(5000, 4000), "4000 x 5000 pixels"),
        (webp(16_000, 16_000), "16000 x 16000 pixels"),
        (encoded(PIXELS[1])[:60], "not a readable PNG"),
        (png(6, 4), "not a readable PNG"),
        (b"", "not a readable PNG"),
        (encoded(PIXELS[1], "TIFF"), "not a readable PNG"),
        (encoded(PIXELS[1], "GIF"), "not a readable PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 6\n", "not a readable PNG"),
        (pickle.dumps(1), "not a readable PNG"),
        (encoded(RGBA), "transparent in places"),
        (encoded(PIL.fromarray(PIXELS[1]).quantize(4), transparency=0), "transparent in places"),
        (encoded(PIL.fromarray(PIXELS[1]).convert("CMYK"), "JPEG"), "colour mode CMYK"),
        (encoded(PIXELS[1, ..., 0].astype(np.uint16)), "16 bits"),
        (png(6, 4, depth=16), "16 bits"),
        (encoded(PIXELS[1], "PNG", **FRAMES), "animated"),
        (encoded(PIXELS[1], "WEBP", **FRAMES), "animated"),
        (encoded(PIXELS[1], "JPEG", exif=TURNED), "EXIF orientation"),
        (encoded(PIXELS[1][:3]), "RGB of 3 x 6, but the first image is RGB of 4 x 6"),
        (encoded(PIXELS[1, ..., 0]), "grey of 4 x 6, but the first image is RGB of 4 x 6"),
    ],
)
def test_images_are_refused_by_row(data: bytes, words: str) -> None:
    text = row_1(data)
    assert "row 1" in text
    assert words in text


def test_rows_without_bytes_are_refused_and_their_paths_never_opened(tmp_path: Path) -> None:
    real = tmp_path / "real.png"
    real.write_bytes(encoded(PIXELS[0]))
    assert "row 1 has no bytes, and paths are never opened" in refusal(written(structs([encoded(PIXELS[0]), None], str(real)), [0, 1]))
    assert "row 1 has no bytes" in refusal(written(pa.array([{"bytes": LOSSLESS[0], "path": ""}, None]), [0, 1]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (written(structs(LOSSLESS), [0, 1, None, 0, 0]), "row 2 has the label None"),
        (written(structs(LOSSLESS), [0.0, 1, 0, 0, 0]), "has the type double"),
        (written(structs(LOSSLESS), pa.array([2**63, 1, 0, 0, 0], pa.uint64())), "row 0 has the label 9223372036854775808"),
        (written(structs(LOSSLESS), columns=("picture", "label")), "0 columns named image or img"),
        (written(structs(LOSSLESS), columns=("image", "fine_label")), "0 columns named label or y"),
        (written(pa.array(["a.png"] * 5)), "has the type string"),
        (written(pa.array([{"path": "a.png"}] * 5)), "has the type struct<path"),
        (written(structs(LOSSLESS), names=NAMES[:2]), "has 2 names, but y has the label 2"),
        (written(structs([]), pa.array([], pa.int64())), "dataset"),
        (b"PAR1" + b"\xff" * 100 + b"\xff\xff\xff\xffPAR1", "says its footer"),
        (b"PAR1" + b"\xff" * 100 + b"\x20\x00\x00\x00PAR1", "not a readable Parquet"),
    ],
)
def test_tables_are_refused_with_a_sentence(data: bytes, words: str) -> None:
    assert words in refusal(data)


def test_two_image_columns_are_ambiguous() -> None:
    table = pa.table({"image": LOSSLESS, "img": LOSSLESS, "label": LABELS})
    file = io.BytesIO()
    pq.write_table(table, file)
    assert "2 columns named image or img" in refusal(file.getvalue())


def test_sizes_are_checked_before_a_row_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes of zeros in a few kilobytes of zstd: the metadata is enough to refuse them."""
    monkeypatch.setattr(parquet.Table, "rows", lambda self: pytest.fail("decoded"))
    bomb = written(pa.array([bytes(2**20)] * 8), [0] * 8, compression="zstd", use_dictionary=False, row_group_size=2)
    assert len(bomb) < 2**14
    monkeypatch.setattr(parquet, "MAX_UNCOMPRESSED", 2**22)
    assert "bytes uncompressed, more than" in refusal(bomb)
    monkeypatch.setattr(parquet, "_MAX_GROUP", 2**20)
    assert "row group of more than" in refusal(bomb)


def test_the_values_of_all_images_are_capped_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_VALUES", 5 * 4 * 6 * 3 - 1)
    assert "5 such images have more than 359 values" in refusal(written(structs(LOSSLESS)))


def test_a_repeated_value_is_read_in_batches_that_fit() -> None:
    """A dictionary can repeat one large value: so many rows at once as fit even then."""
    table = parquet.open_table(written(structs(LOSSLESS)))
    for size, rows in ((0, 1024), (2**20, 256), (2**30, 1)):
        assert parquet.Table(**{**vars(table), "sizes": [size]})._batch(0) == rows


class Extension(pa.ExtensionType):  # type: ignore[misc, name-defined]
    """The extension name that old pyarrow unpickled by itself."""

    def __init__(self) -> None:
        super().__init__(pa.binary(), "arrow.py_extension_type")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"cos\n_exit\n(I7\ntR."  # exits the process when it is unpickled

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, data: bytes) -> Any:
        raise AssertionError("the type was registered")


def test_an_extension_type_is_never_run() -> None:
    data = written(pa.ExtensionArray.from_storage(Extension(), pa.array(LOSSLESS, pa.binary())))
    assert pq.read_schema(io.BytesIO(data)).field("image").metadata[b"ARROW:extension:name"] == b"arrow.py_extension_type"
    assert read_dataset(data).x.shape == (5, 3, 4, 6)


def test_an_extension_type_that_pyarrow_knows_is_refused() -> None:
    opaque = pa.opaque(pa.binary(), "type", "vendor")
    assert "dataset.image: has the type extension<arrow.opaque" in refusal(
        written(pa.ExtensionArray.from_storage(opaque, pa.array(LOSSLESS, pa.binary())))
    )


def test_the_inspector_reads_it_within_its_limits() -> None:
    lease = InspectionLease(kind="dataset", id="x", blob="0" * 64, value_range=None, epoch=1)
    facts = inspected(lease, written(structs(LOSSLESS)))
    assert isinstance(facts, DatasetFacts)
    assert (facts.count, facts.class_names) == (5, tuple(NAMES))


@pytest.mark.parametrize("missing", ["pyarrow", "PIL"])
def test_a_missing_library_is_a_sentence_and_other_formats_need_none(missing: str, tmp_path: Path) -> None:
    (tmp_path / "d.parquet").write_bytes(written(structs(LOSSLESS)))
    code = (
        f"import sys; sys.modules['{missing}'] = None; import workers.pack\n"
        "from workers.datasets import read_dataset\n"
        "try: read_dataset(open(sys.argv[1], 'rb').read())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path / "d.parquet"], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("DatasetRejected")
    assert "pip install 'assay[images]'" in found.stdout
