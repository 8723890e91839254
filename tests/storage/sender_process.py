"""A sender in a process of its own: URL of the database, and `die` to be killed between sending and noting it."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from storage import webhooks
from storage.database import Database
from workers import outbox


def main(url: str, mischief: str = "") -> None:
    db = Database(url)
    if mischief == "die":

        def killed(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        webhooks.finish_delivery = killed
        outbox._LEASE_SECONDS = 1.0
    sender = outbox.Outbox(db, f"sender {os.getpid()}", private=True)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        sender.step()
        time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
