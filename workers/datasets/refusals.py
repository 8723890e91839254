"""Refusals that all file formats share: what a parser stumbles over, and pickles in every disguise."""

from __future__ import annotations

import pickletools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from certify.errors import AssayError, DatasetRejected
from certify.text import printable
from workers.datasets.dataset import MEND

_OPCODES = 64  # so many valid ones in a row are no accident
_LOOKED_AT = 2**20


@contextmanager
def readable(kind: str) -> Iterator[None]:
    """Whatever a parser raises on hostile bytes becomes a sentence. MemoryError passes: it may be the machine's fault."""
    try:
        yield
    except (AssayError, MemoryError):
        raise
    except Exception as error:
        raise DatasetRejected.at("dataset", f"is not a readable {kind} file ({shown(error)})", MEND) from None


def shown(error: BaseException) -> str:
    """The text of an error, which may quote the file, as one short printable line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return printable(text, 200)


def refuse_pickle(data: bytes, field: str = "dataset", what: str = "is") -> None:
    if pickled(data):
        raise DatasetRejected.at(field, f"{what} a Python pickle, which could run code and is never loaded", MEND)


def refuse_gzip(data: bytes) -> None:
    if data[:2] != b"\x1f\x8b":
        return
    with readable("gzip"):
        head = zlib.decompressobj(wbits=31).decompress(data[:_LOOKED_AT], _LOOKED_AT)
    refuse_pickle(head, what="is, behind gzip,")
    raise DatasetRejected.at("dataset", "is compressed with gzip", "decompress it; .npz files are compressed by numpy.savez_compressed")


def pickled(data: bytes) -> bool:
    """Whether the bytes read as a pickle. Opcodes are only walked, never run; protocols 0 and 1 have no magic number."""
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    try:
        for done, (opcode, _, _) in enumerate(pickletools.genops(data[:_LOOKED_AT]), start=1):
            if opcode.name == "STOP" or done == _OPCODES:
                return done > 1
    except Exception:  # not a pickle, whatever genops says of it
        return False
    return False
