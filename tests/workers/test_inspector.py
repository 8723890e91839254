"""The inspection of uploaded bytes: in a real process, with its real limits."""

from __future__ import annotations

import io
import os
import resource
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from certify import Model
from certify.errors import Cancelled, ModelRejected
from certify.facts import DatasetFacts, ModelFacts
from storage.records import InspectionLease
from tests.support import workplace
from tests.support.onnx_models import linear_model, mlp, small_cnn
from tests.support.sandboxed import inspected, never
from workers.agreement import check_agreement
from workers.sandbox import Uninspected, inspect

ROOT = Path(__file__).parents[2]
PAIR = (np.eye(3, dtype=np.float32), np.zeros(3, dtype=np.float32))


def lease(kind: Any = "model", value_range: tuple[float, float] | None = (0.0, 1.0)) -> InspectionLease:
    return InspectionLease(kind=kind, id="x", blob="0" * 64, value_range=value_range, epoch=1)


def test_a_model_and_a_dataset_get_their_facts() -> None:
    model = inspected(lease(value_range=(-1.0, 1.0)), small_cnn(mean=0.5), 120, never)
    assert isinstance(model, ModelFacts)
    assert (model.input_shape, model.classes) == ((1, 8, 8), 4)
    assert {(row.kind, row.method, row.norm) for row in model.support if row.supported} >= {
        ("smoothing", None, "l2"),
        ("bounds", "crown", "linf"),
    }
    data = inspected(lease("dataset", None), workplace.dataset(5), 120, never)
    assert isinstance(data, DatasetFacts)
    assert data.count == 5


def test_bad_bytes_are_refused_with_the_readers_own_words() -> None:
    with pytest.raises(ModelRejected, match="ONNX"):
        inspected(lease(), b"not a model", 120, never)


