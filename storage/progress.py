"""How far a job is, counted from its shards when it is read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from certify.facts import DatasetFacts
from certify.spec import parse_spec
from storage.records import Progress, ShardState
from storage.scoped import one, owned
from storage.tables import attack_results, certificates, datasets, shards


def progress(connection: sa.Connection, row: Any, now: datetime, *, by_verdict: bool = False) -> Progress:
    """How far the job of that row is; what became of its rows, which takes a look at each, only where it is asked for."""
    size, done = shards.c.last - shards.c.first, shards.c.state == ShardState.DONE
    answered = sa.case((done, size), (shards.c.state == ShardState.LEASED, shards.c.examples_done), else_=0)
    query = sa.select(
        sa.func.sum(size),
        sa.func.sum(answered),
        sa.func.count(),
        sa.func.sum(sa.case((done, 1), else_=0)),
        sa.func.sum(shards.c.samples_done),
    )
    total, finished, count, ended, samples = connection.execute(
        query.where(owned(shards, row["tenant_id"]) & (shards.c.job_id == row["id"]))
    ).one()
    if not count:
        total = _expected(connection, row)
    elapsed = ((row["finished_at"] or now) - row["started_at"]).total_seconds() if row["started_at"] else 0.0
    rate = int(finished or 0) / elapsed if finished and elapsed > 0 else None
    left = int(total or 0) - int(finished or 0)
    return Progress(
        certificates_total=int(total or 0),
        certificates_done=int(finished or 0),
        shards_total=count,
        shards_done=int(ended or 0),
        samples_done=int(samples or 0),
        rate=rate,
        eta_seconds=left / rate if rate and row["finished_at"] is None else None,
        verdicts=_verdicts(connection, row) if by_verdict else {},
    )


def _verdicts(connection: sa.Connection, row: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for table, what in ((certificates, certificates.c.verdict), (attack_results, attack_results.c.found)):
        mine = owned(table, row["tenant_id"]) & (table.c.job_id == row["id"])
        for value, count in connection.execute(sa.select(what, sa.func.count()).where(mine).group_by(what).order_by(what)):
            counts[_name(value)] = count
    return counts


def _name(value: str | bool) -> str:
    if isinstance(value, str):
        return value
    return "attack found" if value else "no attack found"


def _expected(connection: sa.Connection, row: Any) -> int:
    """How many certificates a job will have that is not planned yet."""
    facts = one(connection, datasets, row["tenant_id"], row["dataset_id"])["facts"]
    spec = parse_spec(row["spec"])
    return len(spec.examples.indices(DatasetFacts.model_validate_json(facts).count)) * len(spec.certifiers)
