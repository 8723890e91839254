"""The one place where rows are picked by tenant. Another tenant's id is like an id that does not exist.

In the API `guard.py` refuses every statement that forgets the condition `owned` makes, so nothing else has to be remembered.
"""

from __future__ import annotations

from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql.base import Executable

from storage import cursors
from storage.database import held
from storage.errors import NotFound
from storage.tables import tenants

S = TypeVar("S", bound=Executable)
_EVERYONES = "assay_everyones"
_LISTS = {"api_keys": ("key", "/v1/api-keys")}


def owned(table: sa.FromClause, tenant_id: str) -> sa.ColumnElement[bool]:
    """The rows of a table, or of an alias of it, that belong to the tenant. Of `tenants` it is the tenant's own row."""
    return owner(table) == tenant_id


def owner(table: sa.FromClause) -> sa.ColumnElement[str]:
    """The column that says whose a row is."""
    named = "id" if table is tenants else "tenant_id"
    return table.c[named]


def one(connection: sa.Connection, table: sa.Table, tenant_id: str, row_id: str, *, lock: bool = False) -> Any:
    """A row by its id; locked until the transaction ends if asked for.

    Raises:
        NotFound: there is none, or it is another tenant's.
    """
    query = sa.select(table).where(owned(table, tenant_id) & (table.c.id == row_id))
    row = connection.execute(held(query) if lock else query).mappings().first()
    if row is None:
        noun, path = _LISTS.get(table.name, (table.name.removesuffix("s").replace("_", " "), f"/v1/{table.name.replace('_', '-')}"))
        raise NotFound.at(noun, f"there is no {noun} {row_id}", f"list them with GET {path}")
    return row


def newest(
    connection: sa.Connection, table: sa.Table, tenant_id: str, *conditions: sa.ColumnElement[bool], limit: int, cursor: str | None
) -> tuple[list[Any], str | None]:
    """A page of rows, newest first, and the cursor of the next page.

    Raises:
        InputError: the limit or the cursor cannot be used.
    """
    query = sa.select(table).where(owned(table, tenant_id), *conditions).order_by(table.c.id.desc()).limit(cursors.checked(limit) + 1)
    if cursor is not None:
        query = query.where(table.c.id < cursors.decode(cursor, table.name, str)[0])
    rows = list(connection.execute(query).mappings())
    return rows[:limit], cursors.encode(table.name, rows[limit - 1]["id"]) if len(rows) > limit else None


def hold_tenant(connection: sa.Connection, tenant_id: str) -> Any:
    """The tenant's own row, held until the transaction ends: what one tenant counts up happens one at a time."""
    return connection.execute(held(sa.select(tenants).where(owned(tenants, tenant_id)))).mappings().one()


def everyones(statement: S) -> S:
    """A statement that is about the rows of every tenant, on purpose. A test holds the list of the functions that use it."""
    return statement.execution_options(**{_EVERYONES: True})


def is_everyones(options: Any) -> bool:
    return bool(options.get(_EVERYONES, False))