def slowed(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Python processes that are started from here on run the code first."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))


def large(mib: int) -> tuple[bytes, int]:
    """A dataset of so many MiB that does not compress, and its rows."""
    rows = mib * 2**20 // 4096
    x = np.random.default_rng(0).random((rows, 1024), dtype=np.float32)
    file = io.BytesIO()
    np.savez(file, x=x, y=np.zeros(rows, np.int64))
    return file.getvalue(), rows


def test_a_reader_that_starts_late_gets_every_byte(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slowed(monkeypatch, tmp_path, "import time; time.sleep(1.0)")
    data, rows = large(64)
    facts = inspected(lease("dataset", None), data)
    assert isinstance(facts, DatasetFacts)
    assert facts.count == rows


@pytest.mark.slow
@pytest.mark.parametrize("mib", [400, 1024])
def test_a_large_dataset_is_read_in_memory_that_is_a_small_multiple_of_it(mib: int, tmp_path: Path) -> None:
    rows = mib * 2**20 // 4096
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(rows, 1024))
    x[:] = np.random.default_rng(0).random(1024, dtype=np.float32)
    x.flush()
    np.save(tmp_path / "y.npy", np.zeros(rows, np.int64))
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
        archive.write(tmp_path / "y.npy", "y.npy")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with (tmp_path / "d.npz").open("rb", buffering=0) as file:
        facts = inspect(lease("dataset", None), file, 300)
    assert isinstance(facts, DatasetFacts)
    assert facts.count == rows
    peak = max(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, before) * 1024
    assert peak < 2**30 + 2.5 * mib * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_reader_that_does_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slowed(monkeypatch, tmp_path, "import time; time.sleep(60)")
    with pytest.raises(Uninspected, match=r"did nothing for 1 s"):
        inspected(lease(), mlp([4, 3]), idle=1)
    assert not children()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_waiting_for_the_machine_is_no_computing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One second of computing is allowed, and two of waiting pass."""
    slowed(monkeypatch, tmp_path, "import time; time.sleep(2)")
    with pytest.raises(ModelRejected, match="ONNX"):
        inspected(lease(), b"not a model", seconds=1)


def test_computing_without_end_is_the_readers_and_no_rejection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slowed(monkeypatch, tmp_path, "import certify.graph.proto as proto\ndef parse(data):\n    while True: pass\nproto.parse = parse")
    with pytest.raises(Uninspected, match="more than 1 s of computing"):
        inspected(lease(), mlp([4, 3]), seconds=1)
    assert not children()


def test_a_reader_that_fails_says_nothing_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slowed(monkeypatch, tmp_path, "import certify.graph.proto as proto\ndef parse(data): raise RuntimeError('a bug')\nproto.parse = parse")
    with pytest.raises(Uninspected, match="a bug"):
        inspected(lease(), mlp([4, 3]))


@pytest.mark.parametrize("error", ["MemoryError()", "RuntimeError('DefaultCPUAllocator: cannot allocate memory')"])
def test_what_passes_the_limit_of_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str) -> None:
    slowed(monkeypatch, tmp_path, f"import certify.graph.proto as proto\ndef parse(data): raise {error}\nproto.parse = parse")
    with pytest.raises(ModelRejected, match=r"more than the 6\.0 GiB of memory"):
        inspected(lease(), mlp([4, 3]))


def test_a_stopping_dispatcher_does_not_wait_for_it() -> None:
    with pytest.raises(Cancelled):
        inspected(lease(), mlp([4, 3]), 120, lambda: True)
    assert not children()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_inspection_says_nothing_of_the_file() -> None:
    with inspecting() as (outcome, pid):
        os.kill(pid, 9)
    assert isinstance(outcome[0], Uninspected)
    assert "ended by SIGKILL" in str(outcome[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_has_limits_and_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_SECRET", "00" * 32)
    monkeypatch.setenv("ASSAY_DATABASE_URL", "postgresql+psycopg://user:password@host/db")
    with inspecting() as (_, pid):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        workplace.wait(lambda: limits(pid)["Max address space"] != "unlimited", 10)
        workplace.wait(lambda: limits(pid)["Max core file size"] == "0", 10)
        assert limits(pid)["Max file size"] == "0"
        assert os.getsid(pid) == pid != os.getsid(0)
        os.kill(pid, 9)
    assert b"ASSAY" not in environment
    assert b"password" not in environment


def test_a_reading_that_onnxruntime_does_not_share_is_refused() -> None:
    ours, theirs = linear_model(*PAIR), linear_model(PAIR[0] + np.float32(0.001), PAIR[1])
    check_agreement(Model.from_onnx(ours), ours)
    with pytest.raises(ModelRejected, match="onnxruntime"):
        check_agreement(Model.from_onnx(ours), theirs)


class Leaking(Model):
    """Right for every row alone, but a row sees the mean of its batch."""

    def module(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
        honest = super().module(device, dtype)
        return lambda x: honest(x) + 1e-2 * (x - x.mean(dim=0))


def test_a_row_that_depends_on_its_neighbours_is_refused() -> None:
    data = linear_model(*PAIR)
    with pytest.raises(ModelRejected, match="among other inputs"):
        check_agreement(Leaking.from_onnx(data, (0.0, 1.0)), data)


def limits(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return {name: soft for name, soft, _, _ in (line.rsplit(None, 3) for line in lines if line.endswith("bytes     "))}


def children() -> list[int]:
    if sys.platform != "linux":
        return []
    found = [task.read_text().split() for task in Path("/proc/self/task").glob("*/children")]
    return [int(pid) for pids in found for pid in pids if b"workers.inspector" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@contextmanager
def inspecting() -> Iterator[tuple[list[Any], int]]:
    """An inspection under way in another thread, and its process."""
    outcome: list[Any] = []

    def look() -> None:
        try:
            outcome.append(inspected(lease(), mlp([4, 3]), 120, never))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    workplace.wait(lambda: bool(children()), 10)
    yield outcome, children()[0]
    thread.join(timeout=60)
    assert not thread.is_alive()
