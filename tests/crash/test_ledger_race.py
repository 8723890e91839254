"""Eight processes take jobs through one ledger, half of them killed with -9: no two regions that answer differently share a point."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

from certify.regions import Region
from storage.database import Database
from tests.crash.ledger_process import asked_by, few
from tests.support.ledgers import Books
from tests.support.regions import in_conflict

JOBS = 10
RUN = [sys.executable, "-m", "tests.crash.ledger_process"]


def raced(url: str, mischief: str = "") -> tuple[list[bool], int, Books, dict[str, list[str]]]:
    """Who was killed, the exit code, the books, and the statements of the rows by job."""
    db = Database(url)
    db.migrate()
    books = Books.open(db)
    made = [books.sampled(asked_by(number), seed=number) for number in range(JOBS)]
    waiting = json.dumps([(books.shop.tenant, job.id) for job in made])
    told = subprocess.run([*RUN, "race", url, waiting, mischief], capture_output=True, text=True, timeout=400)
    assert told.stdout, told.stderr
    statements = {job.id: [str(row.statement) for row in books.rows(job)] for job in made}
    return json.loads(told.stdout), told.returncode, books, statements


def closed(books: Books) -> list[Region]:
    found = books.regions()
    books.close()
    books.shop.db.close()
    return found


def test_no_two_regions_disagree_however_many_race_and_die(empty_url: str) -> None:
    killed, code, books, statements = raced(empty_url)
    assert code == 0
    assert sum(killed) >= 3  # one may have been done before its turn came
    now = books.ledger()
    regions = closed(books)
    assert in_conflict(regions) == []
    # Every job went through whole, once; its rows and its regions tell the same.
    assert {name for rows in statements.values() for name in rows} == {"S2-memory"}
    assert now.version == JOBS
    assert [region.number for region in regions] == list(range(1, now.regions + 1))
    assert max(Counter((region.job, region.example) for region in regions).values()) == 1
    assert len({region.answer for region in regions}) == 3
    # Passes are not mixed: the regions of one job stand together.
    order = [region.job for region in regions]
    assert len([1 for one, other in pairwise(order) if one != other]) == len(set(order)) - 1


def test_killed_at_any_statement_it_is_there_whole_or_not_at_all(empty_url: str) -> None:
    db = Database(empty_url)
    db.migrate()
    books = Books.open(db)
    job = books.sampled(few())
    told = subprocess.run([*RUN, "statements", empty_url, books.shop.tenant, job.id], capture_output=True, text=True, timeout=400)
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    regions = len(closed(books))
    nothing, everything = "0 0 0", f"{regions} 1 {len(few())}"
    assert regions > 1
    states = [line.partition(" ")[2] for line in lines]
    assert states.count(nothing) > 12  # it was killed at every one of its statements
    assert states == [nothing] * states.count(nothing) + [everything] * states.count(everything)
    assert lines[-1] == f"ended {everything}"


@pytest.mark.slow
@pytest.mark.parametrize("mischief", ["no shrinking", "blind"])
def test_the_test_sees_broken_rules(empty_url: str, mischief: str) -> None:
    """The negative control: balls that are stored as they came, and passes that do not see the regions of others."""
    _, _, books, _ = raced(empty_url, mischief)
    assert in_conflict(closed(books))


@pytest.mark.slow
def test_without_the_lock_passes_collide(empty_url: str) -> None:
    """On PostgreSQL two passes then number their regions alike and one of them fails; SQLite has one writer at a time in any case."""
    _, code, books, _ = raced(empty_url, "no lock")
    assert in_conflict(closed(books)) == []  # the key of a region is the second safeguard
    assert code == (0 if empty_url.startswith("sqlite") else 1)
