"""Certificates: inserted once with their shard, read page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from certify.certificate import Certificate
from storage import cursors
from storage.database import Database
from storage.records import Page
from storage.scoped import one, owned
from storage.tables import certificates, jobs

_AT_ONCE = 500
_COLUMNS = (
    "certifier",
    "example",
    "kind",
    "statement",
    "norm",
    "label",
    "prediction",
    "correct",
    "verdict",
    "radius",
    "epsilon_verified",
    "alpha",
)


def insert(connection: sa.Connection, tenant_id: str, job_id: str, rows: Sequence[Certificate]) -> None:
    """Part of the transaction that finishes a shard; a second certificate for the same place violates the primary key."""
    if rows:
        connection.execute(
            sa.insert(certificates),
            [
                {"tenant_id": tenant_id, "job_id": job_id, "document": row.line(), **{name: getattr(row, name) for name in _COLUMNS}}
                for row in rows
            ],
        )


def list_certificates(db: Database, tenant_id: str, job_id: str, *, limit: int, cursor: str | None = None) -> Page[Certificate]:
    """Certificates of a job by certifier, then example."""
    query = _query(tenant_id, job_id).limit(cursors.checked(limit) + 1)
    if cursor is not None:
        query = query.where(_behind(*cursors.decode(cursor, int, int)))
    with db.read() as connection:
        one(connection, jobs, tenant_id, job_id)
        rows = connection.execute(query).all()
    following = cursors.encode(rows[limit - 1].certifier, rows[limit - 1].example) if len(rows) > limit else None
    return Page(items=tuple(Certificate.model_validate_json(row.document) for row in rows[:limit]), next_cursor=following)


def iter_lines(db: Database, tenant_id: str, job_id: str) -> Iterator[str]:
    """The certificates as stored JSON lines, streamed, by certifier, then example. No transaction stays open between two lines.

    Raises:
        NotFound: at once, not with the first line.
    """
    with db.read() as connection:
        one(connection, jobs, tenant_id, job_id)
    return _lines(db, _query(tenant_id, job_id).limit(_AT_ONCE))


def _lines(db: Database, query: sa.Select[tuple[int, int, str]]) -> Iterator[str]:
    last = (-1, -1)
    while True:
        with db.read() as connection:
            rows = connection.execute(query.where(_behind(*last))).all()
        for row in rows:
            yield row.document
        if len(rows) < _AT_ONCE:
            return
        last = (rows[-1].certifier, rows[-1].example)


def iter_certificates(db: Database, tenant_id: str, job_id: str) -> Iterator[Certificate]:
    """The same as `iter_lines`, read."""
    return map(Certificate.model_validate_json, iter_lines(db, tenant_id, job_id))


def _behind(certifier: int, example: int) -> sa.ColumnElement[bool]:
    return sa.tuple_(certificates.c.certifier, certificates.c.example) > sa.tuple_(certifier, example)


def _query(tenant_id: str, job_id: str) -> sa.Select[tuple[int, int, str]]:
    return (
        sa.select(certificates.c.certifier, certificates.c.example, certificates.c.document)
        .where(owned(certificates, tenant_id) & (certificates.c.job_id == job_id))
        .order_by(certificates.c.certifier, certificates.c.example)
    )
