"""What computes, written on every certificate; and what reads, kept with every inspection."""

from __future__ import annotations

from importlib import metadata
from importlib.metadata import PackageNotFoundError

import numpy as np
import torch

from certify.certificate import Versions


def versions() -> Versions:
    return Versions(assay=metadata.version("assay"), torch=torch.__version__, numpy=np.__version__)


# Raise it whenever some file is read, refused or described otherwise than before: what was rejected is then inspected again.
READER = 1
_READ_BY = ("onnx", "onnxruntime", "torch", "numpy", "pyarrow", "pillow")


def reader() -> str:
    """The version of what inspects uploads, libraries included: two that are equal say the same of any file."""
    found = []
    for name in _READ_BY:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except PackageNotFoundError:  # Parquet files are an extra
            continue
    return "; ".join((f"reader {READER}", *found))
