"""Tenants are made once and limited by the operator; the audit log tells, and never forgets."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from storage import audit, keys, tenants
from storage.database import Database
from storage.errors import NotFound
from storage.records import Actor
from storage.tables import audit_log
from tests.support.shop import Shop


def test_a_tenant_is_made_once(db: Database) -> None:
    first = tenants.ensure_tenant(db, "acme")
    assert tenants.ensure_tenant(db, "acme") == tenants.find_tenant(db, "acme") == first
    assert tenants.ensure_tenant(db, "other").id != first.id
    assert first.created_at.utcoffset() == timedelta(0)
    assert [tenant.name for tenant in tenants.list_tenants(db)] == ["acme", "other"]
    with pytest.raises(NotFound, match="assay tenant list"):
        tenants.find_tenant(db, "nobody")


def test_limits_change_one_by_one_and_go_back(db: Database) -> None:
    tenants.ensure_tenant(db, "other")
    tenants.ensure_tenant(db, "acme")
    tenants.set_limits(db, "acme", max_queued_jobs=3)
    found = tenants.set_limits(db, "acme", max_stored_bytes=2**40)
    assert (found.max_queued_jobs, found.max_stored_bytes) == (3, 2**40)
    assert tenants.set_limits(db, "acme", max_queued_jobs=None).max_queued_jobs is None
    assert tenants.find_tenant(db, "other").max_stored_bytes is None
    with pytest.raises(NotFound):
        tenants.set_limits(db, "nobody", max_queued_jobs=3)


def actions(db: Database, tenant: str, action: str | None = None) -> list[str]:
    return [entry.action for entry in audit.list_entries(db, tenant, limit=100, action=action).items]


def test_every_change_of_a_tenant_is_told(shop: Shop) -> None:
    db, by = shop.db, Actor(key_id="key_1", request_id="req_1")
    job = shop.submit()
    shop.submit()  # the same question changes nothing
    shop.cancel(by)
    shop.cancel(by)
    key, _ = keys.create_key(db, shop.tenant, "ci", ["read"])
    keys.rotate_key(db, shop.tenant, key.id)
    keys.revoke_key(db, shop.tenant, key.id)
    keys.revoke_key(db, shop.tenant, key.id)
    told = ["tenant.created", "model.registered", "dataset.registered", "job.submitted", "job.cancelled"]
    told += ["key.created", "key.rotated", "key.revoked"]
    assert sorted(actions(db, shop.tenant)) == sorted(told)
    assert sorted(actions(db, shop.tenant, "key")) == sorted(told[-3:])
    assert actions(db, shop.tenant, "job.cancelled") == ["job.cancelled"]
    assert actions(db, shop.tenant, "j%") == actions(db, tenants.ensure_tenant(db, "other").id, "job") == []
    (cancelled,) = audit.list_entries(db, shop.tenant, limit=1, action="job.cancelled").items
    assert (cancelled.key_id, cancelled.request_id, cancelled.target) == ("key_1", "req_1", job.id)


def test_what_was_rolled_back_is_not_told(db: Database) -> None:
    tenant = tenants.ensure_tenant(db, "acme").id

    def broken() -> None:
        with db.begin() as connection:
            audit.record(connection, tenant, audit.SERVER, "key.created", "key_1", db.now(connection))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert actions(db, tenant) == ["tenant.created"]


def test_the_audit_log_comes_page_by_page(db: Database) -> None:
    tenant = tenants.ensure_tenant(db, "acme").id
    for number in range(4):
        tenants.set_limits(db, "acme", max_queued_jobs=number)
    first = audit.list_entries(db, tenant, limit=2)
    second = audit.list_entries(db, tenant, limit=2, cursor=first.next_cursor)
    third = audit.list_entries(db, tenant, limit=2, cursor=second.next_cursor)
    assert len({entry.id for page in (first, second, third) for entry in page.items}) == 5
    assert third.next_cursor is None


@pytest.mark.parametrize("statement", [sa.update(audit_log).values(action="x"), sa.delete(audit_log)], ids=["update", "delete"])
def test_the_database_itself_keeps_the_audit_log(db: Database, statement: sa.Executable) -> None:
    tenant = tenants.ensure_tenant(db, "acme").id
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), db.begin() as connection:
        connection.execute(statement)
    assert actions(db, tenant) == ["tenant.created"]


def test_postgresql_does_not_truncate_the_audit_log_either(db: Database) -> None:
    if db.engine.dialect.name == "postgresql":
        with pytest.raises(sa.exc.IntegrityError, match="append-only"), db.begin() as connection:
            connection.execute(sa.text("TRUNCATE audit_log"))
