"""Webhooks and their outbox: what happens is written down in the transaction in which it happens, and sent until it arrives."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from certify.errors import InputError
from storage import audit
from storage.addresses import check_url
from storage.database import Database, insert_once, locked
from storage.errors import Conflict, LostLease
from storage.ids import new_id
from storage.records import Actor, Page
from storage.records_gates import Delivery, DeliveryLease, DeliveryState, Webhook
from storage.scoped import hold_tenant, newest, one, owned
from storage.tables import outbox, webhooks

EVENTS = ("gate.passed", "gate.failed", "gate.inconclusive", "job.ended")
TEST_EVENT = "webhook.test"
MAX_WEBHOOKS = 20
MAX_ATTEMPTS = 9


def create_webhook(
    db: Database, tenant_id: str, *, url: str, events: Sequence[str], private: bool = False, by: Actor = audit.SERVER
) -> tuple[Webhook, str]:
    """A webhook and its secret `whsec_...`, which is never shown again.

    Raises:
        InputError: the address cannot be used (see `check_url`), or an event is not known.
        Conflict: the tenant has as many webhooks as it may have.
    """
    check_url(url, private=private)
    if unknown := sorted(set(events) - set(EVENTS)):
        raise InputError.at("events", f"{unknown[0]!r} is not known", f"use some of {', '.join(EVENTS)}")
    with db.begin() as connection:
        hold_tenant(connection, tenant_id)
        count = connection.execute(sa.select(sa.func.count()).select_from(webhooks).where(owned(webhooks, tenant_id))).scalar_one()
        if count >= MAX_WEBHOOKS:
            raise Conflict.at("webhook", f"there are {MAX_WEBHOOKS} already", "delete one first")
        values = {
            "id": new_id("whk"),
            "tenant_id": tenant_id,
            "url": url,
            "secret": f"whsec_{secrets.token_hex(32)}",
            "events": json.dumps(sorted(set(events))),
            "active": True,
            "created_at": db.now(connection),
        }
        connection.execute(sa.insert(webhooks).values(values))
        audit.record(connection, tenant_id, by, "webhook.created", str(values["id"]), db.now(connection), {"url": url})
    return _webhook(values), str(values["secret"])


def get_webhook(db: Database, tenant_id: str, webhook_id: str) -> Webhook:
    with db.read() as connection:
        return _webhook(one(connection, webhooks, tenant_id, webhook_id))


def list_webhooks(db: Database, tenant_id: str, *, limit: int, cursor: str | None = None) -> Page[Webhook]:
    """Newest first."""
    with db.read() as connection:
        rows, following = newest(connection, webhooks, tenant_id, limit=limit, cursor=cursor)
    return Page(items=tuple(map(_webhook, rows)), next_cursor=following)


def set_active(db: Database, tenant_id: str, webhook_id: str, active: bool, *, by: Actor = audit.SERVER) -> Webhook:
    """Pause or resume a webhook. While it is paused nothing is sent to it, and what happens is not kept for it."""
    with db.begin() as connection:
        row = one(connection, webhooks, tenant_id, webhook_id, lock=True)
        connection.execute(sa.update(webhooks).where(owned(webhooks, tenant_id) & (webhooks.c.id == webhook_id)).values(active=active))
        audit.record(connection, tenant_id, by, f"webhook.{'resumed' if active else 'paused'}", webhook_id, db.now(connection))
    return _webhook({**row, "active": active})


def delete_webhook(db: Database, tenant_id: str, webhook_id: str, *, by: Actor = audit.SERVER) -> None:
    """The webhook, and what was still to be sent to it."""
    with db.begin() as connection:
        row = one(connection, webhooks, tenant_id, webhook_id, lock=True)
        connection.execute(sa.delete(webhooks).where(owned(webhooks, tenant_id) & (webhooks.c.id == webhook_id)))
        audit.record(connection, tenant_id, by, "webhook.deleted", webhook_id, db.now(connection), {"url": row["url"]})


def send_test(db: Database, tenant_id: str, webhook_id: str) -> Delivery:
    """An event of no meaning, for one webhook.

    Raises:
        Conflict: the webhook is paused.
    """
    with db.begin() as connection:
        row, now = one(connection, webhooks, tenant_id, webhook_id, lock=True), db.now(connection)
        if not row["active"]:
            raise Conflict.at("webhook", f"{webhook_id} is paused", "resume it first")
        event_id = _put(connection, tenant_id, webhook_id, TEST_EVENT, new_id("evt"), {"webhook": webhook_id}, now)
        return _delivery(one(connection, outbox, tenant_id, str(event_id)))


def list_deliveries(db: Database, tenant_id: str, webhook_id: str, *, limit: int, cursor: str | None = None) -> Page[Delivery]:
    """What was sent to a webhook, or is still to be sent; newest first."""
    with db.read() as connection:
        one(connection, webhooks, tenant_id, webhook_id)
        rows, following = newest(connection, outbox, tenant_id, outbox.c.webhook_id == webhook_id, limit=limit, cursor=cursor)
    return Page(items=tuple(map(_delivery, rows)), next_cursor=following)


def announce(connection: sa.Connection, tenant_id: str, event: str, about: str, data: Mapping[str, Any], now: datetime) -> None:
    """Part of the transaction in which something happened: one row for each webhook that listens, once for each `about`.

    Args:
        connection: of the change.
        tenant_id: whose webhooks.
        event: one of `EVENTS`.
        about: id of what happened, such as that of an outcome.
        data: what the receiver is told.
        now: the moment, of `db.now`.
    """
    listening = owned(webhooks, tenant_id) & webhooks.c.active
    # FOR KEY SHARE: a webhook that is deleted at the same time cannot make the change itself fail, and nobody waits for anybody else.
    query = sa.select(webhooks.c.id, webhooks.c.events).where(listening).order_by(webhooks.c.id).with_for_update(read=True, key_share=True)
    for row in connection.execute(query).all():
        if event in json.loads(row.events):
            _put(connection, tenant_id, row.id, event, about, data, now)


def lease_delivery(db: Database, sender: str, ttl: float) -> DeliveryLease | None:
    """The right to send the event that has waited longest, for `ttl` seconds; null when none is due.

    One event at a time for each webhook: a receiver that hangs holds up its own events only. A sender that died is taken over; what it
    may have sent already is sent again under the same id.
    """
    with db.read() as connection:  # on SQLite a writer holds up all others, and mostly there is nothing to send
        if connection.execute(_due(db.now(connection))).first() is None:
            return None
    with db.begin() as connection:
        while (row := connection.execute(locked(_due(db.now(connection)), of=outbox)).mappings().first()) is not None:
            mine = sa.update(outbox).where(outbox.c.id == row["id"])
            if row["attempts"] >= MAX_ATTEMPTS:
                lost = row["last_error"] or "the sender died before it heard an answer"
                connection.execute(mine.values(state=DeliveryState.GIVEN_UP, lease_until=None, last_error=lost))
                continue
            epoch, attempts = row["epoch"] + 1, row["attempts"] + 1
            until = db.now(connection) + timedelta(seconds=ttl)
            values = {"state": DeliveryState.SENDING, "lease_owner": sender, "lease_until": until, "epoch": epoch, "attempts": attempts}
            connection.execute(mine.values(values))
            fields = {name: row[name] for name in ("id", "webhook_id", "url", "secret", "body")}
            return DeliveryLease(**fields, epoch=epoch, attempts=attempts)
    return None


def finish_delivery(db: Database, lease: DeliveryLease) -> None:
    """The receiver has taken the event.

    Raises:
        LostLease: another sender has it, or the webhook was deleted.
    """
    with db.begin() as connection:
        _mine(connection, lease, state=DeliveryState.DELIVERED, lease_until=None, delivered_at=db.now(connection), last_error=None)


def retry_delivery(db: Database, lease: DeliveryLease, error: str, seconds: float) -> DeliveryState:
    """The receiver has not taken the event: try again in so many seconds, or give up after the last attempt.

    Raises:
        LostLease: another sender has it, or the webhook was deleted.
    """
    state = DeliveryState.PENDING if lease.attempts < MAX_ATTEMPTS else DeliveryState.GIVEN_UP
    with db.begin() as connection:
        later = db.now(connection) + timedelta(seconds=seconds)
        _mine(connection, lease, state=state, lease_until=None, not_before=later, last_error=error[:500])
    return state


def _put(
    connection: sa.Connection, tenant_id: str, webhook_id: str, event: str, about: str, data: Mapping[str, Any], now: datetime
) -> str | None:
    event_id = new_id("evt")
    body = {"id": event_id, "type": event, "created_at": now.isoformat().replace("+00:00", "Z"), "data": dict(data)}
    values = {
        "id": event_id,
        "tenant_id": tenant_id,
        "webhook_id": webhook_id,
        "about": f"{event}:{about}",
        "body": json.dumps(body, separators=(",", ":"), allow_nan=False),
        "state": DeliveryState.PENDING,
        "epoch": 0,
        "attempts": 0,
        "not_before": now,
        "created_at": now,
    }
    return event_id if insert_once(connection, outbox, values) else None


def _due(now: datetime) -> sa.Select[Any]:
    busy = outbox.alias("busy")
    waiting = (outbox.c.state == DeliveryState.PENDING) & (outbox.c.not_before <= now)
    silent = (outbox.c.state == DeliveryState.SENDING) & (outbox.c.lease_until < now)
    at_work = (busy.c.webhook_id == outbox.c.webhook_id) & (busy.c.state == DeliveryState.SENDING) & (busy.c.lease_until >= now)
    return (
        sa.select(outbox, webhooks.c.url, webhooks.c.secret)
        .join(webhooks, (webhooks.c.id == outbox.c.webhook_id) & webhooks.c.active)
        .where(waiting | silent, ~sa.select(busy.c.id).where(at_work).exists())
        .order_by(outbox.c.not_before, outbox.c.id)
        .limit(1)
    )


def _mine(connection: sa.Connection, lease: DeliveryLease, **values: Any) -> None:
    own = (outbox.c.id == lease.id) & (outbox.c.epoch == lease.epoch) & (outbox.c.state == DeliveryState.SENDING)
    if connection.execute(sa.update(outbox).where(own).values(**values)).rowcount != 1:
        raise LostLease


def _webhook(row: Any) -> Webhook:
    plain = {name: row[name] for name in Webhook.__dataclass_fields__ if name != "events"}
    return Webhook(**plain, events=tuple(json.loads(row["events"])))


def _delivery(row: Any) -> Delivery:
    plain = {name: row[name] for name in Delivery.__dataclass_fields__ if name not in ("event", "state")}
    return Delivery(**plain, event=row["about"].partition(":")[0], state=DeliveryState(row["state"]))
