"""Keys open what they should, and nothing once revoked or expired."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from storage import tenants
from storage.database import Database
from storage.errors import NotFound
from storage.tables import api_keys


def test_a_tenant_is_made_once(db: Database) -> None:
    first = tenants.ensure_tenant(db, "acme")
    assert tenants.ensure_tenant(db, "acme") == first
    assert tenants.ensure_tenant(db, "other").id != first.id
    assert first.created_at.utcoffset() == timedelta(0)


def test_a_token_opens_its_key_and_only_its_key(db: Database) -> None:
    tenant = tenants.ensure_tenant(db, "acme").id
    key, token = tenants.create_key(db, tenant, "laptop", scopes=("jobs:read", "jobs:write"))
    found = tenants.authenticate(db, token)
    assert found is not None
    assert (found.id, found.tenant_id, found.scopes, found.last4) == (key.id, tenant, ("jobs:read", "jobs:write"), token[-4:])
    flipped = token[:-1] + ("0" if token[-1] != "0" else "1")
    other = tenants.create_key(db, tenant, "server")[1]
    mixed = "_".join([*token.split("_")[:-1], other.split("_")[-1]])
    for wrong in (flipped, mixed, token[:-1], "", "assay", "assay__", "assay_x_y", token.replace("assay", "essay"), token + "_x"):
        assert tenants.authenticate(db, wrong) is None


def test_no_secret_is_stored(db: Database) -> None:
    _, token = tenants.create_key(db, tenants.ensure_tenant(db, "acme").id, "laptop")
    with db.read() as connection:
        row = connection.execute(sa.select(api_keys)).one()
    assert all(token.split("_")[-1] not in str(value) for value in row)


def test_revoked_and_expired_keys_are_closed(db: Database) -> None:
    tenant = tenants.ensure_tenant(db, "acme").id
    key, token = tenants.create_key(db, tenant, "a")
    late = tenants.create_key(db, tenant, "b", expires_at=datetime.now(UTC) - timedelta(seconds=1))[1]
    good = tenants.create_key(db, tenant, "c", expires_at=datetime.now(UTC) + timedelta(hours=1))[1]
    revoked = tenants.revoke_key(db, tenant, key.id)
    assert revoked.revoked_at is not None
    assert tenants.revoke_key(db, tenant, key.id).revoked_at == revoked.revoked_at
    assert tenants.authenticate(db, token) is None
    assert tenants.authenticate(db, late) is None
    assert tenants.authenticate(db, good) is not None


def test_use_is_noted_at_most_once_a_minute(db: Database) -> None:
    tenant = tenants.ensure_tenant(db, "acme").id
    token = tenants.create_key(db, tenant, "a")[1]

    def used() -> datetime | None:
        return tenants.list_keys(db, tenant)[0].last_used_at

    assert used() is None
    tenants.authenticate(db, token)
    first = used()
    assert first is not None
    tenants.authenticate(db, token)
    assert used() == first
    with db.begin() as connection:
        connection.execute(sa.update(api_keys).values(last_used_at=first - timedelta(minutes=2)))
    tenants.authenticate(db, token)
    assert (used() or first) >= first


def test_keys_of_another_tenant_do_not_exist(db: Database) -> None:
    mine, theirs = tenants.ensure_tenant(db, "mine").id, tenants.ensure_tenant(db, "theirs").id
    key, token = tenants.create_key(db, theirs, "a")
    assert tenants.list_keys(db, mine) == ()
    with pytest.raises(NotFound):
        tenants.revoke_key(db, mine, key.id)
    assert tenants.authenticate(db, token) is not None
