"""Ledgers of certified regions: a job goes through one in a single transaction, once and whole or not at all.

What becomes of an example is decided by pure functions that are handed in (`certify.memory`); here is the order. Whoever holds the
ledger's row is alone with it, examples come in their order, and each sees the regions of those before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from certify.certificate import Certificate
from certify.regions import (
    Answering,
    Candidate,
    Resolution,
    Resolve,
    Rule,
    foretold,
    in_order,
    region_of,
    remembered,
    restated,
    withdrawn,
)
from certify.spec import MemoryPredictSpec
from certify.statement import Base
from storage import audit, results
from storage.database import Database, held, insert_once
from storage.errors import NotFound
from storage.ids import new_id
from storage.ledger_rows import near, region_values
from storage.records import Actor, JobState, ShardState
from storage.scoped import one, owned
from storage.tables import certificates, jobs, ledger_passes, ledgers, regions, shards


def apply(db: Database, tenant_id: str, job_id: str, certifier: int, rule: Rule, candidates: Iterable[Candidate], resolve: Resolve) -> bool:
    """Take one certifier of a job through its ledger: new regions, and the rows as the ledger leaves them, in one transaction.

    It is true when that was done now. It is false, and nothing is changed, when it was done before, when the job is not being finalised,
    or when not all of its shards are done: what is incomplete leaves no region, since the job that repeats it must find the ledger as
    this one did.

    Args:
        db: where.
        tenant_id: whose job it is.
        job_id: a job of which all rows are there.
        certifier: index in its spec.
        rule: of the ledger; it is made when it is not there.
        candidates: of the rows that have votes, in the order of the examples; read one at a time.
        resolve: decides what becomes of one beside the regions near it.
    """
    with db.begin() as connection:
        job = one(connection, jobs, tenant_id, job_id, lock=True)
        if job["state"] != JobState.FINALIZING or not _due(connection, tenant_id, job_id, certifier):
            return False
        now = db.now(connection)
        ledger = _hold(connection, tenant_id, job["model_digest"], rule, now)
        run = _Pass(connection, ledger, job_id, certifier, now, ledger["regions"], ledger["largest_reach"])
        rows = _rows(connection, tenant_id, job_id, certifier)
        for candidate in in_order(candidates):
            size, found = run.size, run.add(candidate, resolve)
            rows[candidate.example] = remembered(rows[candidate.example], found, ledger=ledger["id"], size=size)
        claimed = [restated(withdrawn(row, run.revoked), Base.MEMORY) for row in rows.values()]
        results.replace(connection, tenant_id, job_id, claimed)
        _raise(connection, ledger, regions=run.size, largest_reach=run.largest)
        passed = {"job_id": job_id, "certifier": certifier, "tenant_id": tenant_id, "ledger_id": ledger["id"], "created_at": now}
        connection.execute(sa.insert(ledger_passes).values(**passed, version=ledger["version"] + 1))
        return True


def foretell(
    db: Database, tenant_id: str, job_id: str, certifier: int, asked: MemoryPredictSpec, points: Iterable[Candidate], by: Answering
) -> None:
    """Let the ledger answer the predictions of a job whose inputs lie in its regions, in one transaction; rows it has answered stay.

    The regions of version `asked.version` answer, less those that were revoked since.

    Args:
        db: where.
        tenant_id: whose job it is.
        job_id: a job whose shards have ended.
        certifier: index in its spec.
        asked: names the ledger and its version.
        points: of the rows that have votes, each without an answer and with radius 0; read one at a time.
        by: picks the region that answers a point.
    """
    with db.begin() as connection:
        if one(connection, jobs, tenant_id, job_id, lock=True)["state"] not in (JobState.FINALIZING, JobState.CANCELLING):
            return
        rows = {
            n: row for n, row in _rows(connection, tenant_id, job_id, certifier).items() if row.statement.base is not Base.MEMORY_PREDICTION
        }
        here = one(connection, ledgers, tenant_id, asked.ledger)
        for point in points if rows else ():
            region = by(point.centre, near(connection, here, point, here["largest_reach"], asked.version))
            if point.example in rows:
                rows[point.example] = foretold(rows[point.example], region, ledger=here["id"], size=here["regions"])
        claimed = [restated(row, Base.MEMORY_PREDICTION) for row in rows.values()]
        results.replace(connection, tenant_id, job_id, claimed)


def revoke(db: Database, tenant_id: str, ledger_id: str, number: int, because: str, by: Actor = audit.SERVER) -> bool:
    """A region answers no more, and stays on record with the reason; false when it was revoked already.

    Raises:
        NotFound: there is no such ledger or region.
    """
    with db.begin() as connection:
        ledger = one(connection, ledgers, tenant_id, ledger_id, lock=True)
        if not 1 <= number <= ledger["regions"]:
            raise NotFound.at("region", f"ledger {ledger_id} has no region {number}", f"list them with GET /v1/ledgers/{ledger_id}/regions")
        if not _revoke(connection, ledger, number, because, db.now(connection), by):
            return False
        _raise(connection, ledger)
        return True


@dataclass
class _Pass:
    """A pass on its way. `size` is the number of the newest region, `largest` the largest reach of any."""

    connection: sa.Connection
    ledger: Any
    job_id: str
    certifier: int
    now: datetime
    size: int
    largest: float
    revoked: dict[int, str] = field(default_factory=dict)

    def add(self, candidate: Candidate, resolve: Resolve) -> Resolution:
        found = resolve(candidate, near(self.connection, self.ledger, candidate, self.largest))
        for region in found.revokes:
            _revoke(self.connection, self.ledger, region.number, found.reason, self.now, audit.SERVER)
            self.revoked[region.number] = found.reason
        if found.keeps:
            self._store(candidate, found)
        return found

    def _store(self, candidate: Candidate, found: Resolution) -> None:
        self.size, reach = self.size + 1, candidate.shadow.reach(found.radius)
        self.largest = max(self.largest, reach)
        kept = region_of(candidate, found, self.size, self.job_id, self.certifier)
        values = region_values(kept, candidate.shadow, reach)
        where = {"tenant_id": self.ledger["tenant_id"], "ledger_id": self.ledger["id"], "version": self.ledger["version"] + 1}
        self.connection.execute(sa.insert(regions).values(**where, **values, created_at=self.now))


def _due(connection: sa.Connection, tenant_id: str, job_id: str, certifier: int) -> bool:
    p = ledger_passes.c
    passed = sa.select(p.job_id).where(owned(ledger_passes, tenant_id) & (p.job_id == job_id) & (p.certifier == certifier))
    open_ = sa.select(shards.c.id).where(owned(shards, tenant_id) & (shards.c.job_id == job_id) & (shards.c.state != ShardState.DONE))
    return connection.execute(passed).first() is None and connection.execute(open_.limit(1)).first() is None


def _hold(connection: sa.Connection, tenant_id: str, model_digest: str, rule: Rule, now: datetime) -> Any:
    """The ledger's row, held until the transaction ends."""
    named = {"tenant_id": tenant_id, "model_digest": model_digest, "rule_digest": rule.digest()}
    fresh = {"id": new_id("ldg"), "rule": rule.text, "regions": 0, "version": 0, "largest_reach": 0.0, "created_at": now}
    insert_once(connection, ledgers, {**named, **fresh})
    same = (ledgers.c.model_digest == model_digest) & (ledgers.c.rule_digest == rule.digest())
    return connection.execute(held(sa.select(ledgers).where(owned(ledgers, tenant_id) & same))).mappings().one()


