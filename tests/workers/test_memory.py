"""A memory-hungry network degrades and finishes: every example is answered, and the process stays below its setting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from certify import Model
from certify.bounds.footprint import footprint
from certify.bounds.memory import needed
from tests.support.files import npz
from tests.support.layered import resnet
from tests.support.peaks import on_linux, watched
from workers.actor import CertifierActor
from workers.datasets import Dataset

pytestmark = on_linux
GIB = 2**30
SEARCH = {"kind": "bounds", "norm": "linf", "max_radius": 0.05, "tolerance": 0.2}
DECIDE = {"kind": "bounds", "norm": "linf"}


def certified(folder: Path, network: bytes, gib: float, examples: int, *certifiers: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """The peak of `assay certify` in bytes, and its certificates; examples are labelled as the network answers them."""
    model = Model.from_onnx(network)
    x = torch.rand((examples, *model.input_shape), generator=torch.Generator().manual_seed(0))
    y = torch.cat([model.module()(one.unsqueeze(0)).argmax(1) for one in x])
    paths = {name: folder / name for name in ("model", "data", "spec", "out")}
    paths["model"].write_bytes(network)
    paths["data"].write_bytes(npz(x.numpy(), y.numpy()))
    paths["spec"].write_text(json.dumps({"certifiers": certifiers}))
    command = [sys.executable, "-W", "ignore", "-m", "workers.local", "certify"]
    for name, path in paths.items():
        command += [f"--{name}", str(path)]
    code, peak, said = watched(command, ASSAY_MEMORY_GIB=str(gib))
    assert code in (0, 1, 2), said
    return peak, [json.loads(line) for line in paths["out"].read_text().splitlines()]


def check_all(found: list[dict[str, Any]], count: int) -> None:
    """Every example is answered, by a method that is named, and what is left open says what was left out."""
    assert [(row["certifier"], row["example"]) for row in found] == [(i, j) for i in range(2) for j in range(count)]
    for row in found:
        assert row["verdict"] in ("certified", "unknown")
        assert row["evidence"]["method"] in ("ibp", "crown-ibp")
        if row["verdict"] == "unknown" or row["certifier"] == 0:
            assert "crown and alpha-crown would need about" in row["reason"]
            assert "so crown-ibp was used" in row["reason"]
    assert sum(row["verdict"] == "certified" for row in found) > count


def test_a_hungry_network_in_one_gibibyte(tmp_path: Path) -> None:
    network = resnet(8, 20)
    assert needed(footprint(Model.from_onnx(network).graph), "crown") > GIB
    peak, found = certified(tmp_path, network, 1, 64, {**SEARCH, "method": "best"}, {**DECIDE, "method": "best", "epsilon": 1e-6})
    assert peak < GIB
    check_all(found, 64)


@pytest.mark.slow
def test_a_residual_network_for_cifar_in_four_gibibytes(tmp_path: Path) -> None:
    network = resnet(32, 32)
    assert needed(footprint(Model.from_onnx(network).graph), "crown") > 16 * 4 * GIB
    peak, found = certified(tmp_path, network, 4, 64, {**SEARCH, "method": "best"}, {**DECIDE, "method": "best", "epsilon": 1e-6})
    assert peak < 4 * GIB
    check_all(found, 64)


def test_a_method_that_just_fits_is_used_and_does_fit(tmp_path: Path) -> None:
    network = resnet(8, 12)
    gib = (needed(footprint(Model.from_onnx(network).graph), "crown") + 2**20) / GIB  # and the dataset
    # A ball so large that every neuron is unstable.
    peak, found = certified(tmp_path, network, gib, 1, {**DECIDE, "method": "crown", "epsilon": 0.5})
    assert peak < gib * GIB
    assert found[0]["evidence"]["method"] == "crown"


def test_a_worker_drops_what_others_left_when_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, data = CertifierActor(), Dataset(torch.zeros(3, 100), torch.zeros(3, dtype=torch.int64))
    monkeypatch.setattr("workers.actor._OTHERS", 1200)  # one of them
    for name in "abc":
        worker._make_room((name,))
        worker._kept(name, lambda: data)
    assert list(worker._cache) == ["b", "c"]
    worker._make_room(("b",))
    assert list(worker._cache) == ["b", "c"]


LIMITED = """
import json, resource, sys
import torch
from certify import Model
from tests.support.layered import resnet
from tests.support.peaks import answers
torch.set_num_threads(1)
model = Model.from_onnx(resnet(8, 10, blocks=2))
answers(model, 2**50, method="ibp", max_radius=0.01, tolerance=0.5)
taken = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (taken + 20 * 2**20,) * 2)
for certificate in answers(model, 2**50, count=2, method="crown", max_radius=0.01, tolerance=0.5):
    print(certificate.line())
"""


def test_a_method_that_really_finds_no_memory_is_given_up() -> None:
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", LIMITED], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert (row["verdict"], row["evidence"]["method"]) == ("certified", "crown-ibp")
        assert "crown ran out of memory, so crown-ibp was used." in row["reason"]
