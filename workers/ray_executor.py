"""Shards on Ray: one actor per GPU, or per core. Ray computes; attempts, leases and truth are in our tables.

A control group gives each actor a second thread that only answers `progress` and `stop`; all computing stays on the one thread of the
default group, which is what CUDA wants. A dead actor is replaced by a new one, and its shard is answered as `retry`.
"""

from __future__ import annotations

# isort: off
import workers.ray_environment  # noqa: F401  (before ray, which reads the environment once)
# isort: on

import os
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from certify.run import Progress
from storage.records import ShardLease
from workers.actor import CertifierActor
from workers.executor import Answer, Fetch, failure, needed
from workers.ray_folder import RayFolder, sweep
from workers.settings import WorkerSettings

_OBJECT_STORE = 128 * 2**20
_KEPT_OBJECTS = 4


class RayActor:
    """`CertifierActor` as a Ray actor."""

    def __init__(self, device: str) -> None:
        self._actor = CertifierActor(device)

    def certify(self, lease: ShardLease, model: bytes, dataset: bytes, *others: bytes) -> Any:
        return self._actor.certify(lease, model, dataset, *others)

    @ray.method(concurrency_group="control")
    def progress(self) -> Progress:
        return self._actor.progress()

    @ray.method(concurrency_group="control")
    def stop(self, shard_id: str) -> None:
        self._actor.stop(shard_id)

    @ray.method(concurrency_group="control")
    def pid(self) -> int:
        return os.getpid()


# Attempts are counted in our tables alone, so Ray restarts and retries nothing by itself.
_REMOTE: Any = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"control": 1})(RayActor)  # type: ignore[call-overload]


def _resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


@dataclass
class _Slot:
    """One actor and what it is doing."""

    actor: Any
    lease: ShardLease | None = None
    result: Any = None
    asked: Any = None
    progress: Progress | None = None
    kill_at: float | None = None


@dataclass
class _Objects:
    """Uploaded bytes in Ray's object store, once for each digest."""

    kept: OrderedDict[str, Any] = field(default_factory=OrderedDict)

    def get(self, digest: str, fetch: Fetch) -> Any:
        if digest not in self.kept:
            self.kept[digest] = ray.put(fetch(digest))
            while len(self.kept) > _KEPT_OBJECTS:
                self.kept.popitem(last=False)
        self.kept.move_to_end(digest)
        return self.kept[digest]


class RayExecutor:
    """Starts a local Ray, or joins the cluster at `ray_address`, and keeps one actor for each device."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._folder: RayFolder | None = None
        self._objects = _Objects()
        self._connect()

    def free(self) -> int:
        return sum(slot.lease is None for slot in self._slots)

    def submit(self, lease: ShardLease, fetch: Fetch) -> None:
        slot = next(slot for slot in self._slots if slot.lease is None)
        # Before the slot is taken: files may be missing, and then nothing runs in it.
        slot.result = slot.actor.certify.remote(lease, *(self._objects.get(digest, fetch) for digest in needed(lease)))
        slot.lease, slot.progress, slot.kill_at, slot.asked = lease, None, None, None

    def progress(self, shard_id: str) -> Progress | None:
        slot = self._slot(shard_id)
        if slot is None:
            return None
        if slot.asked is not None and ray.wait([slot.asked], timeout=0)[0]:
            try:
                slot.progress = ray.get(slot.asked)
            except RayError:
                return slot.progress  # the actor died; its shard will be answered as such
            slot.asked = None
        if slot.asked is None:
            slot.asked = slot.actor.progress.remote()
        return slot.progress

    def stop(self, shard_id: str) -> None:
        slot = self._slot(shard_id)
        if slot is not None and slot.kill_at is None:
            slot.actor.stop.remote(shard_id)
            slot.kill_at = time.monotonic() + self._settings.grace_seconds

    def answers(self, timeout: float) -> list[Answer]:
        busy = [slot for slot in self._slots if slot.lease is not None]
        if not busy:
            time.sleep(timeout)
            return []
        if not ray.is_initialized():
            return self._reconnect(busy)
        done, _ = ray.wait([slot.result for slot in busy], num_returns=1, timeout=timeout)
        answers = [self._answer(slot) for slot in busy if slot.result in done]
        return answers + [self._killed(slot) for slot in busy if slot.kill_at is not None and time.monotonic() > slot.kill_at]

    def condition(self) -> str:
        if self.device == "cuda" and not _resources().get("GPU"):
            return "waiting for a GPU to join the cluster"
        return "" if self.free() else "waiting for a free worker"

    def close(self) -> None:
        for slot in self._slots:
            ray.kill(slot.actor)
        ray.shutdown()
        if self._folder is not None:
            self._folder.remove()

    def _connect(self) -> None:
        if self._settings.ray_address:
            ray.init(address=self._settings.ray_address, log_to_driver=False, configure_logging=False)
        else:
            self._start()
        resources = _resources()
        self.device = "cuda" if resources.get("GPU") else "cpu"
        most = int(resources.get("GPU") or resources.get("CPU") or 1)
        count = min(self._settings.actors or most, most)  # more would wait for ever
        self._slots = [_Slot(self._actor()) for _ in range(count)]

    def _start(self) -> None:
        # Users of one machine do not meet in it, and nothing stays behind.
        sweep()
        if self._folder is not None:
            self._folder.remove()
        self._folder = RayFolder()
        ray.init(
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=_OBJECT_STORE,
            _temp_dir=self._folder.path,
            _node_ip_address=self._settings.ray_bind,
        )

    def _actor(self) -> Any:
        options = {"num_gpus": 1} if self.device == "cuda" else {"num_cpus": 1}
        return _REMOTE.options(**options).remote(self.device)

    def _slot(self, shard_id: str) -> _Slot | None:
        return next((slot for slot in self._slots if slot.lease is not None and slot.lease.id == shard_id), None)

    def _answer(self, slot: _Slot) -> Answer:
        lease = slot.lease
        assert lease is not None
        slot.lease = None
        try:
            return Answer(lease=lease, findings=ray.get(slot.result))
        except RayTaskError as error:
            return failure(lease, error.cause if isinstance(error.cause, Exception) else error)
        except RayError as error:  # the actor is gone
            slot.actor = self._actor()
            return Answer(lease=lease, cancelled=True) if slot.kill_at is not None else failure(lease, error)

    def _killed(self, slot: _Slot) -> Answer:
        lease = slot.lease
        assert lease is not None
        ray.kill(slot.actor)
        slot.actor, slot.lease = self._actor(), None
        return Answer(lease=lease, cancelled=True)

    def _reconnect(self, busy: list[_Slot]) -> list[Answer]:
        lost = [failure(slot.lease, ConnectionError("the Ray cluster is gone")) for slot in busy if slot.lease is not None]
        self._objects = _Objects()
        self._connect()
        return lost
