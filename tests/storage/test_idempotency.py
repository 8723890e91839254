"""One key, one request: claimed once, kept while its process lives, answered from the store for a day."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from storage import idempotency, tenants
from storage.database import Database
from storage.guard import guard
from storage.idempotency import Claim, KeyReused, StillRunning, StoredAnswer
from storage.tables import idempotency as table

ANSWER = StoredAnswer(status=202, headers=(("location", "/v1/jobs/job_x"), ("content-type", "application/json")), body='{"ä": 1}')


@pytest.fixture
def tenant(db: Database) -> str:
    guard(db)
    return tenants.ensure_tenant(db, "acme").id


def claimed(db: Database, tenant: str, key: str = "k", request: str = "a") -> Claim:
    found = idempotency.claim(db, tenant, key, request)
    assert isinstance(found, Claim)
    return found


def age(db: Database, by: timedelta, tenant: str) -> None:
    with db.begin() as connection:
        connection.execute(sa.update(table).where(table.c.tenant_id == tenant).values(created_at=db.now(connection) - by))


def test_the_first_answer_is_the_answer(db: Database, tenant: str) -> None:
    mine = claimed(db, tenant)
    with pytest.raises(StillRunning):
        idempotency.claim(db, tenant, "k", "a")
    idempotency.keep_answer(db, mine, ANSWER)
    assert idempotency.claim(db, tenant, "k", "a") == ANSWER
    with pytest.raises(KeyReused):
        idempotency.claim(db, tenant, "k", "b")
    other = tenants.ensure_tenant(db, "other").id
    assert isinstance(idempotency.claim(db, other, "k", "b"), Claim)


def test_a_key_given_back_is_free(db: Database, tenant: str) -> None:
    idempotency.give_back(db, claimed(db, tenant))
    claimed(db, tenant, request="b")


def test_a_process_that_was_killed_frees_its_key_after_a_minute(db: Database, empty_url: str, tenant: str) -> None:
    code = (
        "import sys, time; from storage.database import Database; from storage.idempotency import claim\n"
        "claim(Database(sys.argv[1]), sys.argv[2], 'k', 'a'); print('claimed', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, empty_url, tenant], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    age(db, idempotency.DEAD_AFTER - timedelta(seconds=5), tenant)
    with pytest.raises(StillRunning):
        idempotency.claim(db, tenant, "k", "a")
    age(db, idempotency.DEAD_AFTER + timedelta(seconds=1), tenant)
    claimed(db, tenant, request="another request, for the first had no answer")


def test_who_comes_late_changes_nothing(db: Database, tenant: str) -> None:
    """A process that stood still for more than a minute has lost its claim, and does not overwrite what came after."""
    slow = claimed(db, tenant)
    age(db, idempotency.DEAD_AFTER + timedelta(seconds=1), tenant)
    quick = claimed(db, tenant)
    assert idempotency.renew(db, slow) == slow
    idempotency.keep_answer(db, slow, StoredAnswer(status=200, headers=(), body="of the slow one"))
    idempotency.give_back(db, slow)
    idempotency.keep_answer(db, quick, ANSWER)
    assert idempotency.claim(db, tenant, "k", "a") == ANSWER


def test_a_renewed_claim_is_not_taken(db: Database, tenant: str) -> None:
    mine = claimed(db, tenant)
    age(db, timedelta(0), tenant)  # another moment than the claim's
    assert idempotency.renew(db, mine) == mine
    with db.read() as connection:
        at = connection.execute(sa.select(table.c.created_at).where(table.c.tenant_id == tenant)).scalar_one()
    renewed = idempotency.renew(db, Claim(tenant_id=tenant, key="k", at=at))
    assert renewed.at > at
    idempotency.keep_answer(db, renewed, ANSWER)
    assert idempotency.claim(db, tenant, "k", "a") == ANSWER


def test_of_many_at_once_one_claims(db: Database, tenant: str) -> None:
    got: list[object] = []

    def attempt() -> None:
        try:
            got.append(idempotency.claim(db, tenant, "k", "a"))
        except StillRunning as error:
            got.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(found, Claim) for found in got) == 1
    assert len(got) == 8


def test_answers_are_kept_for_a_day(db: Database, tenant: str) -> None:
    idempotency.keep_answer(db, claimed(db, tenant), ANSWER)
    claimed(db, tenant, "another")
    assert idempotency.drop_old_answers(db) == 0
    age(db, idempotency.KEPT - timedelta(minutes=1), tenant)
    assert idempotency.drop_old_answers(db) == 1  # the claim that nobody renewed
    age(db, idempotency.KEPT + timedelta(minutes=1), tenant)
    claimed(db, tenant, request="b")  # too old even before it is swept
    age(db, idempotency.KEPT + timedelta(minutes=1), tenant)
    assert idempotency.drop_old_answers(db) == 1
