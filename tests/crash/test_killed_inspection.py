"""kill -9 of a dispatcher that inspects: its reader ends with it, and another takes over as soon as the lease has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage import catalog
from storage.records import ArtifactState
from tests.support.workplace import Workplace, dataset, turn, wait
from workers.executor import LocalExecutor

ROOT = Path(__file__).parents[2]
SLOW = """
import sys, time
if "workers.inspector" in sys.orig_argv:
    import workers.datasets
    workers.datasets.read_dataset = lambda data: time.sleep(60)
"""


def readers(dispatcher: int) -> list[int]:
    found = [task.read_text().split() for task in Path(f"/proc/{dispatcher}/task").glob("*/children")]
    return [int(pid) for pids in found for pid in pids if b"workers.inspector" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_another_dispatcher_takes_over_an_inspection(tmp_path: Path) -> None:
    place = Workplace.make(tmp_path / "home", lease_seconds=2.0)
    found = catalog.register_dataset(place.db, place.tenant, name="d", blob=place.blob(dataset(5)))
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    environment = {**os.environ, **place.environment, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    first = subprocess.Popen([sys.executable, "-m", "workers.dispatcher"], env=environment, stderr=subprocess.DEVNULL)
    wait(lambda: bool(readers(first.pid)), 60)
    reader = readers(first.pid)[0]
    time.sleep(5.0)  # longer than the lease: it lives by its heartbeats
    assert catalog.lease_inspection(place.db, "thief", 60) is None
    first.kill()
    first.wait()
    killed = time.monotonic()
    wait(lambda: not Path(f"/proc/{reader}/stat").exists() or Path(f"/proc/{reader}/stat").read_text().split()[2] == "Z", 5)

    executor = LocalExecutor()
    turn(place.dispatcher(executor), lambda: catalog.get_dataset(place.db, place.tenant, found.id).state is ArtifactState.READY, 60)
    executor.close()
    assert time.monotonic() - killed < 30
