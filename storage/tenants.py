"""Tenants: made, found and limited by who runs the service. What one tenant asks about itself is elsewhere, and always by its id."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa

from certify.errors import InputError
from storage import audit
from storage.database import Database, insert_once
from storage.errors import NotFound
from storage.ids import new_id
from storage.records import Tenant
from storage.scoped import everyones, owned
from storage.tables import tenants

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,199}")


def ensure_tenant(db: Database, name: str) -> Tenant:
    """The tenant of this name, made when there is none.

    Raises:
        InputError: it cannot be a name.
    """
    if not _NAME.fullmatch(name):
        mend = "use at most 200 letters, digits, spaces, dots, dashes and underscores, a letter or digit first"
        raise InputError.at("tenant", f"{name[:50]!r} cannot be a name", mend)
    with db.begin() as connection:
        tenant_id, now = new_id("ten"), db.now(connection)
        if insert_once(connection, tenants, {"id": tenant_id, "name": name, "created_at": now}):
            audit.record(connection, tenant_id, audit.SERVER, "tenant.created", tenant_id, now, {"name": name})
        return _named(connection, name)


def find_tenant(db: Database, name: str) -> Tenant:
    """The tenant of this name.

    Raises:
        NotFound: there is none.
    """
    with db.read() as connection:
        return _named(connection, name)


def list_tenants(db: Database) -> tuple[Tenant, ...]:
    """All of them, by name."""
    with db.read() as connection:
        return tuple(Tenant(**row) for row in connection.execute(everyones(sa.select(tenants).order_by(tenants.c.name))).mappings())


def set_limits(db: Database, name: str, **limits: int | None) -> Tenant:
    """Change limits of a tenant: `max_queued_jobs`, `max_stored_bytes`. None gives it the service's own limit again.

    Raises:
        NotFound: there is no such tenant.
    """
    with db.begin() as connection:
        found = _named(connection, name)
        connection.execute(sa.update(tenants).where(owned(tenants, found.id)).values(**limits))
        audit.record(connection, found.id, audit.SERVER, "tenant.limited", found.id, db.now(connection), limits)
        return _named(connection, name)


def _named(connection: sa.Connection, name: str) -> Tenant:
    row: Any = connection.execute(everyones(sa.select(tenants).where(tenants.c.name == name))).mappings().first()
    if row is None:
        raise NotFound.at("tenant", f"there is no tenant {name!r}", "list them with: assay tenant list")
    return Tenant(**row)