def _rows(connection: sa.Connection, tenant_id: str, job_id: str, certifier: int) -> dict[int, Certificate]:
    c = certificates.c
    mine = owned(certificates, tenant_id) & (c.job_id == job_id) & (c.certifier == certifier)
    found = connection.execute(sa.select(c.document).where(mine).order_by(c.example)).scalars()
    return {row.example: row for row in map(Certificate.model_validate_json, found)}


def _revoke(connection: sa.Connection, ledger: Any, number: int, because: str, now: datetime, by: Actor) -> bool:
    c = regions.c
    here = owned(regions, ledger["tenant_id"]) & (c.ledger_id == ledger["id"]) & (c.number == number) & c.revoked_at.is_(None)
    if connection.execute(sa.update(regions).where(here).values(revoked_at=now, revoked_because=because)).rowcount != 1:
        return False
    audit.record(connection, ledger["tenant_id"], by, "region.revoked", f"{ledger['id']}/{number}", now, {"reason": because})
    return True


def _raise(connection: sa.Connection, ledger: Any, **values: Any) -> None:
    mine = owned(ledgers, ledger["tenant_id"]) & (ledgers.c.id == ledger["id"])
    connection.execute(sa.update(ledgers).where(mine).values(version=ledger["version"] + 1, **values))
