"""Tenants and their limits, on the database of this host: no key reaches beyond its own tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.console import sentences, show_json, show_table
from api.cli.host import database
from api.cli.remote import Json
from certify.errors import InputError
from storage.records import GIB

if TYPE_CHECKING:
    from storage.database import Database
    from storage.records import Tenant

app = typer.Typer(no_args_is_help=True, help="Tenants and their limits, made on the host of the database.")
Name = Annotated[str, typer.Argument(metavar="NAME")]
_DEFAULT = "default"


@app.command("create")
def create(name: Name, as_json: Json = False) -> None:
    """Make a tenant; one that is there stays as it is. Its first key: assay key create --tenant NAME."""
    from storage.tenants import ensure_tenant

    with sentences(), database() as db:
        _say(db, [ensure_tenant(db, name)], as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """All tenants: what they have and may have."""
    from storage.tenants import list_tenants

    with sentences(), database() as db:
        _say(db, list_tenants(db), as_json)


@app.command("set")
def set_(
    name: Name,
    max_queued_jobs: Annotated[str | None, typer.Option(metavar="N|default", help="jobs that have not ended")] = None,
    max_stored_gib: Annotated[str | None, typer.Option(metavar="X|default", help="GiB of models, datasets and uploads")] = None,
    as_json: Json = False,
) -> None:
    """Change what a tenant may have; `default` is what ASSAY_MAX_QUEUED_JOBS and ASSAY_MAX_STORED_GIB say."""
    from storage.tenants import set_limits

    with sentences(), database() as db:
        limits: dict[str, int | None] = {}
        if max_queued_jobs is not None:
            limits["max_queued_jobs"] = _limit("max-queued-jobs", max_queued_jobs, 1, 2**31 - 1)
        if max_stored_gib is not None:
            limits["max_stored_bytes"] = _limit("max-stored-gib", max_stored_gib, GIB, 2**50)
        if not limits:
            raise InputError.at("", "nothing to set", "give --max-queued-jobs or --max-stored-gib")
        _say(db, [set_limits(db, name, **limits)], as_json)


def _limit(option: str, text: str, unit: int, most: int) -> int | None:
    if text == _DEFAULT:
        return None
    try:
        number = int(text) if unit == 1 else int(float(text) * unit)
    except (ValueError, OverflowError):
        number = -1
    if not 0 <= number <= most:
        raise InputError.at(option, f"is {text}", f"use a number from 0 to {most // unit}, or {_DEFAULT}")
    return number


def _say(db: Database, found: list[Tenant] | tuple[Tenant, ...], as_json: bool) -> None:
    rows = [_row(db, tenant) for tenant in found]
    if as_json:
        show_json(rows)
        return
    columns = ("id", "name", "jobs not ended", "stored GiB")
    table = [
        (
            row["id"],
            row["name"],
            f"{row['queued_jobs']} of {row['max_queued_jobs']}",
            f"{row['stored_bytes'] / GIB:.2f} of {row['max_stored_bytes'] / GIB:g}",
        )
        for row in rows
    ]
    show_table(columns, table)


def _row(db: Database, tenant: Tenant) -> dict[str, Any]:
    from storage.quotas import usage
    from storage.settings import Settings

    used = usage(db, tenant.id, Settings.load().quota)
    return {
        "id": tenant.id,
        "name": tenant.name,
        "created_at": tenant.created_at.isoformat(),
        "queued_jobs": used.queued_jobs,
        "stored_bytes": used.stored_bytes,
        "max_queued_jobs": used.quota.max_queued_jobs,
        "max_stored_bytes": used.quota.max_stored_bytes,
    }
