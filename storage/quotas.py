"""How much one tenant may have at a time. Counted in the transaction that adds to it, while the tenant's row is held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from storage.database import Database
from storage.errors import StorageFull, TooManyJobs
from storage.records import JobState, Quota, Usage
from storage.scoped import hold_tenant, owned
from storage.tables import blobs, jobs, tenants, upload_parts

_ASK = "ask the operator for more: assay tenant set NAME"


DEFAULT = Quota()
__all__ = ["DEFAULT", "Quota", "check_bytes", "check_jobs", "check_room", "usage"]


def check_jobs(connection: sa.Connection, tenant_id: str, default: Quota) -> None:
    """Room for one more job. The tenant's row stays held until the transaction ends: two submissions cannot both take the last place.

    Raises:
        TooManyJobs: none.
    """
    quota, there = _of(hold_tenant(connection, tenant_id), default), _jobs(connection, tenant_id)
    if there >= quota.max_queued_jobs:
        detail = f"{there} jobs have not ended, and {quota.max_queued_jobs} is the most"
        raise TooManyJobs.at("jobs", detail, f"wait for some or cancel them, or {_ASK} --max-queued-jobs N")


def check_bytes(connection: sa.Connection, tenant_id: str, more: int, default: Quota) -> None:
    """Room for some more bytes; holds the tenant's row as `check_jobs` does.

    Raises:
        StorageFull: not enough.
    """
    quota = _of(hold_tenant(connection, tenant_id), default)
    _check_bytes(_bytes(connection, tenant_id), more, quota)


def check_room(db: Database, tenant_id: str, more: int, default: Quota) -> None:
    """The same ahead of an upload, so that bytes which will be refused are not sent first. It reserves nothing."""
    found = usage(db, tenant_id, default)
    _check_bytes(found.stored_bytes, more, found.quota)


def _check_bytes(there: int, more: int, quota: Quota) -> None:
    if there + more > quota.max_stored_bytes:
        detail = f"{more} bytes more than the {there} that are stored would exceed the quota of {quota.max_stored_bytes}"
        raise StorageFull.at("body", detail, f"{_ASK} --max-stored-gib X")


def usage(db: Database, tenant_id: str, default: Quota) -> Usage:
    """What the tenant has now."""
    with db.read() as connection:
        tenant = connection.execute(sa.select(tenants).where(owned(tenants, tenant_id))).mappings().one()
        counted = {"queued_jobs": _jobs(connection, tenant_id), "stored_bytes": _bytes(connection, tenant_id)}
        return Usage(**counted, quota=_of(tenant, default))


def _of(tenant: Any, default: Quota) -> Quota:
    own = {name: tenant[name] for name in Quota.__dataclass_fields__ if tenant[name] is not None}
    return replace(default, **own)


def _jobs(connection: sa.Connection, tenant_id: str) -> int:
    going = owned(jobs, tenant_id) & jobs.c.state.not_in([state for state in JobState if state.ended])
    return int(connection.execute(sa.select(sa.func.count()).select_from(jobs).where(going)).scalar_one())


def _bytes(connection: sa.Connection, tenant_id: str) -> int:
    sums = (sa.select(sa.func.sum(column)).where(owned(column.table, tenant_id)) for column in (blobs.c.size, upload_parts.c.length))
    return sum(int(connection.execute(query).scalar() or 0) for query in sums)
