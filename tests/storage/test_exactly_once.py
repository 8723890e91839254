"""Four worker processes on one job, one killed with -9 and one stalled beyond its lease: every certificate exactly once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter

from storage import results
from storage.database import Database
from storage.records import JobState
from tests.support.shop import Shop

SHARDS, SIZE, TTL = 40, 5, 1.5


def start(url: str, name: str, mischief: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.storage.worker_process", url, name, str(TTL), mischief]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_every_certificate_exactly_once(empty_url: str) -> None:
    db = Database(empty_url)
    db.migrate()
    shop = Shop.open(db, "acme", count=SHARDS * SIZE)
    job = shop.planned(parts=SHARDS, size=SIZE)

    stalled, doomed = start(empty_url, "stalled", "stall"), start(empty_url, "doomed", "die-holding")
    assert first_line(stalled) == "stalled"
    assert first_line(doomed) == "holding"
    doomed.kill()
    doomed.wait()
    others = [start(empty_url, f"worker{i}") for i in range(2)]
    deadline = time.monotonic() + 40
    while shop.job(job.id).state is not JobState.FINALIZING and time.monotonic() < deadline:
        time.sleep(0.1)
        others += [start(empty_url, "later")] if all(process.poll() is not None for process in others) else []
    for process in (stalled, *others):
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors

    stored = list(results.iter_certificates(db, shop.tenant, job.id))
    assert Counter(certificate.example for certificate in stored) == Counter(range(SHARDS * SIZE))
    assert shop.job(job.id).state is JobState.FINALIZING
    by = Counter(certificate.provenance.device for certificate in stored)
    assert sum(by.values()) == SHARDS * SIZE
    db.close()


def test_the_stalled_worker_is_fenced(empty_url: str) -> None:
    db = Database(empty_url)
    db.migrate()
    shop = Shop.open(db, "acme", count=SIZE)
    job = shop.planned(parts=1, size=SIZE)
    stalled = start(empty_url, "stalled", "stall")
    assert first_line(stalled) == "stalled"
    time.sleep(TTL)
    quick = start(empty_url, "quick")
    assert quick.wait(timeout=30) == 0
    output, errors = stalled.communicate(timeout=30)
    assert "fenced" in output, errors
    stored = list(results.iter_certificates(db, shop.tenant, job.id))
    assert [certificate.provenance.device for certificate in stored] == ["quick"] * SIZE
    db.close()
