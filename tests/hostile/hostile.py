"""What a hostile upload is, the traps it may not touch, and the tools that build it."""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from tests.support.onnx_models import Array, mlp, model_bytes


@dataclass(frozen=True)
class Hostile:
    """One upload that must be refused.

    Args:
        mitigation: what stops it and where, in one sentence.
        says: what the refusal must match.
        build: its bytes.
        slow: it tells little that another one does not; only the slow run inspects it.
    """

    name: str
    kind: Literal["model", "dataset"]
    mitigation: str
    says: str
    build: Callable[[], bytes]
    slow: bool = False


@functools.cache
def traps() -> Path:
    """A folder with FIFOs that nobody writes to: whoever opens one hangs. Inspections run in it."""
    folder = Path(tempfile.mkdtemp(prefix="assay-hostile-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.mkfifo(folder / "weights.bin")
    (folder / "symbolic").symlink_to(folder / "weights.bin")
    os.link(folder / "weights.bin", folder / "hard")
    return folder


def marker() -> Path:
    """The file that exists once any payload has run."""
    return traps() / "executed"


class Payload:
    """Creates the marker when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(marker())!r}, 'a').close()",)


def pickled(protocol: int = 4) -> bytes:
    return pickle.dumps({"state_dict": Payload(), "epoch": 3}, protocol)


def graph_of(*nodes: onnx.NodeProto, shape: tuple[int | str | None, ...] = (2, 6), opset: int = 17, **weights: Array) -> bytes:
    """A model of these nodes from `x` to `logits`, the batch axis dynamic."""
    return model_bytes(nodes, weights, input_shape=("batch", *shape), opset=opset)


def changed(change: Callable[[onnx.ModelProto], object], data: bytes | None = None) -> bytes:
    """A valid model after one change."""
    model = onnx.load_model_from_string(data or mlp((4, 5, 3)))
    change(model)
    return model.SerializeToString()


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def floats(*shape: int) -> Array:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)
