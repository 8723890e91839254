"""Kill -9 at work: the shard is done again with the same streams, and the certificates are those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.records import JobState
from tests.support.files import SPEC
from tests.support.service import Service, drive, plain
from workers.executor import LocalExecutor
from workers.ray_executor import RayExecutor, ray
from workers.settings import WorkerSettings

LONG: dict[str, Any] = {
    **SPEC,
    "certifiers": [{"kind": "smoothing", "sigma": 0.2, "n": 150_000, "sampling": "fixed"}, SPEC["certifiers"][1]],
}


@pytest.fixture(scope="module")
def ray_executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayExecutor]:
    executor = RayExecutor(WorkerSettings(home=tmp_path_factory.mktemp("ray"), actors=2, grace_seconds=1.0))
    yield executor
    executor.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    service, executor = Service(tmp_path_factory.mktemp("undisturbed")), LocalExecutor()
    dispatcher = service.dispatcher(executor)
    ids = service.upload()
    service.inspected(dispatcher, *ids)
    job = service.submit(*ids, LONG)
    drive(dispatcher, lambda: service.job(job).state.ended)
    executor.close()
    return plain(service.certificates(job))


def test_a_killed_actor_changes_nothing(tmp_path: Path, ray_executor: RayExecutor, undisturbed: list[str]) -> None:
    service = Service(tmp_path)
    dispatcher = service.dispatcher(ray_executor)
    ids = service.upload()
    service.inspected(dispatcher, *ids)
    job = service.submit(*ids, LONG)

    def sampling() -> list[str]:
        running = [slot.lease.id for slot in ray_executor._slots if slot.lease is not None and slot.lease.certifier == 0]
        return [shard for shard in running if (found := ray_executor.progress(shard)) is not None and found.samples > 0]

    drive(dispatcher, lambda: bool(sampling()))
    victim = ray_executor._slot(sampling()[0])
    assert victim is not None
    os.kill(ray.get(victim.actor.pid.remote()), signal.SIGKILL)
    drive(dispatcher, lambda: service.job(job).state.ended)
    assert service.job(job).state is JobState.SUCCEEDED
    assert plain(service.certificates(job)) == undisturbed


def test_a_cancelled_job_stops_its_actors(tmp_path: Path, ray_executor: RayExecutor) -> None:
    from storage import jobs

    service = Service(tmp_path)
    dispatcher = service.dispatcher(ray_executor)
    ids = service.upload()
    service.inspected(dispatcher, *ids)
    job = service.submit(*ids, {**SPEC, "certifiers": [{"kind": "smoothing", "sigma": 0.2, "n": 9_000_000, "sampling": "fixed"}]})
    drive(dispatcher, lambda: service.job(job).progress.samples_done > 0)
    jobs.request_cancel(service.db, service.tenant, job.id)
    drive(dispatcher, lambda: service.job(job).state.ended, seconds=30)
    assert service.job(job).state is JobState.CANCELLED
    assert service.certificates(job) == []


def test_a_killed_dispatcher_is_followed_by_another(tmp_path: Path, undisturbed: list[str]) -> None:
    service, executor = Service(tmp_path), LocalExecutor()
    dispatcher = service.dispatcher(executor)
    ids = service.upload()
    service.inspected(dispatcher, *ids)
    job = service.submit(*ids, LONG)
    environment = {**os.environ, "ASSAY_HOME": str(tmp_path), "ASSAY_EXECUTOR": "local", "ASSAY_LEASE_SECONDS": "2"}
    process = subprocess.Popen([sys.executable, "-m", "workers.dispatcher"], env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while service.job(job).progress.samples_done == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not service.job(job).state.ended
    drive(dispatcher, lambda: service.job(job).state.ended)
    executor.close()
    assert service.job(job).state is JobState.SUCCEEDED
    assert plain(service.certificates(job)) == undisturbed


def test_a_stopped_dispatcher_gives_its_shards_back(tmp_path: Path) -> None:
    service, executor = Service(tmp_path), LocalExecutor()
    dispatcher = service.dispatcher(executor)
    ids = service.upload()
    service.inspected(dispatcher, *ids)
    job = service.submit(*ids, {**SPEC, "certifiers": [{"kind": "smoothing", "sigma": 0.2, "n": 9_000_000, "sampling": "fixed"}]})
    executor.close()
    environment = {**os.environ, "ASSAY_HOME": str(tmp_path), "ASSAY_EXECUTOR": "local", "ASSAY_LEASE_SECONDS": "600"}
    process = subprocess.Popen([sys.executable, "-m", "workers.dispatcher"], env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while service.job(job).progress.samples_done == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    process.terminate()
    assert process.wait(timeout=20) == 0
    from storage import shards

    lease = shards.lease_shard(service.db, "next", 5.0)
    assert lease is not None
    assert lease.attempts == 1
