"""A trained module into the service in one call, or in one command, against the whole service."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from assay import Assay
from certify.architectures import build
from certify.errors import ExportError, ModelRejected
from tests.api.test_cli import Up, up
from tests.support.onnx_models import mlp, small_cnn

__all__ = ["up"]


@pytest.fixture
def service(up: Up) -> Assay:
    return Assay(up.environment["ASSAY_URL"], up.environment["ASSAY_KEY"])


def test_a_module_from_torch(service: Assay) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    names = ["cat", "dog", "frog"]
    found = service.upload(module, name="mine", input_shape=(3, 8, 8), mean=[0.5], std=[0.2], class_names=names, range=(0, 1))
    assert (found["state"], found["facts"]["classes"], found["facts"]["class_names"]) == ("ready", 3, names)
    assert found["facts"]["flops"] > 0
    assert found["facts"]["cuts"][0]["shape"] == [3, 8, 8]


def test_a_path_and_bytes(service: Assay, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(mlp([4, 3]))
    assert service.upload(tmp_path / "m.onnx", name="file")["facts"]["input_shape"] == [4]
    (tmp_path / "m.onnx").write_bytes(mlp([5, 3]))
    assert service.upload(str(tmp_path / "m.onnx"), name="file")["version"] == 2
    assert service.upload(small_cnn(), name="bytes")["facts"]["input_shape"] == [1, 8, 8]


def test_refusals_are_sentences(service: Assay) -> None:
    with pytest.raises(ExportError, match="returns a tuple"):
        service.upload(nn.LSTM(4, 3, batch_first=True), name="bad", input_shape=(5, 4))
    with pytest.raises(ModelRejected, match="cannot be parsed"):
        service.upload(b"\x08\x08no model at all", name="bad")
    with pytest.raises(Exception, match="input_shape: is needed"):
        service.upload(nn.Linear(4, 3), name="bad")
    with pytest.raises(Exception, match="mean: is for torch modules"):
        service.upload(mlp([4, 3]), name="bad", mean=[0.5])


def test_model_add_exports_an_architecture_and_show_prints_tables(up: Up, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(build("mlp", (6,), 3).state_dict(), tmp_path / "w.safetensors")
    weights = tmp_path / "w.safetensors"
    added = up.assay(
        "model",
        "add",
        "mlp",
        "--name",
        "tiny",
        "--input-shape",
        "6",
        "--classes",
        "3",
        "--weights",
        weights,
        "--range=-1,1",
        "--class-names",
        "a,b,c",
    )
    assert added.returncode == 0, added.stderr
    shown = up.assay("model", "show", "tiny").stdout
    for text in ("values -1 to 1", "3: a, b, c", "parameters", "FLOP", "Cuts", "Gemm", "bounds crown", "linf", "yes"):
        assert text in shown, shown
    failed = up.assay("model", "add", "mlp", "--name", "tiny", "--input-shape", "6")
    assert failed.returncode == 4
    assert "classes: is missing" in failed.stderr


def test_options_of_an_export_are_never_passed_over(up: Up, tmp_path: Path) -> None:
    """An ONNX file with --mean beside it would be certified without its normalisation."""
    (tmp_path / "m.onnx").write_bytes(mlp([4, 3]))
    for arguments, says in (
        ((tmp_path / "m.onnx", "--mean", "0.5"), "--mean: is for torch modules"),
        (("mlp", "--classes", "3"), "input-shape: is needed to export mlp"),
        (("mine.nets:make",), "input-shape: is needed to export mine.nets:make, which is no file"),
    ):
        found = up.assay("model", "add", *arguments, "--name", "none")
        assert found.returncode == 4
        assert says in found.stderr


def test_class_names_must_agree_between_model_and_dataset(up: Up, service: Assay, tmp_path: Path) -> None:
    """The job is refused at submission, with the position that differs."""
    service.upload(nn.Linear(4, 3), name="named", input_shape=(4,), class_names=["cat", "dog", "frog"], range=(0, 1))
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "d.npz", x=rng.uniform(0, 1, (4, 4)).astype(np.float32), y=np.arange(4) % 3, classes=np.array(["cat", "frog", "dog"])
    )
    (tmp_path / "s.json").write_text(json.dumps({"certifiers": [{"kind": "smoothing", "sigma": 0.25, "n": 2000}]}))
    assert up.assay("dataset", "add", tmp_path / "d.npz", "--name", "named").returncode == 0
    done: subprocess.CompletedProcess[str] = up.assay(
        "job", "submit", "--model", "named", "--dataset", "named", "--spec", tmp_path / "s.json"
    )
    assert done.returncode == 4
    assert "dog" in done.stderr
    assert "frog" in done.stderr
