"""Peaks of memory, measured in processes of their own: `python -m tests.support.peaks NETWORK METHOD` bounds one example."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from certify import Examples, Model, certify
from certify.bounds.footprint import footprint
from certify.bounds.memory import needed
from certify.bounds.rows import in_parts
from certify.certificate import BoundsEvidence, Certificate
from certify.spec import parse_spec
from tests.support.layered import Layered, resnet
from tests.support.onnx_models import mlp
from tests.support.runs import run_for

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")

NETWORKS: dict[str, Callable[[], bytes]] = {
    "cnn": lambda: Layered(16).conv(8).conv(8).conv(16, stride=2).classes(),
    "small cnn": lambda: Layered(12).conv(4).conv(4).conv(8, stride=2).classes(),
    "large kernels": lambda: Layered(16).conv(8, kernel=7).conv(8, kernel=7).classes(),
    "resnet": lambda: resnet(8, 12),
    "large resnet": lambda: resnet(8, 16),
    "small resnet": lambda: resnet(4, 12),
    "max pooling": lambda: Layered(24).conv(8).pool(2, 2, 0).conv(16).pool(2, 2, 0).classes(),
    "overlapping max pooling": lambda: Layered(12).conv(6).pool(3, 2, 1).conv(8).everywhere("GlobalMaxPool").classes(),
    "average pooling": lambda: Layered(16).conv(8).pool(2, 2, 0, "AveragePool").conv(16, kind="LeakyRelu").classes(),
    "clipped": lambda: Layered(12).conv(8, kind="").clip().conv(8, kind="").clip().classes(),
    "one matrix": lambda: Layered(8).conv(8).transposed(8).classes(),
    "sigmoids": lambda: Layered(16).conv(8, kind="Sigmoid").conv(8, kind="Tanh").classes(),
    "fully connected": lambda: mlp([784, 1024, 1024, 1024, 10]),
    "wide": lambda: mlp([784, 4096, 2048, 10]),
    "tanh": lambda: mlp([784, 256, 256, 256, 10], activation="Tanh"),
}


class Peak(NamedTuple):
    """In bytes: the most that a process ever held, and what was estimated; `method` is the one that answered."""

    seen: int
    estimated: int
    method: str


def peak_of(network: str, method: str) -> Peak:
    """That of a process that bounds one example of a network by a method, all neurons unstable: by name, or the path of a file."""
    found = _run([sys.executable, "-W", "ignore", "-m", "tests.support.peaks", network, method])
    return Peak(**json.loads(found.stdout.splitlines()[-1]))


def answers(model: Model, memory: int, count: int = 1, **entry: object) -> list[Certificate]:
    """Certificates of random inputs, labelled as the model answers them, in `memory` bytes."""
    spec = parse_spec({"certifiers": [{"kind": "bounds", "norm": "linf", **entry}]})
    x = torch.rand((count, *model.input_shape), generator=torch.Generator().manual_seed(1))
    run = run_for(spec, model, count)
    plan = run.plan.model_copy(update={"memory": memory})
    examples = Examples(tuple(range(count)), x, torch.cat([model.module()(one.unsqueeze(0)).argmax(1) for one in x]))
    found = certify(model, examples, spec, replace(run, plan=plan))
    return [certificate for certificate in found if isinstance(certificate, Certificate)]


def watched(command: Sequence[str], **more: str) -> tuple[int, int, str]:
    """Exit code of a command, the most that it and its children ever held (the sum of their peaks, in bytes), and what it said."""
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **more}, stderr=subprocess.PIPE, text=True)
    peaks: dict[int, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for pid in _family(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), high_water(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = process.communicate()[1]
    ended.set()
    watcher.join()
    return process.returncode, sum(peaks.values()), said


def high_water(pid: int | str = "self") -> int:
    """The most that a process has held so far, in bytes; 0 for one that is gone."""
    return _status(pid, "VmHWM")


def resident() -> int:
    """What this process holds, in bytes."""
    return _status("self", "VmRSS")


def _status(pid: int | str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def _family(pid: int) -> list[int]:
    try:
        children = [child for tasks in Path(f"/proc/{pid}/task").iterdir() for child in (tasks / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(one for child in children for one in _family(int(child)))]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)


def _measure(network: str, method: str) -> Peak:
    torch.set_num_threads(1)
    model = Model.from_onnx(NETWORKS[network]() if network in NETWORKS else Path(network).read_bytes())
    estimated = needed(footprint(model.graph), method)
    # Optimised slopes grow no further after the third step.
    (found,) = answers(model, 2**50, method=method, epsilon=5.0, iterations=3 if method == "alpha-crown" else None)
    assert isinstance(found.evidence, BoundsEvidence)
    assert importlib.import_module("auto_LiRPA.operators.convolution").F.conv_transpose2d is in_parts
    return Peak(high_water(), estimated, found.evidence.method)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(sys.argv[1], sys.argv[2])._asdict()) + "\n")
