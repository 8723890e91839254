"""A worker as its own process, for tests that kill it: `python -m tests.storage.worker_process URL NAME TTL [die-holding|stall]`."""

from __future__ import annotations

import sys
import time

from storage import shards
from storage.database import Database
from storage.errors import LostLease
from tests.support.shop import answers


def say(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def main(url: str, name: str, ttl: str, mischief: str = "") -> None:
    db = Database(url)
    while (lease := shards.lease_shard(db, name, float(ttl))) is not None:
        if mischief == "die-holding" and lease.ix >= 4:
            say("holding")
            time.sleep(600)  # the test ends this process with SIGKILL
        if mischief == "stall":
            mischief = ""
            say("stalled")
            time.sleep(3 * float(ttl))
        try:
            shards.finish_shard(db, lease, answers(lease, device=name))
        except LostLease:
            say("fenced")
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
