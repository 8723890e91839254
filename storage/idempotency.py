"""Requests that may be sent twice and happen once: each names itself with a key, and the answer to the first is the answer to all.

The key is claimed before the request is carried out. A claim is renewed while its request runs, so one that stands still for a minute
is that of a process that died, and its key is free again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from storage.database import Database, held, insert_once
from storage.errors import Conflict
from storage.scoped import everyones, owned
from storage.tables import idempotency

KEPT = timedelta(hours=24)
DEAD_AFTER = timedelta(seconds=60)
RENEW_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to carry a request out. `at` fences: who took the key over wrote another moment."""

    tenant_id: str
    key: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """What the first request was answered. `body` is None when it held a secret, which is not kept."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str | None


class KeyReused(Exception):
    """Another request has used the key."""


class StillRunning(Conflict):
    """The first request with this key is not answered yet."""

    code = "still-running"


def claim(db: Database, tenant_id: str, key: str, request_sha256: str) -> Claim | StoredAnswer:
    """The right to carry a request out, or the answer that it got before.

    Raises:
        KeyReused: the key came with another request.
        StillRunning: the same request is being carried out.
    """
    with db.begin() as connection:
        now = db.now(connection)
        fresh = {"request_sha256": request_sha256, "status": None, "headers": None, "body": None, "created_at": now}
        mine = Claim(tenant_id=tenant_id, key=key, at=now)
        if insert_once(connection, idempotency, {"tenant_id": tenant_id, "key": key, **fresh}):
            return mine
        row = connection.execute(held(sa.select(idempotency).where(_of(tenant_id, key)))).mappings().first()
        if row is None:  # given back between the two statements
            raise StillRunning.at("Idempotency-Key", "is being given back", "try again")
        if now - row["created_at"] > (DEAD_AFTER if row["status"] is None else KEPT):
            connection.execute(sa.update(idempotency).where(_of(tenant_id, key)).values(fresh))
            return mine
        if row["request_sha256"] != request_sha256:
            raise KeyReused
        if row["status"] is None:
            raise StillRunning.at("Idempotency-Key", "belongs to a request that is still being carried out", "wait for it")
        headers = tuple((name, value) for name, value in json.loads(row["headers"]))
        return StoredAnswer(status=row["status"], headers=headers, body=row["body"])


def renew(db: Database, claimed: Claim) -> Claim:
    """The same claim for another minute; unchanged when it was lost."""
    with db.begin() as connection:
        now = db.now(connection)
        kept = connection.execute(sa.update(idempotency).where(_held_by(claimed)).values(created_at=now)).rowcount
    return Claim(tenant_id=claimed.tenant_id, key=claimed.key, at=now) if kept else claimed


def keep_answer(db: Database, claimed: Claim, found: StoredAnswer) -> None:
    """Store the answer for a day; nothing when the claim was lost."""
    with db.begin() as connection:
        values = {"status": found.status, "headers": json.dumps(found.headers), "body": found.body, "created_at": db.now(connection)}
        connection.execute(sa.update(idempotency).where(_held_by(claimed)).values(values))


def give_back(db: Database, claimed: Claim) -> None:
    """The request had no effect: its key is free for another."""
    with db.begin() as connection:
        connection.execute(sa.delete(idempotency).where(_held_by(claimed)))


def drop_old_answers(db: Database) -> int:
    """Forget answers after a day, and claims of the dead; how many."""
    with db.begin() as connection:
        now = db.now(connection)
        dead = idempotency.c.status.is_(None) & (idempotency.c.created_at < now - DEAD_AFTER)
        return connection.execute(everyones(sa.delete(idempotency).where(dead | (idempotency.c.created_at < now - KEPT)))).rowcount


def _of(tenant_id: str, key: str) -> sa.ColumnElement[bool]:
    return owned(idempotency, tenant_id) & (idempotency.c.key == key)


def _held_by(claimed: Claim) -> sa.ColumnElement[bool]:
    return _of(claimed.tenant_id, claimed.key) & idempotency.c.status.is_(None) & (idempotency.c.created_at == claimed.at)
