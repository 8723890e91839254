"""Ledgers and regions as rows: read page by page, and found by where they are."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sa

from certify.errors import InputError
from certify.regions import Candidate, Region, Shadow
from certify.spec import MemoryPredictSpec, Spec
from storage import cursors
from storage.database import Database
from storage.records import Page
from storage.records_ledgers import Ledger, StoredRegion
from storage.scoped import newest, one, owned
from storage.tables import SHADOW, ledgers, regions

_PLAIN = ("number", "digest", "centre", "answer", "radius", "sigma", "alpha", "certifier", "example")


def list_ledgers(db: Database, tenant_id: str, *, limit: int, cursor: str | None = None, model_digest: str | None = None) -> Page[Ledger]:
    """Newest first; those of one model if asked for."""
    wanted = [] if model_digest is None else [ledgers.c.model_digest == model_digest]
    with db.read() as connection:
        rows, following = newest(connection, ledgers, tenant_id, *wanted, limit=limit, cursor=cursor)
    return Page(items=tuple(map(_ledger, rows)), next_cursor=following)


def get_ledger(db: Database, tenant_id: str, ledger_id: str) -> Ledger:
    """Raises NotFound when there is none."""
    with db.read() as connection:
        return _ledger(one(connection, ledgers, tenant_id, ledger_id))


def list_regions(db: Database, tenant_id: str, ledger_id: str, *, limit: int, cursor: str | None = None) -> Page[StoredRegion]:
    """Oldest first, revoked ones among them.

    Raises:
        NotFound: there is no such ledger.
        InputError: the limit or the cursor cannot be used.
    """
    behind = 0 if cursor is None else cursors.decode(cursor, "regions", int)[0]
    mine = owned(regions, tenant_id) & (regions.c.ledger_id == ledger_id) & (regions.c.number > behind)
    shown = [regions.c[name] for name in StoredRegion.__dataclass_fields__ if name != "job"]
    query = sa.select(regions.c.job_id.label("job"), *shown).where(mine).order_by(regions.c.number).limit(cursors.checked(limit) + 1)
    with db.read() as connection:
        one(connection, ledgers, tenant_id, ledger_id)
        rows = connection.execute(query).mappings().all()
    following = cursors.encode("regions", rows[limit - 1]["number"]) if len(rows) > limit else None
    return Page(items=tuple(StoredRegion(**row) for row in rows[:limit]), next_cursor=following)


def check_predictions(connection: sa.Connection, tenant_id: str, model_digest: str, spec: Spec) -> None:
    """Refuse a job that asks a ledger for what it cannot answer.

    Raises:
        NotFound: the tenant has no such ledger.
        InputError: it is of another model or rule, or has no such version yet.
    """
    for index, certifier in enumerate(spec.certifiers):
        if not isinstance(certifier, MemoryPredictSpec):
            continue
        found = _ledger(one(connection, ledgers, tenant_id, certifier.ledger))
        rule = {"precision": certifier.precision, **certifier.model_dump(mode="json", include={"sigmas", "search"})}
        place = f"certifiers.{index}"
        if found.model_digest != model_digest:
            raise InputError.at(f"{place}.ledger", f"{found.id} is of another model", "list those of this one with GET /v1/ledgers")
        if any({"precision": "float32", **found.rule}[name] != value for name, value in rule.items()):
            detail = f"{found.id} has another rule"
            raise InputError.at(f"{place}.ledger", detail, "copy sigmas, search and precision from GET /v1/ledgers")
        if certifier.version > found.version:
            raise InputError.at(f"{place}.version", f"{found.id} is at version {found.version}", "ask that one, or one before")


def region_values(region: Region, shadow: Shadow, reach: float) -> dict[str, Any]:
    """The columns of a region that say what and where it is."""
    places = dict(zip(SHADOW, shadow.coordinates, strict=True))
    return {**{name: getattr(region, name) for name in _PLAIN}, **places, "job_id": region.job, "reach": reach}


def near(connection: sa.Connection, ledger: Any, candidate: Candidate, largest: float, version: int | None = None) -> list[Region]:
    """All regions of a ledger that overlap the candidate's ball or contain its centre, revoked ones too, and a few that do not.

    The index is asked for one coordinate, within the largest reach of any region; what it gives, for all of them.

    Args:
        connection: of a transaction.
        ledger: its row.
        candidate: whose neighbours.
        largest: at least the reach of every region.
        version: only regions that were there then; null for all of them.
    """
    reach = candidate.shadow.reach(candidate.radius)
    asked: dict[str, Any] = {"tenant": ledger["tenant_id"], "ledger": ledger["id"], "reach": reach}
    asked["version"] = ledger["version"] + 1 if version is None else version
    for name, at in zip(SHADOW, candidate.shadow.coordinates, strict=True):
        asked |= {f"{name}_at": at, f"{name}_low": at - reach - largest, f"{name}_high": at + reach + largest}
    return [_region(row) for row in connection.execute(_near(), asked).mappings()]


@lru_cache(maxsize=1)
def _near() -> sa.Select[Any]:
    """Made once: a pass asks it for every example."""
    c, reach = regions.c, sa.bindparam("reach", type_=sa.Double)
    mine = owned(regions, cast("str", sa.bindparam("tenant"))) & (c.ledger_id == sa.bindparam("ledger"))
    boxed = [c[name].between(sa.bindparam(f"{name}_low"), sa.bindparam(f"{name}_high")) for name in SHADOW]
    steps = [c[name] - sa.bindparam(f"{name}_at", type_=sa.Double) for name in SHADOW]
    square = sum((step * step for step in steps), sa.literal(0.0))
    close = square <= (c.reach + reach) * (c.reach + reach)
    columns = [c[name] for name in (*_PLAIN, "job_id", "revoked_at")]
    # The box is cheap and comes first; it also lets the index be asked for the first coordinate.
    return sa.select(*columns).where(mine, *boxed, close, c.version <= sa.bindparam("version")).order_by(c.number)


def _region(row: Any) -> Region:
    return Region(**{name: row[name] for name in _PLAIN}, job=row["job_id"], revoked=row["revoked_at"] is not None)


def _ledger(row: Any) -> Ledger:
    plain = {name: row[name] for name in Ledger.__dataclass_fields__ if name != "rule"}
    return Ledger(**plain, rule=json.loads(row["rule"]))
