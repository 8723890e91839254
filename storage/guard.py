"""Refuses, before it reaches the database, every statement that does not say whose rows it means.

A forgotten condition would show one tenant what belongs to another; here it is an error in the first test or request that comes by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import operators
from sqlalchemy.sql.dml import Delete, Insert, Update
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList, ClauseElement, ColumnClause, Grouping
from sqlalchemy.sql.selectable import AliasedReturnsRows, Join, Select

from storage.database import Database
from storage.scoped import is_everyones, owner
from storage.tables import metadata, tenants

_TABLES = frozenset(table for table in metadata.tables.values() if "tenant_id" in table.c or table is tenants)
_NAMES = frozenset(table.name for table in _TABLES)
_NAMED = re.compile(rf"\b({'|'.join(_NAMES)})\b", re.IGNORECASE)
_UPSERTS = (postgresql.dml.OnConflictDoUpdate, sqlite.dml.OnConflictDoUpdate)
_Froms = tuple[sa.FromClause, ...]
_Pair = tuple[ClauseElement, ClauseElement]


class ForgottenTenant(RuntimeError):
    """A statement on tenants' rows has no condition on the tenant."""


def guard(db: Database) -> None:
    """From now on this database object refuses statements that `forgotten` finds fault with. For processes that answer requests."""
    # SQLAlchemy compiles a statement once and keeps it, so that each is looked at once too.
    known: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()

    @sa.event.listens_for(db.engine, "before_cursor_execute")
    def _check(_connection: Any, _cursor: Any, text: str, _parameters: Any, context: Any, _many: bool) -> None:
        compiled = context.compiled
        if compiled is not None and compiled not in known:
            known[compiled] = forgotten(compiled.statement)
        found = forgotten(sa.text(text)) if compiled is None else known[compiled]
        if found and not is_everyones(context.execution_options):
            raise ForgottenTenant(f"no condition on the tenant of {', '.join(found)}: use storage.scoped.owned")


def forgotten(statement: ClauseElement) -> list[str]:
    """Names of the tenants' tables that the statement reads or changes without saying whose rows it means.

    A table counts as settled when `tenant column = value` is one of the conditions that must all hold, of WHERE or of an inner join, or
    when its tenant column equals that of a settled table. Each subquery has to settle its own tables. An INSERT of values needs
    nothing: its rows name their tenant; one that updates what is in its way (upsert) is never settled.
    """
    return sorted(set(_walk(statement, ())))


def _walk(element: ClauseElement, outside: _Froms) -> Iterator[str]:
    """Tables without a condition; `outside` are those of the statements around this one, which it may refer to."""
    if isinstance(element, (sa.TextClause, ColumnClause)):
        text = str(element) if isinstance(element, sa.TextClause) or element.is_literal else ""
        yield from map(str.lower, _NAMED.findall(text))
    if isinstance(element, (sa.Table, sa.TextClause, ColumnClause)):
        return
    if isinstance(element, AliasedReturnsRows):
        outside = ()  # a subquery in FROM sees nothing of the statement around it
    if isinstance(element, (Select, Update, Delete)):
        own = _own(element, outside)
        yield from _unsettled(own, _equal(element), outside)
        outside = (*outside, *own)
    for child in element.get_children():
        if isinstance(child, ClauseElement):
            yield from _walk(child, outside)
    if isinstance(element, Insert):
        yield from _walk(element.select, ()) if element.select is not None else ()
        # The row that is in the way may be another tenant's.
        yield from (element.table.name for child in element.get_children() if isinstance(child, _UPSERTS) and element.table in _TABLES)


def _own(statement: Select[Any] | Update | Delete, outside: _Froms) -> _Froms:
    if isinstance(statement, Select):
        found = tuple(part for from_ in statement.get_final_froms() for part in _parts(from_))
        # What stands outside is referred to, not read again, unless nothing else would be left: SQLAlchemy's own rule.
        return tuple(from_ for from_ in found if from_ not in outside) or found
    conditions = statement.whereclause
    named = {column.table for column in _columns(conditions)} if conditions is not None else set()
    return (statement.table, *(table for table in named if table is not statement.table and table not in outside))


def _parts(from_: sa.FromClause) -> Iterator[sa.FromClause]:
    if isinstance(from_, Join):
        yield from _parts(from_.left)
        yield from _parts(from_.right)
    else:
        yield from_


def _unsettled(own: _Froms, equal: list[_Pair], outside: _Froms) -> Iterator[str]:
    yield from (from_.name for from_ in map(_base, own) if from_ not in _TABLES and getattr(from_, "name", "") in _NAMES)
    open_ = {from_: owner(from_) for from_ in own if _base(from_) in _TABLES}
    settled = {id(owner(from_)) for from_ in outside if _base(from_) in _TABLES} - {id(column) for column in open_.values()}
    for _ in range(len(open_) + 1):  # each round may settle what hangs on the round before
        settled |= {id(column) for column, value in equal if isinstance(value, sa.BindParameter) or id(value) in settled}
    yield from (_base(from_).name for from_, column in open_.items() if id(column) not in settled)


def _base(from_: sa.FromClause) -> Any:
    """The table behind an alias; a subquery is looked at by itself."""
    while isinstance(from_, AliasedReturnsRows) and isinstance(from_.element, sa.FromClause):
        from_ = from_.element
    return from_


def _equal(statement: Select[Any] | Update | Delete) -> list[_Pair]:
    """Pairs (column, what it equals) that hold for every row met, both ways round."""
    found = [] if statement.whereclause is None else [pair for part in _conjuncts(statement.whereclause) for pair in _pairs(part)]
    for from_ in statement.get_final_froms() if isinstance(statement, Select) else ():
        found += _of_joins(from_)
    return found


def _of_joins(from_: sa.FromClause) -> Iterator[_Pair]:
    if isinstance(from_, Join):
        yield from _of_joins(from_.left)
        yield from _of_joins(from_.right)
        right = list(_parts(from_.right))
        for part in _conjuncts(from_.onclause) if from_.onclause is not None and not from_.full else ():
            # Rows of the left side of an outer join are met whether or not its condition holds.
            yield from (pair for pair in _pairs(part) if not from_.isouter or getattr(pair[0], "table", None) in right)


def _pairs(condition: ClauseElement) -> Iterator[_Pair]:
    if isinstance(condition, BinaryExpression) and condition.operator is operators.eq:
        yield condition.left, condition.right
        yield condition.right, condition.left


def _conjuncts(clause: Any) -> Iterator[ClauseElement]:
    if isinstance(clause, Grouping):
        yield from _conjuncts(clause.element)
    elif isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for part in clause.clauses:
            yield from _conjuncts(part)
    else:
        yield clause


def _columns(element: ClauseElement) -> Iterator[Any]:
    """Columns of a condition, those of its subqueries left out."""
    if isinstance(element, sa.Column):
        yield element
    elif not isinstance(element, (Select, AliasedReturnsRows)):
        for child in element.get_children():
            if isinstance(child, ClauseElement):
                yield from _columns(child)
