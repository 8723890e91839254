"""Keys, on the database of this host: the first one has to come from somewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.console import out, sentences, show_json, show_table

if TYPE_CHECKING:
    from storage.database import Database

app = typer.Typer(no_args_is_help=True, help="Keys for the API, made on the host of the database.")
Tenant = Annotated[str, typer.Option(help="name of the tenant")]


@app.command("create")
def create(name: Annotated[str, typer.Argument(help="what the key is for")] = "cli", tenant: Tenant = "default") -> None:
    """Make a key and print it; it is never shown again."""
    with sentences():
        db = _database()
        from storage.keys import create_key
        from storage.tenants import ensure_tenant

        _, token = create_key(db, ensure_tenant(db, tenant).id, name)
        typer.echo(token)


@app.command("list")
def list_(tenant: Tenant = "default", as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """All keys of a tenant, without their secrets."""
    with sentences():
        db = _database()
        from storage.keys import list_keys
        from storage.tenants import ensure_tenant

        found = list_keys(db, ensure_tenant(db, tenant).id, limit=1000).items
        rows = [
            (k.id, k.name, f"...{k.last4}", k.created_at, k.last_used_at or "never", "revoked" if k.revoked_at else "valid") for k in found
        ]
        columns = ("id", "name", "ends in", "created", "last used", "state")
        if as_json:
            show_json([dict(zip(columns, map(str, row), strict=True)) for row in rows])
        else:
            show_table(columns, rows)


@app.command("revoke")
def revoke(key_id: str, tenant: Tenant = "default") -> None:
    """End a key for good."""
    with sentences():
        db = _database()
        from storage.keys import revoke_key
        from storage.tenants import ensure_tenant

        revoke_key(db, ensure_tenant(db, tenant).id, key_id)
        out.print(f"{key_id} is revoked")


def _database() -> Database:
    from storage.database import Database
    from storage.settings import Settings

    db = Database(Settings.load().database_url)
    db.migrate()
    return db
