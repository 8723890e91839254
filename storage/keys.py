"""Keys: a token is shown once; only hashes of its random secret are kept."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from certify.errors import InputError
from storage import audit
from storage.database import Database
from storage.errors import Conflict, Forbidden
from storage.ids import new_id
from storage.records import Actor, ApiKey, Page
from storage.scoped import everyones, newest, one, owned
from storage.scopes import ADMIN, allows, checked
from storage.tables import api_keys

LONGEST_GRACE = timedelta(hours=24)
LONGEST_LIFE = timedelta(days=3653)
_TOKEN = re.compile(r"assay_([0-9a-z]{26})_([0-9a-f]{64})")
_TOUCH_EVERY = timedelta(minutes=1)


def create_key(
    db: Database,
    tenant_id: str,
    name: str,
    scopes: Sequence[str] = (ADMIN,),
    expires_at: datetime | None = None,
    by: Actor = audit.SERVER,
) -> tuple[ApiKey, str]:
    """A new key and its token `assay_<id>_<secret>`, which is never shown again.

    It can do no more and lives no longer than the key that makes it; made by the server itself, it may do and live as asked. A fast hash
    suffices: the secret has 256 random bits, so there is nothing to guess.

    Raises:
        InputError: the name is empty or too long, a scope does not exist, or the end lies in the past or too far off.
        Forbidden: it would grant more than its maker has.
    """
    if not 0 < len(name) <= 200:
        raise InputError.at("name", f"has {len(name)} characters", "use 1 to 200")
    secret = secrets.token_hex(32)
    with db.begin() as connection:
        now = db.now(connection)
        _check_end(expires_at, now)
        maker = None if by.key_id is None else one(connection, api_keys, tenant_id, by.key_id, lock=True)
        values: dict[str, Any] = {
            "id": new_id("key"),
            "tenant_id": tenant_id,
            "name": name,
            "scopes": json.dumps(checked(scopes)),
            **_hashed(secret),
            "created_at": now,
            "expires_at": maker["expires_at"] if maker and expires_at is None else expires_at,
        }
        _check_grant(maker, values, now)
        connection.execute(sa.insert(api_keys).values(values))
        detail = {"name": name, "scopes": checked(scopes), "expires_at": values["expires_at"] and values["expires_at"].isoformat()}
        audit.record(connection, tenant_id, by, "key.created", values["id"], now, detail)
        return _key(one(connection, api_keys, tenant_id, values["id"])), _token(values["id"], secret)


def rotate_key(db: Database, tenant_id: str, key_id: str, grace: timedelta = timedelta(0), by: Actor = audit.SERVER) -> tuple[ApiKey, str]:
    """A new secret for a key, and its token. The secret before stays good for `grace`; the one before that ends at once.

    Raises:
        NotFound: no such key.
        InputError: the grace is longer than a day.
        Conflict: the key was revoked or has expired.
        Forbidden: the key can do more or lives longer than the one that asks.
    """
    if not timedelta(0) <= grace <= LONGEST_GRACE:
        raise InputError.at("grace_seconds", f"is {grace.total_seconds():.0f}", f"use 0 to {LONGEST_GRACE.total_seconds():.0f}")
    secret = secrets.token_hex(32)
    with db.begin() as connection:
        now, row = db.now(connection), one(connection, api_keys, tenant_id, key_id, lock=True)
        if _ended(row, now):
            raise Conflict.at("key", f"{key_id} was revoked or has expired", "make a new one")
        if by.key_id not in (None, key_id):
            _check_grant(one(connection, api_keys, tenant_id, by.key_id or "", lock=True), row, now)
        kept = {"previous_sha256": row["secret_sha256"], "previous_until": now + grace} if grace else _NO_PREVIOUS
        mine = owned(api_keys, tenant_id) & (api_keys.c.id == key_id)
        connection.execute(sa.update(api_keys).where(mine).values(**_hashed(secret), **kept))
        audit.record(connection, tenant_id, by, "key.rotated", key_id, now, {"grace_seconds": grace.total_seconds()})
        return _key(one(connection, api_keys, tenant_id, key_id)), _token(key_id, secret)


def revoke_key(db: Database, tenant_id: str, key_id: str, by: Actor = audit.SERVER) -> ApiKey:
    """Ends a key for good, all its secrets; a second call changes nothing.

    Raises:
        NotFound: no such key.
    """
    with db.begin() as connection:
        if one(connection, api_keys, tenant_id, key_id, lock=True)["revoked_at"] is None:
            now, mine = db.now(connection), owned(api_keys, tenant_id) & (api_keys.c.id == key_id)
            connection.execute(sa.update(api_keys).where(mine).values(revoked_at=now))
            audit.record(connection, tenant_id, by, "key.revoked", key_id, now)
        return _key(one(connection, api_keys, tenant_id, key_id))


def get_key(db: Database, tenant_id: str, key_id: str) -> ApiKey:
    with db.read() as connection:
        return _key(one(connection, api_keys, tenant_id, key_id))


def list_keys(db: Database, tenant_id: str, *, limit: int, cursor: str | None = None) -> Page[ApiKey]:
    """Newest first, revoked ones included."""
    with db.read() as connection:
        rows, following = newest(connection, api_keys, tenant_id, limit=limit, cursor=cursor)
        return Page(items=tuple(_key(row) for row in rows), next_cursor=following)


def authenticate(db: Database, token: str) -> ApiKey | None:
    """The key of a token, or null when it is unknown, revoked, expired, or of a secret whose grace is over."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        return None
    with db.read() as connection:
        # Whose it is comes out of it: this is the one question that has no tenant yet.
        found = connection.execute(everyones(sa.select(api_keys).where(api_keys.c.id == f"key_{parts[1]}"))).mappings().first()
        now = db.now(connection)
    if found is None:
        return None
    digest = hashlib.sha256(parts[2].encode()).hexdigest()
    current = hmac.compare_digest(digest, found["secret_sha256"])
    previous = hmac.compare_digest(digest, found["previous_sha256"] or "") and found["previous_until"] > now
    return _key(found) if (current or previous) and not _ended(found, now) else None


