"""Who changed what: rows that are only ever added. The database itself refuses to change or delete one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from storage.database import Database
from storage.ids import new_id
from storage.records import Actor, AuditEntry, Page
from storage.scoped import newest
from storage.tables import audit_log

# The command line of the server, and its own processes.
SERVER = Actor(key_id=None, request_id="")


def record(
    connection: sa.Connection,
    tenant_id: str,
    by: Actor,
    action: str,
    target: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Note a change, in the transaction that makes it: either both are there or neither.

    Args:
        connection: of the change.
        tenant_id: whose rows were changed.
        by: who asked.
        action: noun and past participle, such as `key.created`.
        target: id of what was changed.
        now: the moment, of `db.now`.
        detail: what else a reader will want to know; never a secret.
    """
    values = {
        "id": new_id("aud"),
        "tenant_id": tenant_id,
        "key_id": by.key_id,
        "action": action,
        "target": target,
        "detail": json.dumps(dict(detail or {}), sort_keys=True),
        "request_id": by.request_id,
        "created_at": now,
    }
    connection.execute(sa.insert(audit_log).values(values))


def list_entries(db: Database, tenant_id: str, *, limit: int, cursor: str | None = None, action: str | None = None) -> Page[AuditEntry]:
    """What was changed, newest first; `action` is one action, or the noun of several: `key` finds `key.created` and `key.revoked`."""
    wanted = [] if action is None else [audit_log.c.action.startswith(f"{action}.", autoescape=True) | (audit_log.c.action == action)]
    with db.read() as connection:
        rows, following = newest(connection, audit_log, tenant_id, *wanted, limit=limit, cursor=cursor)
    plain = ("id", "key_id", "action", "target", "request_id", "created_at")
    items = tuple(AuditEntry(**{name: row[name] for name in plain}, detail=json.loads(row["detail"])) for row in rows)
    return Page(items=items, next_cursor=following)
