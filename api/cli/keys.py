"""Keys: over REST for the tenant of ASSAY_KEY, or on the database of this host, where the first one has to come from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from api.cli.console import err, say, sentences, show_json, show_table
from api.cli.host import database
from api.cli.remote import Json, client
from api.sdk.client import Client, ServiceError
from storage.scopes import ADMIN, SCOPES

if TYPE_CHECKING:
    from storage.database import Database
    from storage.records import ApiKey

app = typer.Typer(
    no_args_is_help=True,
    help="Keys for the API. With ASSAY_KEY set they are made and ended over REST, for the tenant of that key. Without it, or with --tenant,"
    " on the database of this host.",
)
Tenant = Annotated[str | None, typer.Option(metavar="NAME", help="work on the database of this host, for this tenant")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", metavar="SCOPE,...", help=f"what it may do, of {', '.join(SCOPES)}; admin when left out on this host"),
]
Days = Annotated[int | None, typer.Option("--days", min=1, max=3650, help="it expires after so many days")]
Grace = Annotated[int, typer.Option("--grace", metavar="SECONDS", min=0, max=86_400, help="for how long the old secret works too")]
Shown = dict[str, Any]


class Keyring(Protocol):
    """Keys of one tenant, wherever they are."""

    def create(self, name: str, scopes: list[str] | None, days: int | None) -> Shown: ...
    def keys(self) -> list[Shown]: ...
    def revoke(self, key_id: str) -> None: ...
    def rotate(self, key_id: str, grace: int) -> Shown: ...


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="what the key is for")] = "cli",
    scope: Scopes = None,
    days: Days = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Make a key and print its token, which is never shown again. On this host a tenant that is not there is made too."""
    with sentences(), _keyring(tenant) as ring:
        _say(ring.create(name, _split(scope), days), as_json)


@app.command("list")
def list_(tenant: Tenant = None, as_json: Json = False) -> None:
    """All keys of a tenant, newest first, without their secrets."""
    with sentences(), _keyring(tenant) as ring:
        found = ring.keys()
        if as_json:
            show_json(found)
        else:
            columns = ("id", "name", "scopes", "ends in", "created", "last used", "state")
            show_table(columns, [_row(key) for key in found])


@app.command("revoke")
def revoke(key_id: str, tenant: Tenant = None, as_json: Json = False) -> None:
    """End a key for good, at once."""
    with sentences(), _keyring(tenant) as ring:
        ring.revoke(key_id)
        say({"id": key_id, "revoked": True}, f"{key_id} is revoked", as_json)


@app.command("rotate")
def rotate(key_id: str, grace: Grace = 0, tenant: Tenant = None, as_json: Json = False) -> None:
    """Give a key a new secret and print the new token. The old one ends at once, or after --grace seconds."""
    with sentences(), _keyring(tenant) as ring:
        _say(ring.rotate(key_id, grace), as_json)


def _split(scopes: list[str] | None) -> list[str]:
    """Scopes may be given one by one or with commas between them."""
    return [name for text in scopes or () for name in text.replace(" ", "").split(",") if name]


@contextmanager
def _keyring(tenant: str | None) -> Iterator[Keyring]:
    if tenant is None and os.environ.get("ASSAY_KEY"):
        with client() as service:
            yield _OverRest(service)
    else:
        with database() as db:
            yield _OnHost(db, tenant or "default")


class _OverRest:
    def __init__(self, service: Client) -> None:
        self.service = service

    def create(self, name: str, scopes: list[str] | None, days: int | None) -> Shown:
        if not scopes:
            raise ServiceError.at("scope", "is needed", f"give --scope, once or more, of {', '.join(SCOPES)}")
        return self.service.post("/v1/api-keys", {"name": name, "scopes": scopes, "expires_in_days": days})

    def keys(self) -> list[Shown]:
        found, cursor = [], None
        while True:
            page = self.service.get("/v1/api-keys", limit=1000, cursor=cursor)
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def revoke(self, key_id: str) -> None:
        self.service.delete(f"/v1/api-keys/{key_id}")

    def rotate(self, key_id: str, grace: int) -> Shown:
        return self.service.post(f"/v1/api-keys/{key_id}/rotate", {"grace_seconds": grace})


class _OnHost:
    def __init__(self, db: Database, tenant: str) -> None:
        self.db, self.tenant = db, tenant

    def create(self, name: str, scopes: list[str] | None, days: int | None) -> Shown:
        from storage.keys import create_key
        from storage.tenants import ensure_tenant

        end = None if days is None else datetime.now(UTC) + timedelta(days=days)
        made = create_key(self.db, ensure_tenant(self.db, self.tenant).id, name, scopes or [ADMIN], end)
        err.print(f"made for the tenant {self.tenant} in {self.db.engine.url.render_as_string(hide_password=True)}", highlight=False)
        return _shown(*made)

    def keys(self) -> list[Shown]:
        from storage.keys import list_keys

        found, cursor = list[Shown](), None
        while True:
            page = list_keys(self.db, self._id(), limit=1000, cursor=cursor)
            found += map(_shown, page.items)
            cursor = page.next_cursor
            if cursor is None:
                return found

    def revoke(self, key_id: str) -> None:
        from storage.keys import revoke_key

        revoke_key(self.db, self._id(), key_id)

    def rotate(self, key_id: str, grace: int) -> Shown:
        from storage.keys import rotate_key

        return _shown(*rotate_key(self.db, self._id(), key_id, timedelta(seconds=grace)))

    def _id(self) -> str:
        from storage.tenants import find_tenant

        return find_tenant(self.db, self.tenant).id


def _shown(key: ApiKey, token: str | None = None) -> Shown:
    from api.schemas_keys import KeyOut

    return {**KeyOut.model_validate(key).model_dump(mode="json"), **({"token": token} if token else {})}


def _say(made: Shown, as_json: bool) -> None:
    show_json(made) if as_json else typer.echo(made["token"])


def _row(key: Shown) -> tuple[object, ...]:
    ended = key["expires_at"] is not None and datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
    state = "revoked" if key["revoked_at"] else "expired" if ended else f"until {key['expires_at']}" if key["expires_at"] else "valid"
    used = key["last_used_at"] or "never"
    return key["id"], key["name"], " ".join(key["scopes"]), f"...{key['last4']}", key["created_at"], used, state