def note_use(db: Database, key: ApiKey) -> None:
    """Keep when a key was last used, to the minute; most calls write nothing."""
    if key.last_used_at is None or datetime.now(UTC) - key.last_used_at > _TOUCH_EVERY:
        with db.begin() as connection:
            mine = owned(api_keys, key.tenant_id) & (api_keys.c.id == key.id)
            connection.execute(sa.update(api_keys).where(mine).values(last_used_at=db.now(connection)))


_NO_PREVIOUS: dict[str, Any] = {"previous_sha256": None, "previous_until": None}


def _hashed(secret: str) -> dict[str, str]:
    return {"secret_sha256": hashlib.sha256(secret.encode()).hexdigest(), "last4": secret[-4:]}


def _token(key_id: str, secret: str) -> str:
    return f"assay_{key_id.removeprefix('key_')}_{secret}"


def _ended(row: Any, now: datetime) -> bool:
    return row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= now)


def _check_end(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and not now < expires_at <= now + LONGEST_LIFE:
        raise InputError.at("expires_at", "lies in the past or more than ten years ahead", "choose a moment between, or none")


def _check_grant(maker: Any, key: Any, now: datetime) -> None:
    """A maker of None is the server itself."""
    if maker is None:
        return
    if _ended(maker, now):
        raise Forbidden.at("Authorization", "the key that asks was revoked or has expired", "use another")
    held, wanted = json.loads(maker["scopes"]), json.loads(key["scopes"])
    missing = [scope for scope in wanted if not allows(held, [scope])]
    if missing:
        raise Forbidden.at("scopes", f"the key that asks has no {', '.join(missing)} itself", "grant only what it has")
    if maker["expires_at"] is not None and (key["expires_at"] is None or key["expires_at"] > maker["expires_at"]):
        detail = f"the key that asks ends at {maker['expires_at']:%Y-%m-%dT%H:%M:%SZ}, and the other one would outlive it"
        raise Forbidden.at("expires_at", detail, "choose an earlier end, or use a key that lives longer")


def _key(row: Any) -> ApiKey:
    values = {name: row[name] for name in ApiKey.__dataclass_fields__}
    return ApiKey(**{**values, "scopes": tuple(json.loads(row["scopes"]))})
