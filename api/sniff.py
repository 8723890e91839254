"""A first look at uploaded bytes, light enough for the API: what cannot be a model or dataset is refused at once."""

from __future__ import annotations

from certify.errors import InputError, Problem

_EXPORT = "export the model to a single ONNX file with torch.onnx.export"
_SAVE = "save it with numpy.savez(path, x=x, y=y)"


def sniff_model(data: bytes) -> None:
    """Raises InputError naming the field `blob` when the bytes are plainly no ONNX file."""
    _common(data, _EXPORT)
    if data[:4] == b"PK\x03\x04":
        raise _refused("is a zip archive (a PyTorch checkpoint, TorchScript or .pt2 file), which is never loaded", _EXPORT)


def sniff_dataset(data: bytes) -> None:
    """Raises InputError naming the field `blob` when the bytes are plainly no dataset."""
    _common(data, _SAVE)


def _common(data: bytes, mend: str) -> None:
    if not data:
        raise _refused("the file is empty", mend)
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise _refused("is a Python pickle, which could run code and is never loaded", mend)


def _refused(detail: str, mend: str) -> InputError:
    return InputError(Problem(field="blob", detail=detail, mend=mend))
