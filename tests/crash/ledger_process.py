"""Jobs that race for one ledger and are killed: `python -m tests.crash.ledger_process race URL JOBS` and `... statements URL JOB`.

`race` forks eight processes, each of which takes all jobs through the ledger in an order of its own; half of them are killed at random
moments, and what they left is taken up by the others. With a third argument the rules are broken as it says. `statements` takes one job
through the ledger in child processes, of which the n-th kills itself after its n-th statement.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from certify import memory
from certify.memory import resolve
from certify.regions import Candidate, Region, Resolution, Resolve
from storage import ledger
from storage.database import Database
from storage.errors import Busy
from tests.support.ledgers import rule
from tests.support.regions import crowd

_RIVALS = 8


def asked_by(number: int) -> list[Candidate]:
    """The candidates of the n-th job: all jobs crowd the same few dimensions."""
    return crowd(100 + number, 24, dimension=4)


def few() -> list[Candidate]:
    return asked_by(0)[:5]


def race(url: str, jobs: str, mischief: str = "") -> None:
    waiting, rng = json.loads(jobs), random.Random(11)
    children = [_rival(url, waiting, seed, mischief) for seed in range(_RIVALS)]
    for child in children[: _RIVALS // 2]:
        time.sleep(rng.uniform(0.02, 0.2))
        os.kill(child, signal.SIGKILL)
    ended = [os.waitpid(child, 0)[1] for child in children]
    sys.stdout.write(json.dumps([status == signal.SIGKILL for status in ended]))
    sys.exit(int(any(status not in (0, signal.SIGKILL) for status in ended)))


def _rival(url: str, waiting: list[Any], seed: int, mischief: str) -> int:
    child = os.fork()
    if child:
        return child
    db, rng = Database(url), random.Random(seed)
    if mischief == "no lock":
        ledger.held = lambda statement: statement  # type: ignore[attr-defined]
    order = list(enumerate(waiting))
    rng.shuffle(order)
    for number, (tenant, job) in order:
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            try:
                ledger.apply(db, tenant, job, 0, rule(), asked_by(number), _how(mischief))
                break
            except Busy:  # a dead client's lock
                time.sleep(0.05)
    os._exit(0)


def _how(mischief: str) -> Resolve:
    if mischief == "no shrinking":
        return lambda one, near: (
            Resolution(how="unanswered") if one.answer is None else Resolution(how="stored", answer=one.answer, radius=one.radius)
        )
    if mischief == "blind":  # as if others' regions could not be seen yet
        return lambda one, near: resolve(one, [region for region in near if region.example < one.example and _own(region, one)])
    return slow


def _own(region: Region, one: Candidate) -> bool:
    return abs(region.example - one.example) < 2


def slow(one: Candidate, near: Sequence[Region]) -> Resolution:
    """The rules, with time enough to be killed in between."""
    time.sleep(0.001)
    return memory.resolve(one, near)


def statements(url: str, tenant: str, job: str) -> None:
    number, ended = 0, False
    while not ended:
        number += 1
        child = os.fork()
        if child == 0:
            _die_at(url, tenant, job, number)
        ended = os.waitpid(child, 0)[1] == 0
        sys.stdout.write(f"{'ended' if ended else 'died'} {_counted(url)}\n")


def _die_at(url: str, tenant: str, job: str, number: int) -> None:
    db, left = Database(url), [number]

    @sa.event.listens_for(db.engine, "after_cursor_execute")
    @sa.event.listens_for(db.engine, "commit")
    def _count(*_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    ledger.apply(db, tenant, job, 0, rule(), few(), resolve)
    os._exit(0)


def _counted(url: str) -> str:
    db = Database(url)
    with db.read() as connection:
        stored = [int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()) for table in ("regions", "ledger_passes")]
        turned = connection.exec_driver_sql("SELECT count(*) FROM certificates WHERE statement = 'S2-memory'").scalar_one()
    db.close()
    return f"{stored[0]} {stored[1]} {turned}"


if __name__ == "__main__":
    {"race": race, "statements": statements}[sys.argv[1]](*sys.argv[2:])
