"""What runs in a thread beside the dispatcher: gates are judged, events sent and leftovers removed without holding up a lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from storage.database import Database
from workers import gates
from workers.outbox import Outbox
from workers.settings import WorkerSettings
from workers.tidy import Tidy

log = structlog.get_logger()
_POLL_SECONDS, _LONGEST_POLL_SECONDS, _AFTER_ERROR_SECONDS, _GRACE_SECONDS = 1.0, 30.0, 5.0, 5.0
_SHARE = 5  # where looking takes long, most of the time is left to others


@contextmanager
def beside(db: Database, settings: WorkerSettings) -> Iterator[None]:
    """Judge, send and tidy until the block ends. Every dispatcher does; the tables keep them apart."""
    stop = threading.Event()
    thread = threading.Thread(target=_loop, args=(db, settings, stop), name="gates and outbox", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_GRACE_SECONDS)


def _loop(db: Database, settings: WorkerSettings, stop: threading.Event) -> None:
    outbox = Outbox(db, settings.worker_name, private=settings.webhook_private)
    tidy = Tidy(db, settings.artifacts)
    pause = 0.0
    while not stop.wait(pause):
        started = time.monotonic()
        try:
            gates.step(db)
            outbox.step()
            tidy.step()
            pause = min(max(_POLL_SECONDS, _SHARE * (time.monotonic() - started)), _LONGEST_POLL_SECONDS)
        except Exception:
            # The database may come back; a thread that ends would leave every gate without an outcome.
            log.exception("step failed", action="step_failed")
            pause = _AFTER_ERROR_SECONDS
    outbox.close()
