"""Published networks with known verdicts, in the folder named by ASSAY_NETWORKS: one folder for each benchmark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from certify import Model


@dataclass(frozen=True)
class Instance:
    benchmark: str
    net: str
    index: int
    x: torch.Tensor
    label: int
    target: int
    epsilon: float
    verdict: str


def folder() -> Path:
    """The folder, or a loud skip."""
    name = os.environ.get("ASSAY_NETWORKS")
    if not name:
        pytest.skip("ASSAY_NETWORKS is not set: the published networks are not tested")
    return Path(name)


def networks() -> list[Path]:
    name = os.environ.get("ASSAY_NETWORKS")
    return sorted(Path(name).glob("*/*.onnx")) if name else []


def instances(benchmark: Path) -> Iterator[Instance]:
    data = np.load(benchmark / "instances.npz")
    for i, verdict in enumerate(data["verdict"]):
        yield Instance(
            benchmark.name,
            str(data["net"][i]),
            i,
            torch.from_numpy(np.asarray(data["x"][i], dtype=np.float32)),
            int(data["y"][i]),
            int(data["target"][i]),
            float(data["epsilon"][i]),
            str(verdict),
        )


def load(path: Path) -> Model:
    return Model.from_onnx(path.read_bytes())
