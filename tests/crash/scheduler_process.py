"""Schedulers that are killed: `python -m tests.crash.scheduler_process race URL FIRST MINUTES` and `... statements URL NOW`.

`race` runs four schedulers on one clock that starts at FIRST and goes on by a minute whenever they have decided what was due. At every
second minute one of them is killed while it is at work, and another takes its place. `statements` fires one tick again and again in
child processes, of which the n-th kills itself after its n-th statement. Children are forked, so that they are at work at once.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import time
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from storage import jobs
from storage.database import Database
from storage.firing import fire_due
from storage.tables import jobs as jobs_table
from storage.tables import schedule_runs
from tests.support.shop import SECRET

_RIVALS, _SCHEDULES = 4, 3


def race(url: str, first: str, minutes: str) -> None:
    clock, rng, decided = mmap.mmap(-1, 8), random.Random(6), 0
    told, tell = os.pipe()
    os.set_blocking(told, False)
    rivals = [_rival(url, first, clock, tell) for _ in range(_RIVALS)]
    for minute in range(int(minutes)):
        clock[:8] = minute.to_bytes(8, "little")
        if minute % 2:
            time.sleep(rng.uniform(0.0, 0.05))
            place = rng.randrange(_RIVALS)
            _kill(rivals[place])
            rivals[place] = _rival(url, first, clock, tell)
        end = time.monotonic() + 1.0  # what a killed one decided, it may not have told
        while decided < _SCHEDULES * (minute + 1) and time.monotonic() < end:
            decided += _read(told)
            time.sleep(0.005)
        decided = _SCHEDULES * (minute + 1)
    for rival in rivals:
        _kill(rival)


def _rival(url: str, first: str, clock: mmap.mmap, tell: int) -> int:
    child = os.fork()
    if child:
        return child
    db = Database(url)
    while True:
        minute = int.from_bytes(clock[:8], "little")
        for run in fire_due(db, SECRET, now=datetime.fromisoformat(first) + timedelta(minutes=minute)):
            os.write(tell, b".")
            sys.stdout.write(f"{os.getpid()}\n")
            sys.stdout.flush()
            if run.job_id is not None:
                jobs.request_cancel(db, run.tenant_id, run.job_id)  # so that the next tick needs a job of its own
        time.sleep(0.005)


def _read(pipe: int) -> int:
    try:
        return len(os.read(pipe, 1000))
    except BlockingIOError:
        return 0


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def statements(url: str, now: str) -> None:
    number, ended = 0, False
    while not ended:
        number += 1
        child = os.fork()
        if child == 0:
            _die_at(url, datetime.fromisoformat(now), number)
        ended = os.waitpid(child, 0)[1] == 0
        runs, made = _counted(url)
        sys.stdout.write(f"{'ended' if ended else 'died'} {runs} {made}\n")


def _die_at(url: str, now: datetime, number: int) -> None:
    db, left = Database(url), [number]

    @sa.event.listens_for(db.engine, "after_cursor_execute")
    @sa.event.listens_for(db.engine, "commit")
    def _count(*_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    give_up = time.monotonic() + 20
    while not fire_due(db, SECRET, now=now) and _counted(url) == (0, 0):  # a server may hold a dead client's lock for a moment
        assert time.monotonic() < give_up
        time.sleep(0.01)
    os._exit(0)


def _counted(url: str) -> tuple[int, int]:
    db = Database(url)
    with db.read() as connection:
        found = [
            int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()) for table in (schedule_runs, jobs_table)
        ]
    db.close()
    return found[0], found[1]


if __name__ == "__main__":
    {"race": race, "statements": statements}[sys.argv[1]](*sys.argv[2:])
