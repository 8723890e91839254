"""`assay export` as a process: factories, weights in every wrapping, and sentences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from certify.architectures import build
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx

SOURCE = """
import torch
from torch import nn

def make(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(9, width), nn.GELU(), nn.Linear(width, 3))

class Network(nn.Sequential):
    def __init__(self):
        super().__init__(*make())

ready = make()

def broken():
    raise RuntimeError("no such file")

def other():
    return 3
"""


SCRIPT = """
import argparse
argparse.ArgumentParser().parse_args([])
raise SystemExit(0)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "script.py").write_text(SCRIPT)
    torch.manual_seed(0)
    model = network()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "checkpoint.pth")
    torch.save(model, tmp_path / "whole.pt")
    return tmp_path


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.GELU(), nn.Linear(4, 3))


def run(home: Path, *arguments: str, out: str = "m.onnx") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workers.export", *arguments, "--input-shape", "1,3,3", "--out", out]
    return subprocess.run(
        command, cwd=home, env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )


@pytest.mark.parametrize("source", ["mine:make", "mine:Network", "mine:ready"])
@pytest.mark.parametrize("weights", ["w.safetensors", "checkpoint.pth"])
def test_a_factory_and_its_weights(home: Path, source: str, weights: str) -> None:
    done = run(home, source, "--weights", weights)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "wrote m.onnx: " in done.stderr
    assert "exporter torchscript; agrees with onnxruntime and with the module (largest difference " in done.stderr
    assert ("dropping the prefix 'module.'" in done.stderr) == (weights == "checkpoint.pth")
    x = torch.rand(3, 1, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(GraphModule(read_onnx((home / "m.onnx").read_bytes()))(x), network()(x), rtol=1e-4, atol=1e-5)


def test_an_architecture_with_options(home: Path) -> None:
    done = run(home, "mlp", "--classes", "2", "--mean", "0.5", "--std", "0.25", "--class-names", "cat, dog", "--opset", "15")
    assert done.returncode == 0, done.stderr
    graph = read_onnx((home / "m.onnx").read_bytes())
    assert (graph.class_names, graph.opset, graph.operators[0].type) == (("cat", "dog"), 15, "Sub")


def test_an_architecture_takes_wrapped_weights_and_says_when_it_has_none(home: Path) -> None:
    weights = build("mlp", (1, 3, 3), 3).state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, home / "mlp.pth")
    for more, random in ((("--weights", "mlp.pth"), False), ((), True)):
        done = run(home, "mlp", "--classes", "3", *more)
        assert done.returncode == 0, done.stderr
        assert ("the weights are random" in done.stderr) == random


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("mine:nothing",), "no factory named 'nothing'; use one of make, Network"),
        (("absent:make",), "cannot import absent (ModuleNotFoundError"),
        (("mine:broken",), "broken fails (RuntimeError: no such file)"),
        (("mine:other",), "other returns a int, not a torch module"),
        (("resnet99",), "'resnet99' is neither a factory nor an architecture"),
        (("mlp",), "classes: is missing"),
        (("mine:make", "--arg", "width=5", "--weights", "w.safetensors"), "has another shape for 1.bias, 1.weight, 3.weight"),
        (("mine:make", "--arg", "width"), "'width' is not NAME=VALUE"),
        (("mine:make", "--weights", "whole.pt"), "neither safetensors nor a plain state dict; load it yourself"),
        (("mine:make", "--weights", "absent.safetensors"), "cannot read absent.safetensors"),
        (("mine:make", "--mean", "a"), "'a' is not a list of numbers"),
        (("mine:make", "--mean", "0.1,0.2"), "has 2 values for 1 channels"),
        (("mine:make", "--range", "3"), "'3' is not LOW,HIGH"),
        (("mine:make", "--opset", "3"), "is 3, not one of 7"),
        (("mine:make", "--classes", "3"), "is for architectures"),
        (("mlp", "--classes", "3", "--arg", "width=5"), "is an architecture and takes none"),
        (("script:make",), "cannot import script (SystemExit: 0); put its script under if __name__"),
        (("mine:make", "--surprise"), "unrecognized arguments"),
    ],
)
def test_bad_requests_are_one_sentence_and_write_nothing(home: Path, arguments: tuple[str, ...], says: str) -> None:
    done = run(home, *arguments)
    assert done.returncode == 4
    assert says in done.stderr
    assert done.stderr.startswith("assay: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (home / "m.onnx").exists()


def test_a_pickle_in_the_weights_runs_no_code(home: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(home / "marker"), "w")

    torch.save(Payload(), home / "evil.pt")
    assert run(home, "mine:make", "--weights", "evil.pt").returncode == 4
    assert not (home / "marker").exists()
