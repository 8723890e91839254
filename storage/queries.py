"""Certificates across jobs, by what was asked of which model, dataset and input. Rows are picked, never combined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from certify.certificate import Certificate
from certify.comparison import Side
from certify.report import partial_words
from certify.statement import Base, Statement
from storage import cursors
from storage.database import Database
from storage.gate_inputs import side
from storage.progress import progress
from storage.records import JobState, Page
from storage.scoped import one, owned
from storage.tables import certificates, datasets, jobs, models

_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What rows must have; None for anything. `model` and `dataset` are ids of versions: jobs on the same bytes count, whoever uploaded
    them under which name. Radii are in raw-input units of the row's norm; a radius counts from `radius_min` on, that included.
    """

    model: str | None = None
    dataset: str | None = None
    job: str | None = None
    example: int | None = None
    example_digest: str | None = None
    kind: str | None = None
    statement: Statement | None = None
    norm: str | None = None
    verdict: str | None = None
    correct: bool | None = None
    radius_min: float | None = None
    radius_max: float | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """A certificate and the job that made it. `partial` is empty when the job succeeded, else what it is called, with its numbers."""

    job: str
    model: str
    dataset: str
    partial: str
    certificate: Certificate


def find_certificates(db: Database, tenant_id: str, wanted: Filter, *, limit: int, cursor: str | None = None) -> Page[Found]:
    """Certificates of all jobs, newest job first, then by certifier and example.

    Raises:
        NotFound: there is no such model, dataset or job.
        InputError: the limit or the cursor cannot be used.
    """
    behind = None if cursor is None else cursors.decode(cursor, "certificates", str, int, int)
    with db.read() as connection:
        query = _query(tenant_id, _conditions(connection, tenant_id, wanted))
        rows = connection.execute(_page(query, behind, cursors.checked(limit) + 1)).all()
        found = _found(db, connection, tenant_id, rows[:limit])
    last = rows[limit - 1] if len(rows) > limit else None
    following = None if last is None else cursors.encode("certificates", last.job_id, last.certifier, last.example)
    return Page(items=tuple(found), next_cursor=following)


def iter_found(db: Database, tenant_id: str, wanted: Filter) -> Iterator[Found]:
    """All of them, streamed in that order; no transaction stays open between two.

    Raises:
        NotFound: at once, not with the first row.
    """
    with db.read() as connection:
        query = _query(tenant_id, _conditions(connection, tenant_id, wanted))
    return _stream(db, tenant_id, query)


def both_sides(db: Database, tenant_id: str, base: str, head: str) -> tuple[Side, Side]:
    """Two jobs with all their answers, to be compared.

    Raises:
        NotFound: there is no such job.
    """
    with db.read() as connection:
        first, second = (side(connection, tenant_id, job, lambda spec: range(len(spec.certifiers))) for job in (base, head))
    return first, second


def _stream(db: Database, tenant_id: str, query: sa.Select[Any]) -> Iterator[Found]:
    behind = None
    while True:
        with db.read() as connection:
            rows = connection.execute(_page(query, behind, _AT_ONCE)).all()
            found = _found(db, connection, tenant_id, rows)
        yield from found
        if len(rows) < _AT_ONCE:
            return
        behind = (rows[-1].job_id, rows[-1].certifier, rows[-1].example)


def _conditions(connection: sa.Connection, tenant_id: str, wanted: Filter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.model is not None:
        found.append(jobs.c.model_digest == one(connection, models, tenant_id, wanted.model)["blob"])
    if wanted.dataset is not None:
        found.append(jobs.c.dataset_digest == one(connection, datasets, tenant_id, wanted.dataset)["blob"])
    if wanted.job is not None:
        found.append(jobs.c.id == one(connection, jobs, tenant_id, wanted.job)["id"])
    if wanted.statement is not None:
        found.append(_states(wanted.statement))
    for name in ("example", "example_digest", "kind", "norm", "verdict", "correct"):
        value = getattr(wanted, name)
        if value is not None:
            found.append(certificates.c[name] == value)
    if wanted.radius_min is not None:
        found.append(certificates.c.radius >= wanted.radius_min)
    if wanted.radius_max is not None:
        found.append(certificates.c.radius <= wanted.radius_max)
    return found


def _states(statement: Statement) -> sa.ColumnElement[bool]:
    """Rows with that statement. The column of version 1 does not say that a ball was cut, its evidence does."""
    c = certificates.c
    same = c.statement == str(statement)
    if statement.base not in (Base.REAL_ARITHMETIC, Base.FLOAT32_RUNTIME):
        return same
    cut = c.document.like('%"clipped":true%')
    return sa.or_(same, (c.statement == str(statement.base)) & cut) if statement.clipped else same & ~cut


def _query(tenant_id: str, conditions: list[sa.ColumnElement[bool]]) -> sa.Select[Any]:
    joined = certificates.join(jobs, jobs.c.id == certificates.c.job_id)
    columns = (certificates.c.job_id, certificates.c.certifier, certificates.c.example, jobs.c.model_id, jobs.c.dataset_id)
    return (
        sa.select(*columns, certificates.c.document)
        .select_from(joined)
        .where(owned(certificates, tenant_id) & owned(jobs, tenant_id), *conditions)
    )


def _page(query: sa.Select[Any], behind: tuple[Any, ...] | None, limit: int) -> sa.Select[Any]:
    job, place = certificates.c.job_id, sa.tuple_(certificates.c.certifier, certificates.c.example)
    if behind is not None:
        query = query.where((job < behind[0]) | ((job == behind[0]) & (place > sa.tuple_(*behind[1:]))))
    return query.order_by(job.desc(), certificates.c.certifier, certificates.c.example).limit(limit)


def _found(db: Database, connection: sa.Connection, tenant_id: str, rows: Sequence[Any]) -> list[Found]:
    """Rows with what their jobs are called, which is looked up once for each job."""
    now = db.now(connection)
    called = {job: _called(connection, one(connection, jobs, tenant_id, job), now) for job in {row.job_id for row in rows}}
    return [
        Found(
            job=row.job_id,
            model=row.model_id,
            dataset=row.dataset_id,
            partial=called[row.job_id],
            certificate=Certificate.model_validate_json(row.document),
        )
        for row in rows
    ]


def _called(connection: sa.Connection, job: Any, now: datetime) -> str:
    if job["state"] == JobState.SUCCEEDED:
        return ""
    there = progress(connection, job, now)
    return partial_words(there.certificates_done, there.certificates_total, job["state"])
