"""The clock of the service: `python -m workers.scheduler` fires schedules when their ticks come.

Everything it knows is in the tables. Any number may run, and each may be killed at any step: `storage/firing.py` keeps them apart.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType

import structlog

from certify.errors import AssayError
from storage import firing
from storage.database import Database
from storage.logs import configure
from storage.private import private_service
from storage.quotas import Quota
from workers.settings import WorkerSettings

log = structlog.get_logger()

_LOOK_SECONDS, _AFTER_ERROR_SECONDS, _SLICE_SECONDS = 1.0, 2.0, 0.1


class Scheduler:
    """Looks at least once a second, since a schedule may be added, resumed or free to start at any time."""

    def __init__(self, db: Database, secret: bytes, quota: Quota) -> None:
        self.db, self.secret, self.quota = db, secret, quota

    def run(self, stopping: Callable[[], bool]) -> None:
        """Fire until `stopping` answers true."""
        log.info("scheduler started", action="start")
        while not stopping():
            try:
                self.step()
                pause = self._pause()
            except Exception:
                # The database may come back; a loop that ends would miss every tick.
                log.exception("step failed", action="step_failed")
                pause = _AFTER_ERROR_SECONDS
            _sleep(pause, stopping)
        log.info("scheduler stopped", action="stop")

    def step(self) -> None:
        """One look at what is due."""
        for run in firing.fire_due(self.db, self.secret, quota=self.quota):
            log.info(
                "tick decided",
                action="tick",
                schedule=run.schedule_id,
                tick=run.scheduled_for.isoformat(),
                state=run.state,
                job=run.job_id,
                reason=run.reason,
            )

    def _pause(self) -> float:
        following = firing.next_due(self.db)
        ahead = _LOOK_SECONDS if following is None else (following - datetime.now(UTC)).total_seconds()
        return min(max(ahead, _SLICE_SECONDS), _LOOK_SECONDS)


def _sleep(seconds: float, stopping: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not stopping() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _SLICE_SECONDS))


def main() -> None:
    """Run until SIGTERM or Ctrl-C."""
    configure()
    settings = WorkerSettings.load()
    private_service(settings.home)
    db = Database(settings.database_url)
    db.migrate()
    # A list, not an Event: two signals close together would deadlock on the Event's lock.
    signals: list[int] = []

    def _stop(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    Scheduler(db, settings.secret, settings.quota).run(lambda: bool(signals))
    db.close()


if __name__ == "__main__":
    try:
        main()
    except AssayError as error:  # a wrong setting, say
        sys.stderr.write(f"assay: {error}\n")
        sys.exit(4)
