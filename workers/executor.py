"""Where shards are computed. One protocol; here in this process, in `ray_executor` on Ray."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from certify.certificate import Certificate
from certify.errors import AssayError, Cancelled, Problem
from certify.findings import AttackResult
from certify.run import Progress
from storage.records import ShardLease
from workers.actor import CertifierActor

Fetch = Callable[[str], bytes]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a shard: its rows, or problems; `retry` when another try may succeed (the worker died, say)."""

    lease: ShardLease
    findings: list[Certificate | AttackResult] | None = None
    problems: tuple[Problem, ...] = ()
    cancelled: bool = False
    retry: bool = False


class Executor(Protocol):
    """Takes leased shards and answers each exactly once, whatever happens to the process that computes it."""

    device: str

    def free(self) -> int:
        """How many more shards can start now."""

    def submit(self, lease: ShardLease, fetch: Fetch) -> None:
        """Start a shard; `fetch` gets bytes by digest."""

    def progress(self, shard_id: str) -> Progress | None:
        """The newest word about a running shard."""

    def stop(self, shard_id: str) -> None:
        """Ask a shard to stop; it is ended by force after a grace period."""

    def answers(self, timeout: float) -> list[Answer]:
        """Shards that ended since the last call; waits up to `timeout` seconds for one."""

    def condition(self) -> str:
        """What the next shard waits for; empty when nothing."""

    def close(self) -> None:
        """End everything that was started."""


def needed(lease: ShardLease) -> tuple[str, ...]:
    """The files that an actor wants for a shard, in the order of its arguments."""
    others = lease.spec.certifiers[lease.certifier].other_models
    return lease.model_digest, lease.dataset_digest, *(other.digest for other in others)


def failure(lease: ShardLease, error: BaseException) -> Answer:
    """An exception of a shard as an answer. Errors of ours are final; anything else may be the machine's fault."""
    if isinstance(error, Cancelled):
        return Answer(lease=lease, cancelled=True)
    if isinstance(error, AssayError):
        return Answer(lease=lease, problems=error.problems)
    detail = f"the worker failed: {type(error).__name__}: {str(error)[:300]}"
    return Answer(
        lease=lease, problems=(Problem(field=f"certifiers.{lease.certifier}", detail=detail, mend="see the worker's log"),), retry=True
    )


class LocalExecutor:
    """One thread of this process, for tests and for machines without Ray."""

    device = "cpu"

    def __init__(self) -> None:
        self._actor = CertifierActor()
        self._answers: queue.Queue[Answer] = queue.Queue()
        self._running: dict[str, threading.Thread] = {}

    def free(self) -> int:
        return 0 if self._running else 1

    def submit(self, lease: ShardLease, fetch: Fetch) -> None:
        files = [fetch(digest) for digest in needed(lease)]
        thread = threading.Thread(target=self._work, args=(lease, *files), name=lease.id, daemon=True)
        self._running[lease.id] = thread
        thread.start()

    def progress(self, shard_id: str) -> Progress | None:
        return self._actor.progress() if shard_id in self._running else None

    def stop(self, shard_id: str) -> None:
        self._actor.stop(shard_id)

    def answers(self, timeout: float) -> list[Answer]:
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            return []
        self._running.pop(answer.lease.id).join()
        return [answer]

    def condition(self) -> str:
        return "" if self.free() else "waiting for a free worker"

    def close(self) -> None:
        for shard_id, thread in self._running.items():
            self._actor.stop(shard_id)
            thread.join(timeout=10)

    def _work(self, lease: ShardLease, *files: bytes) -> None:
        try:
            answer = Answer(lease=lease, findings=self._actor.certify(lease, *files))
        except Exception as error:
            answer = failure(lease, error)
        self._answers.put(answer)
