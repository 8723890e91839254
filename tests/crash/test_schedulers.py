"""Schedulers that race for the same ticks and are killed with -9: exactly one run for each tick, one job for each run that submitted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timedelta

import sqlalchemy as sa

from storage.database import Database
from storage.firing import fire_due
from storage.records_schedules import CatchUp, Overlap, RunState
from storage.tables import jobs, schedules
from tests.support.nights import Nights, template
from tests.support.shop import SECRET, Shop

SCHEDULES, MINUTES = 3, 20
RUN = [sys.executable, "-m", "tests.crash.scheduler_process"]


def test_killed_at_any_statement_it_leaves_both_run_and_job_or_neither(empty_url: str) -> None:
    db = Database(empty_url)
    db.migrate()
    nights = Nights.of(Shop.open(db, "acme"))
    told = subprocess.run([*RUN, "statements", empty_url, nights.first.isoformat()], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    before = lines.index(next(line for line in lines if line.endswith(" 1 1")))
    assert before > 12  # it was killed at every one of its statements
    assert set(lines[:before]) == {"died 0 0"}
    assert set(lines[before:]) <= {"died 1 1", "ended 1 1"}
    assert lines[-1] == "ended 1 1"
    (run,) = nights.history()
    assert run.state is RunState.SUBMITTED
    db.close()


def test_one_run_and_one_job_for_each_tick_however_many_race_and_die(empty_url: str) -> None:
    db = Database(empty_url)
    db.migrate()
    shop, options = Shop.open(db, "acme"), {"cron": "* * * * *", "catch_up": CatchUp.ALL, "overlap": Overlap.ALLOW}
    made = [Nights.of(shop, name=f"s{i}", asks=template(shop, seed=i), **options) for i in range(SCHEDULES)]
    first = max(nights.first for nights in made)
    with db.begin() as connection:  # a minute may have passed between them
        connection.execute(sa.update(schedules).values(next_at=first))
    told = subprocess.run([*RUN, "race", empty_url, first.isoformat(), str(MINUTES)], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert len(set(told.stdout.split())) > 4  # killed ones were followed by others
    end, deadline = first + timedelta(minutes=MINUTES - 1), time.monotonic() + 30
    while behind(db, end):  # a server may hold a dead client's lock for a moment
        fire_due(db, SECRET, now=end)
        assert time.monotonic() < deadline

    expected = [first + timedelta(minutes=n) for n in range(MINUTES)]
    submitted = []
    for nights in made:
        history = nights.history()
        assert [run.scheduled_for for run in history] == expected
        assert {run.state for run in history} <= {RunState.SUBMITTED, RunState.REUSED}
        submitted += [run.job_id for run in history if run.state is RunState.SUBMITTED]
    assert len(submitted) > len(expected)  # most ticks needed a job of their own
    assert set(Counter(submitted).values()) == {1}
    with db.read() as connection:
        assert set(connection.execute(sa.select(jobs.c.id)).scalars()) == set(submitted)
    db.close()


def behind(db: Database, end: datetime) -> bool:
    with db.read() as connection:
        return connection.execute(sa.select(schedules.c.id).where(schedules.c.next_at <= end)).first() is not None
