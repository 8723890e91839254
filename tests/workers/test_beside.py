"""The thread beside the dispatcher: it judges and sends, survives errors, and ends with the block."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from storage import gates, webhooks
from storage.database import Database
from storage.gates import create_gate
from tests.support.gated import RADIUS, answered
from tests.support.pairs import rules
from tests.support.receiver import receiver
from tests.support.shop import Shop
from workers import beside
from workers.settings import WorkerSettings


def test_a_gate_is_judged_and_told_even_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database(f"sqlite:///{tmp_path}/assay.db")
    db.migrate()
    shop = Shop.open(db, "acme")
    job = answered(shop, shop.submit(), [True] * 8)
    gate = create_gate(
        db, shop.tenant, name="g", rules=rules({"kind": "certified-accuracy", "radius": RADIUS, "at_least": 0.5}), job_id=job.id
    )
    monkeypatch.setattr(beside, "_AFTER_ERROR_SECONDS", 0.05)
    honest, failed = gates.due_gates, threading.Event()

    def fails_once(*arguments: Database) -> object:
        if not failed.is_set():
            failed.set()
            raise RuntimeError
        return honest(*arguments)

    monkeypatch.setattr(gates, "due_gates", fails_once)
    with receiver() as there:
        webhooks.create_webhook(db, shop.tenant, url=there.url, events=["gate.passed"], private=True)
        with beside.beside(db, WorkerSettings(home=tmp_path, webhook_private=True)):
            there.wait(1)
        assert gate.id in there.received[0].body.decode()
    deadline = time.monotonic() + 10
    while any(thread.name == "gates and outbox" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    db.close()
