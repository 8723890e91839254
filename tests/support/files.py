"""A small real job on disk: model, dataset, spec."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.onnx_models import small_cnn

SPEC: dict[str, Any] = {
    "noise_key": "public-seed",
    "certifiers": [
        {"kind": "smoothing", "sigma": 0.2, "n": 1500, "alpha": 0.01},
        {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 0.5, "tolerance": 0.01},
    ],
}


def npz(x: Any, y: Any, **more: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, x=x, y=y, **more)
    return file.getvalue()


def dataset(count: int = 8, shape: tuple[int, ...] = (1, 8, 8), classes: int = 4, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    return npz(rng.uniform(0, 1, (count, *shape)).astype(np.float32), rng.integers(0, classes, count))


def write_job(folder: Path, spec: dict[str, Any] | None = None) -> dict[str, Path]:
    """Paths of `model`, `data`, `spec` and the `out` to be."""
    paths = {name: folder / file for name, file in (("model", "m.onnx"), ("data", "d.npz"), ("spec", "s.json"), ("out", "o.jsonl"))}
    paths["model"].write_bytes(small_cnn(mean=0.5))
    paths["data"].write_bytes(dataset())
    paths["spec"].write_text(json.dumps(spec or SPEC))
    return paths
