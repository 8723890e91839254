"""Uploads are inspected one at a time, in a thread that keeps their lease alive, and what is found is stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import structlog

from certify.errors import Cancelled, DatasetRejected, ModelRejected
from certify.text import printable
from storage import catalog
from storage.artifacts import Artifacts
from storage.database import Database
from storage.errors import LostLease
from storage.records import InspectionLease
from workers.sandbox import Uninspected, inspect
from workers.settings import WorkerSettings
from workers.versions import reader

log = structlog.get_logger()


class Inspections:
    """Those of one dispatcher. A lease that is not kept alive ends after `lease_seconds`, and another dispatcher takes over."""

    def __init__(self, db: Database, artifacts: Artifacts, settings: WorkerSettings, should_stop: Callable[[], bool]) -> None:
        self._db = db
        self._artifacts = artifacts
        self._settings = settings
        self._should_stop = should_stop
        self._reader = reader()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inspector")
        self._at_work: Future[None] | None = None

    def reopen(self) -> None:
        """What another version of the reader has rejected waits for this one."""
        found = catalog.reopen_rejected(self._db, self._reader)
        if found:
            log.info("rejected by another reader, inspected again", action="reopened", count=found)

    def step(self) -> None:
        """Begin the next one, unless one is under way."""
        if self._at_work is not None:
            if not self._at_work.done():
                return
            ended, self._at_work = self._at_work, None
            ended.result()  # what could not be stored is raised here; its lease ends by itself
        lease = catalog.lease_inspection(self._db, self._settings.worker_name, self._settings.lease_seconds)
        if lease is not None:
            self._at_work = self._pool.submit(self._inspect, lease)

    def close(self) -> None:
        """Give back what is under way; it has been told to stop."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _inspect(self, lease: InspectionLease) -> None:
        with self._alive(lease) as lost:
            try:
                self._conclude(lease, lost)
            except LostLease:
                log.warning("inspection was taken over", action="inspection_lost", id=lease.id)

    def _conclude(self, lease: InspectionLease, lost: threading.Event) -> None:
        try:
            with self._artifacts.open(lease.blob) as file:
                facts = inspect(lease, file, self._settings.inspect_seconds, lambda: self._should_stop() or lost.is_set())
            catalog.finish_inspection(self._db, lease, facts, self._reader)
            log.info("inspected", action="inspected", kind=lease.kind, id=lease.id)
        except Cancelled:
            catalog.release_inspection(self._db, lease)
        except LostLease:
            raise
        except (ModelRejected, DatasetRejected) as error:
            catalog.reject(self._db, lease, error.problems, self._reader)
            log.info("rejected", action="rejected", kind=lease.kind, id=lease.id, reason=str(error))
        except Uninspected as error:
            catalog.put_off(self._db, lease, str(error))
            log.warning("not inspected", action="not_inspected", kind=lease.kind, id=lease.id, reason=str(error))
        except Exception as error:
            catalog.put_off(self._db, lease, printable(f"{type(error).__name__}: {error}", 300))
            log.exception("not inspected", action="not_inspected", kind=lease.kind, id=lease.id)

    @contextmanager
    def _alive(self, lease: InspectionLease) -> Iterator[threading.Event]:
        """Heartbeats until the block ends; the event is set when the lease is lost."""
        done = threading.Event()
        lost = threading.Event()

        def beat() -> None:
            while not done.wait(self._settings.lease_seconds / 4):
                try:
                    catalog.keep_inspection(self._db, lease, self._settings.lease_seconds)
                except LostLease:
                    lost.set()
                    return
                except Exception:
                    log.exception("heartbeat failed", action="inspection_heartbeat_failed", id=lease.id)

        thread = threading.Thread(target=beat, name=f"heartbeat-{lease.id}", daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            done.set()
            thread.join()
