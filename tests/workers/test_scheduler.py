"""The scheduler as a process: it fires what is due, alone or beside others, and stops when asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from storage.database import Database
from storage.quotas import DEFAULT
from storage.records_schedules import RunState
from storage.settings import Settings
from storage.tables import schedules
from tests.support.nights import Nights, breaking
from tests.support.shop import SECRET, Shop
from workers import scheduler as module
from workers.scheduler import Scheduler


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    db = Database(Settings(home=tmp_path).database_url)
    db.migrate()
    return Shop.open(db, "acme")


def make_due(nights: Nights, hours: int = 2) -> None:
    with nights.shop.db.begin() as connection:
        connection.execute(sa.update(schedules).where(schedules.c.id == nights.id).values(next_at=nights.at(-hours)))


def start(home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "ASSAY_HOME": str(home), "ASSAY_SECRET": SECRET.hex()}
    command = [sys.executable, "-m", "workers.scheduler"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_runs(nights: Nights, count: int) -> None:
    deadline = time.monotonic() + 40
    while len(nights.history()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_fires_what_is_due_and_stops_when_asked(shop: Shop, tmp_path: Path) -> None:
    nights = Nights.of(shop)
    make_due(nights)
    processes = [start(tmp_path), start(tmp_path)]
    wait_for_runs(nights, 2)
    make_due(nights, hours=3)  # a tick that has no run, and two that have
    wait_for_runs(nights, 3)
    for process in processes:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # two at once must not deadlock
    told = ""
    for process in processes:
        output, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        told += output
    assert told.count("scheduler stopped") == 2
    assert told.count("action=tick") == 3
    assert sorted(nights.states()) == ["skipped", "skipped", "submitted"]


def test_a_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "ASSAY_HOME": str(tmp_path), "ASSAY_SECRET": "short"}
    done = subprocess.run([sys.executable, "-m", "workers.scheduler"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert done.stderr.startswith("assay: ASSAY_SECRET: ")


def test_it_never_loads_what_computes() -> None:
    code = "import sys, workers.scheduler; print([name for name in ('torch', 'ray', 'numpy', 'scipy', 'onnx') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.strip() == "[]"


def test_a_step_that_fails_is_followed_by_another(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights.of(shop)
    make_due(nights)
    monkeypatch.setattr(module, "_AFTER_ERROR_SECONDS", 0.01)
    scheduler, looks = Scheduler(shop.db, SECRET, DEFAULT), 0
    real = module.firing.fire_due

    def stopping() -> bool:
        nonlocal looks
        looks += 1
        monkeypatch.setattr(module.firing, "fire_due", breaking("the database is away") if looks < 4 else real)
        return looks > 12 or bool(nights.history())

    scheduler.run(stopping)
    assert RunState.SUBMITTED in {run.state for run in nights.history()}


def test_it_looks_at_once_when_a_tick_is_near(shop: Shop) -> None:
    scheduler = Scheduler(shop.db, SECRET, DEFAULT)
    assert scheduler._pause() == 1.0
    nights = Nights.of(shop)
    assert scheduler._pause() == 1.0
    make_due(nights)
    assert scheduler._pause() == 0.1
