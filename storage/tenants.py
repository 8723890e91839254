"""Tenants and their keys. A key is shown once; only a hash of its random secret is kept."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from storage.database import Database, insert_once
from storage.errors import NotFound
from storage.ids import new_id
from storage.records import ApiKey, Tenant
from storage.tables import api_keys, tenants

_TOUCH_EVERY = timedelta(minutes=1)


def ensure_tenant(db: Database, name: str) -> Tenant:
    """The tenant of this name, made when there is none."""
    with db.begin() as connection:
        insert_once(connection, tenants, {"id": new_id("ten"), "name": name, "created_at": db.now(connection)})
        columns = (tenants.c.id, tenants.c.name, tenants.c.created_at)
        return Tenant(**connection.execute(sa.select(*columns).where(tenants.c.name == name)).mappings().one())


def create_key(
    db: Database, tenant_id: str, name: str, scopes: Sequence[str] = ("admin",), expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key and its token `assay_<id>_<secret>`, which is never shown again.

    A fast hash suffices: the secret has 256 random bits, so there is nothing to guess.
    """
    secret = secrets.token_hex(32)
    with db.begin() as connection:
        values: dict[str, Any] = {
            "id": new_id("key"),
            "tenant_id": tenant_id,
            "name": name,
            "scopes": json.dumps(list(scopes)),
            "secret_sha256": hashlib.sha256(secret.encode()).hexdigest(),
            "last4": secret[-4:],
            "created_at": db.now(connection),
            "expires_at": expires_at,
            "revoked_at": None,
            "last_used_at": None,
        }
        connection.execute(sa.insert(api_keys).values(values))
    return _key(values), f"assay_{values['id'].removeprefix('key_')}_{secret}"


def authenticate(db: Database, token: str) -> ApiKey | None:
    """The key of a token, or null when it is unknown, revoked or expired."""
    parts = token.split("_")
    if len(parts) != 3 or parts[0] != "assay":
        return None
    with db.read() as connection:
        row = connection.execute(sa.select(api_keys).where(api_keys.c.id == f"key_{parts[1]}")).mappings().first()
        now = db.now(connection)
    digest = hashlib.sha256(parts[2].encode()).hexdigest()
    if row is None or not hmac.compare_digest(digest, row["secret_sha256"]):
        return None
    if row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= now):
        return None
    if row["last_used_at"] is None or now - row["last_used_at"] > _TOUCH_EVERY:
        with db.begin() as connection:
            connection.execute(sa.update(api_keys).where(api_keys.c.id == row["id"]).values(last_used_at=now))
    return _key(row)


def revoke_key(db: Database, tenant_id: str, key_id: str) -> ApiKey:
    """Ends a key for good; a second call changes nothing."""
    with db.begin() as connection:
        mine = (api_keys.c.id == key_id) & (api_keys.c.tenant_id == tenant_id)
        connection.execute(sa.update(api_keys).where(mine & api_keys.c.revoked_at.is_(None)).values(revoked_at=db.now(connection)))
        row = connection.execute(sa.select(api_keys).where(mine)).mappings().first()
    if row is None:
        raise NotFound.at("key", f"there is no key {key_id}", "list the keys with: assay key list")
    return _key(row)


def list_keys(db: Database, tenant_id: str) -> tuple[ApiKey, ...]:
    with db.read() as connection:
        rows = connection.execute(sa.select(api_keys).where(api_keys.c.tenant_id == tenant_id).order_by(api_keys.c.id)).mappings()
        return tuple(_key(row) for row in rows)


def _key(row: Any) -> ApiKey:
    values = {name: row[name] for name in ApiKey.__dataclass_fields__}
    return ApiKey(**{**values, "scopes": tuple(json.loads(row["scopes"]))})
