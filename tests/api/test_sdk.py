"""`Assay(url, key).certify(module, x, y, spec)`: from a torch module and arrays to arrays, against a real service."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from assay import Assay, ServiceError
from certify.arrays import to_npz
from certify.errors import InputError
from tests.support.server import Server

SPEC = [
    {"kind": "smoothing", "sigma": 0.5, "n0": 32, "n": 500, "alpha": 0.05, "sampling": "fixed"},
    {"kind": "bounds", "method": "crown-ibp", "norm": "linf", "max_radius": 0.5, "tolerance": 0.05},
]
X = np.random.default_rng(0).random((5, 1, 6, 6), dtype=np.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("service")
    server = Server(home)
    environment = {**os.environ, "ASSAY_HOME": str(home), "ASSAY_EXECUTOR": "local", "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen([sys.executable, "-m", "workers.dispatcher"], env=environment, stderr=(home / "worker.log").open("w"))
    yield server
    worker.terminate()
    worker.wait(30)
    server.kill()


@pytest.fixture(scope="module")
def assay(service: Server) -> Iterator[Assay]:
    with Assay(service.url, service.key) as client:
        yield client


def labels(module: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return module(torch.tensor(X)).argmax(1).numpy()


def test_from_a_module_and_arrays_to_arrays(assay: Assay, tmp_path: Path) -> None:
    module = network()
    y = labels(module)
    y[0] = (y[0] + 1) % 3
    run = assay.certify(module, X, y, SPEC, name="net", data_name="five", mean=[0.5], std=[0.25], range=(0.0, 1.0))
    assert len(run.rows) == 10
    radii = run.radii(1)
    assert radii.dtype == np.float64
    assert radii.shape == (5,)
    arrays = run.arrays(1)
    assert list(arrays["example"]) == [0, 1, 2, 3, 4]
    assert list(arrays["label"]) == list(y)
    assert set(arrays["verdict"]) <= {"certified", "unknown"}
    held = [row["correct"] and row["verdict"] == "certified" and row["radius"] >= 0.01 for row in run.rows if row["certifier"] == 1]
    assert run.certified_accuracy(0.01, 1) == sum(held) / 5
    curve = run.report["certifiers"][1]["curve"]
    assert all(run.certified_accuracy(point["radius"], 1) == point["certified_accuracy"] for point in curve)
    assert run.html(tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert run.gates() is not None

    again = assay.certify(module, X, y, SPEC, name="net", data_name="five", mean=[0.5], std=[0.25], range=(0.0, 1.0))
    assert again.id == run.id, "an unchanged question has one answer"


def test_torch_inputs_and_eight_bit_images_are_taken(assay: Assay) -> None:
    module = network()
    x = torch.tensor(X)
    run = assay.certify(
        module, x, torch.tensor(labels(module)), {"certifiers": SPEC[1:], "examples": {"stop": 2}}, name="net2", range=(0, 1)
    )
    assert len(run.radii(0)) == 2
    data = to_npz((X * 255).astype(np.uint8), [0, 1, 2, 0, 1])
    assert data == to_npz((X * 255).astype(np.uint8), [0, 1, 2, 0, 1]), "the same arrays are the same file"


def test_what_does_not_fit_is_said_before_anything_is_sent(assay: Assay) -> None:
    for x, y, field in ((X, [0, 1], "x"), (X, [0.5] * 5, "y"), (np.full((5, 2), np.nan), [0] * 5, "x")):
        with pytest.raises(InputError) as error:
            assay.certify(network(), x, y, SPEC)
        assert error.value.problems[0].field == field
    with pytest.raises(ServiceError, match="sigma"):
        assay.certify(network(), X, [0] * 5, [{"kind": "smoothing"}], name="net3")


def test_a_lost_connection_is_waited_out(assay: Assay, service: Server) -> None:
    module = network()
    slow = {"certifiers": [{**SPEC[0], "n": 60_000, "n0": 100}], "seed": 7}
    found = []
    waiting = threading.Thread(target=lambda: found.append(assay.certify(module, X, labels(module), slow, name="net4", range=(0, 1))))
    waiting.start()
    deadline = time.monotonic() + 60
    while not any(job["spec"]["seed"] == 7 for job in assay.get("/v1/jobs")["items"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    service.kill()
    time.sleep(2.0)
    service.start()
    waiting.join(120)
    assert len(found) == 1
    assert found[0].job["state"] == "succeeded"
    assert len(found[0].radii(0)) == 5


def test_as_a_table_where_pandas_is_installed(assay: Assay) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed: Run.frame is not tested")
    module = network()
    run = assay.certify(module, X, labels(module), SPEC, name="net5", range=(0, 1))
    frame = run.frame(1)
    assert list(frame["radius"]) == list(run.radii(1))
    assert len(run.frame()) == 10
