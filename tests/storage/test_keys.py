"""Keys open what they should, and nothing once revoked, expired or rotated away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from certify.errors import InputError
from storage import keys, tenants
from storage.database import Database
from storage.errors import Conflict, Forbidden, NotFound
from storage.records import Actor
from storage.scopes import SCOPES, allows, checked
from storage.tables import api_keys

HOUR = timedelta(hours=1)


@pytest.fixture
def tenant(db: Database) -> str:
    return tenants.ensure_tenant(db, "acme").id


def change(db: Database, key_id: str, **values: Any) -> None:
    with db.begin() as connection:
        connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(**values))


def by(key_id: str) -> Actor:
    return Actor(key_id=key_id, request_id="req_1")


def soon(hours: float = 1) -> datetime:
    return datetime.now(UTC) + timedelta(hours=hours)


def test_a_token_opens_its_key_and_only_its_key(db: Database, tenant: str) -> None:
    key, token = keys.create_key(db, tenant, "laptop", scopes=("jobs:write", "read", "read"))
    assert keys.authenticate(db, token) == key
    assert (key.tenant_id, key.scopes, key.last4) == (tenant, ("read", "jobs:write"), token[-4:])
    flipped = token[:-1] + ("0" if token[-1] != "0" else "1")
    other = keys.create_key(db, tenant, "server")[1]
    mixed = "_".join([*token.split("_")[:-1], other.split("_")[-1]])
    for wrong in (
        flipped,
        mixed,
        token[:-1],
        "",
        "assay",
        "assay__",
        "assay_x_y",
        token.replace("assay", "essay"),
        token + "_x",
        token + "\n",
    ):
        assert keys.authenticate(db, wrong) is None


def test_no_secret_is_stored(db: Database, tenant: str) -> None:
    key, token = keys.create_key(db, tenant, "laptop")
    rotated = keys.rotate_key(db, tenant, key.id, HOUR)[1]
    with db.read() as connection:
        row = connection.execute(sa.select(api_keys)).one()
    assert all(secret.split("_")[-1] not in str(value) for value in row for secret in (token, rotated))


def test_revoked_and_expired_keys_are_closed(db: Database, tenant: str) -> None:
    key, token = keys.create_key(db, tenant, "a")
    late, late_token = keys.create_key(db, tenant, "b", expires_at=soon())
    good = keys.create_key(db, tenant, "c", expires_at=soon())[1]
    change(db, late.id, expires_at=soon(-1))
    revoked = keys.revoke_key(db, tenant, key.id)
    assert revoked.revoked_at is not None
    assert keys.revoke_key(db, tenant, key.id).revoked_at == revoked.revoked_at
    assert keys.authenticate(db, token) is None
    assert keys.authenticate(db, late_token) is None
    assert keys.authenticate(db, good) is not None


@pytest.mark.parametrize("hours", [-1, 0, 24 * 4000])
def test_an_end_in_the_past_or_far_off_is_refused(db: Database, tenant: str, hours: float) -> None:
    with pytest.raises(InputError, match="expires_at"):
        keys.create_key(db, tenant, "a", expires_at=soon(hours))


def test_rotation_ends_the_old_secret_at_once(db: Database, tenant: str) -> None:
    key, old = keys.create_key(db, tenant, "a", ["read"])
    rotated, new = keys.rotate_key(db, tenant, key.id)
    assert (rotated.id, rotated.scopes, rotated.previous_until) == (key.id, key.scopes, None)
    assert rotated.last4 == new[-4:]
    assert keys.authenticate(db, old) is None
    assert keys.authenticate(db, new) == rotated


def test_rotation_with_grace_keeps_the_old_secret_for_a_while(db: Database, tenant: str) -> None:
    key, first = keys.create_key(db, tenant, "a")
    rotated, second = keys.rotate_key(db, tenant, key.id, HOUR)
    assert keys.authenticate(db, first) == keys.authenticate(db, second) == rotated
    assert rotated.previous_until is not None
    change(db, key.id, previous_until=soon(-1))
    assert keys.authenticate(db, first) is None
    third = keys.rotate_key(db, tenant, key.id, HOUR)[1]
    assert [keys.authenticate(db, token) is not None for token in (first, second, third)] == [False, True, True]
    keys.revoke_key(db, tenant, key.id)
    assert [keys.authenticate(db, token) for token in (second, third)] == [None, None]


def test_grace_is_at_most_a_day_and_ended_keys_stay_ended(db: Database, tenant: str) -> None:
    key, token = keys.create_key(db, tenant, "a", expires_at=soon())
    for grace in (timedelta(seconds=-1), timedelta(hours=24, seconds=1)):
        with pytest.raises(InputError, match="grace_seconds"):
            keys.rotate_key(db, tenant, key.id, grace)
    assert keys.authenticate(db, token) is not None
    change(db, key.id, expires_at=soon(-1))
    with pytest.raises(Conflict):
        keys.rotate_key(db, tenant, key.id)
    revoked = keys.revoke_key(db, tenant, keys.create_key(db, tenant, "b")[0].id)
    with pytest.raises(Conflict):
        keys.rotate_key(db, tenant, revoked.id)


def test_a_key_grants_no_more_than_its_maker_has(db: Database, tenant: str) -> None:
    maker = keys.create_key(db, tenant, "maker", ["read", "jobs:write"], soon(2))[0]
    with pytest.raises(Forbidden, match="gates:write"):
        keys.create_key(db, tenant, "a", ["read", "gates:write"], by=by(maker.id))
    with pytest.raises(Forbidden, match="admin"):
        keys.create_key(db, tenant, "a", ["admin"], by=by(maker.id))
    with pytest.raises(Forbidden, match="outlive"):
        keys.create_key(db, tenant, "a", ["read"], soon(3), by=by(maker.id))
    assert keys.create_key(db, tenant, "a", ["read"], by=by(maker.id))[0].expires_at == maker.expires_at
    assert keys.create_key(db, tenant, "a", ["read"], soon(1), by=by(maker.id))[0].scopes == ("read",)
    keys.revoke_key(db, tenant, maker.id)
    with pytest.raises(Forbidden, match="revoked"):
        keys.create_key(db, tenant, "a", ["read"], by=by(maker.id))


def test_rotating_a_stronger_key_would_hand_it_over(db: Database, tenant: str) -> None:
    strong, token = keys.create_key(db, tenant, "strong")
    brief = keys.create_key(db, tenant, "brief", expires_at=soon())[0]
    with pytest.raises(Forbidden, match="outlive"):
        keys.rotate_key(db, tenant, strong.id, by=by(brief.id))
    assert keys.authenticate(db, token) == strong
    assert keys.rotate_key(db, tenant, brief.id, by=by(brief.id))[0].expires_at == brief.expires_at
    assert keys.rotate_key(db, tenant, brief.id, by=by(strong.id))[0].id == brief.id


def test_scopes_are_known_and_admin_implies_all() -> None:
    for wrong in ((), ("jobs:read",), ("read", "Admin")):
        with pytest.raises(InputError, match="scopes"):
            checked(wrong)
    assert checked(("admin", "read", "admin")) == ("read", "admin")
    for scope in SCOPES:
        assert allows(["admin"], [scope])
        assert allows([scope], [scope, "other"])
        assert [held for held in SCOPES if allows([held], [scope])] == sorted({scope, "admin"}, key=SCOPES.index)
    assert not allows(["read"], [])
    assert allows(["admin"], [])


def test_use_is_noted_at_most_once_a_minute(db: Database, tenant: str) -> None:
    key, token = keys.create_key(db, tenant, "a")

    def used() -> datetime | None:
        found = keys.authenticate(db, token)
        assert found is not None
        keys.note_use(db, found)
        return keys.get_key(db, tenant, key.id).last_used_at

    first = used()
    assert first is not None
    assert used() == first
    change(db, key.id, last_used_at=first - timedelta(minutes=2))
    assert (used() or first) >= first


def test_keys_come_page_by_page(db: Database, tenant: str) -> None:
    made = {keys.create_key(db, tenant, str(number))[0].id for number in range(3)}
    first = keys.list_keys(db, tenant, limit=2)
    second = keys.list_keys(db, tenant, limit=2, cursor=first.next_cursor)
    assert {key.id for key in (*first.items, *second.items)} == made
    assert second.next_cursor is None


def test_keys_of_another_tenant_do_not_exist(db: Database, tenant: str) -> None:
    key, token = keys.create_key(db, tenants.ensure_tenant(db, "theirs").id, "a")
    assert keys.list_keys(db, tenant, limit=10).items == ()
    for attempt in (keys.revoke_key, keys.get_key, keys.rotate_key):
        with pytest.raises(NotFound):
            attempt(db, tenant, key.id)
    with pytest.raises(NotFound):
        keys.create_key(db, tenant, "b", by=by(key.id))
    assert keys.authenticate(db, token) == key
