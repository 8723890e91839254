"""What nobody will come back for: parts of uploads, answers to requests, claims of processes that died."""

from __future__ import annotations

import time

import structlog

from storage.artifacts import Artifacts
from storage.database import Database
from storage.idempotency import drop_old_answers
from storage.uploads import drop_stale_uploads

log = structlog.get_logger()
EVERY_SECONDS = 600.0


class Tidy:
    """Every dispatcher tidies; to do it twice changes nothing."""

    def __init__(self, db: Database, artifacts: str) -> None:
        self._db, self._artifacts, self._next = db, artifacts, 0.0

    def step(self) -> None:
        """Every ten minutes, and at the start."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_SECONDS
        uploads, answers = drop_stale_uploads(self._db, Artifacts(self._artifacts)), drop_old_answers(self._db)
        if uploads or answers:
            log.info("tidied", action="tidied", uploads=uploads, answers=answers)
