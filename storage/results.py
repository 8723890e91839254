"""Certificates and attack results: inserted once with their shard, read page by page. Each kind has a table of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from certify.certificate import Certificate
from certify.findings import AttackResult, parse_finding
from storage import cursors
from storage.database import Database
from storage.records import Page
from storage.scoped import one, owned
from storage.tables import attack_results, certificates, jobs

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
    "example_digest",
)
_ATTACK_COLUMNS = ("certifier", "example", "method", "norm", "label", "prediction", "correct", "found", "distance_upper", "max_radius")


def insert(connection: sa.Connection, tenant_id: str, job_id: str, rows: Sequence[Certificate | AttackResult]) -> None:
    """Part of the transaction that finishes a shard; a second row for the same place violates the primary key."""
    for kind, table, columns in ((Certificate, certificates, _COLUMNS), (AttackResult, attack_results, _ATTACK_COLUMNS)):
        values = [
            {"tenant_id": tenant_id, "job_id": job_id, "document": row.line(), **{name: _column(row, name) for name in columns}}
            for row in rows
            if isinstance(row, kind)
        ]
        if values:
            connection.execute(sa.insert(table), values)


def replace(connection: sa.Connection, tenant_id: str, job_id: str, rows: Sequence[Certificate]) -> None:
    """Part of a transaction that changes what certificates of a job claim: each row takes the place of the one that is there."""
    c, keys = certificates.c, ("certifier", "example")
    mine = owned(certificates, tenant_id) & (c.job_id == job_id)
    here = mine & (c.certifier == sa.bindparam("_certifier")) & (c.example == sa.bindparam("_example"))
    plain = [name for name in _COLUMNS if name not in keys]
    changed = sa.update(certificates).where(here).values({name: sa.bindparam(f"_{name}") for name in (*plain, "document")})
    values = [{"_document": row.line(), **{f"_{name}": _column(row, name) for name in _COLUMNS}} for row in rows]
    if values and connection.execute(changed, values).rowcount != len(values):
        raise ValueError(f"job {job_id} has no certificate where one was to be replaced")


def list_certificates(db: Database, tenant_id: str, job_id: str, *, limit: int, cursor: str | None = None) -> Page[Certificate]:
    """Certificates of a job by certifier, then example."""
    documents = _documents(db, tenant_id, job_id, limit, cursor, certificates)
    return Page(items=tuple(map(Certificate.model_validate_json, documents.items)), next_cursor=documents.next_cursor)


def list_findings(db: Database, tenant_id: str, job_id: str, *, limit: int, cursor: str | None = None) -> Page[Certificate | AttackResult]:
    """Certificates and attack results of a job by certifier, then example."""
    documents = _documents(db, tenant_id, job_id, limit, cursor, certificates, attack_results)
    return Page(items=tuple(map(parse_finding, documents.items)), next_cursor=documents.next_cursor)


def iter_lines(db: Database, tenant_id: str, job_id: str) -> Iterator[str]:
    """Certificates and attack results as JSON lines, streamed, by certifier, then example: as stored, with all conditions in their names.

    No transaction stays open between two lines.

    Raises:
        NotFound: at once, not with the first line.
    """
    with db.read() as connection:
        one(connection, jobs, tenant_id, job_id)
    return _lines(db, tenant_id, job_id)


def _lines(db: Database, tenant_id: str, job_id: str) -> Iterator[str]:
    last = (-1, -1)
    while True:
        with db.read() as connection:
            rows = connection.execute(_query(tenant_id, job_id, last, _AT_ONCE, certificates, attack_results)).all()
        for row in rows:
            yield _told(row.document)
        if len(rows) < _AT_ONCE:
            return
        last = (rows[-1].certifier, rows[-1].example)


def _told(document: str) -> str:
    """The stored line; one of version 1 whose evidence alone says that the ball was cut is read and written again."""
    old = '"clipped":true' in document and '"value_range"' not in document and '"kind":"bounds"' in document
    return parse_finding(document).line() if old else document


def iter_findings(db: Database, tenant_id: str, job_id: str) -> Iterator[Certificate | AttackResult]:
    """The same as `iter_lines`, read."""
    return map(parse_finding, iter_lines(db, tenant_id, job_id))


def iter_certificates(db: Database, tenant_id: str, job_id: str) -> Iterator[Certificate]:
    """Those of them that prove something."""
    return (finding for finding in iter_findings(db, tenant_id, job_id) if isinstance(finding, Certificate))


def _column(row: Certificate | AttackResult, name: str) -> Any:
    value = getattr(row, name)
    return str(value) if name == "statement" else value


def _documents(db: Database, tenant_id: str, job_id: str, limit: int, cursor: str | None, *tables: sa.Table) -> Page[str]:
    behind = (-1, -1) if cursor is None else cursors.decode(cursor, "findings", int, int)
    query = _query(tenant_id, job_id, behind, cursors.checked(limit) + 1, *tables)
    with db.read() as connection:
        one(connection, jobs, tenant_id, job_id)
        rows = connection.execute(query).all()
    following = cursors.encode("findings", rows[limit - 1].certifier, rows[limit - 1].example) if len(rows) > limit else None
    return Page(items=tuple(row.document for row in rows[:limit]), next_cursor=following)


def _query(tenant_id: str, job_id: str, behind: tuple[int, int], limit: int, *tables: sa.Table) -> sa.Select[tuple[int, int, str]]:
    """The next rows of the tables together. A certifier writes to one of them only, so that a place is taken once in all."""
    # Each part is cut to the page by its primary key before they are merged.
    parts = [
        sa.select(table.c.certifier, table.c.example, table.c.document)
        .where(owned(table, tenant_id) & (table.c.job_id == job_id))
        .where(sa.tuple_(table.c.certifier, table.c.example) > sa.tuple_(*behind))
        .order_by(table.c.certifier, table.c.example)
        .limit(limit)
        .subquery()
        for table in tables
    ]
    rows = sa.union_all(*(sa.select(part) for part in parts)).subquery()
    return sa.select(rows.c.certifier, rows.c.example, rows.c.document).order_by(rows.c.certifier, rows.c.example).limit(limit)
