"""Webhooks and their outbox: an event is there exactly when what it tells of has happened, and it has one sender at a time."""

from __future__ import annotations

import json
import threading
import time

import pytest
import sqlalchemy as sa

from certify.errors import InputError, Problem
from storage import gates, jobs, webhooks
from storage.database import Database
from storage.errors import Conflict, LostLease, NotFound
from storage.gates import create_gate
from storage.records_gates import Delivery, DeliveryLease, DeliveryState
from storage.tables import outbox
from storage.webhooks import EVENTS, MAX_ATTEMPTS, MAX_WEBHOOKS
from tests.support.gated import answered
from tests.support.pairs import rules
from tests.support.shop import Shop
from workers import gates as judging

URL = "https://8.8.8.8/hook"


def hook(shop: Shop, *events: str) -> str:
    return webhooks.create_webhook(shop.db, shop.tenant, url=URL, events=events or EVENTS)[0].id


def deliveries(shop: Shop, webhook_id: str) -> list[Delivery]:
    return list(webhooks.list_deliveries(shop.db, shop.tenant, webhook_id, limit=100).items)[::-1]


def lease(db: Database, ttl: float = 60.0) -> DeliveryLease:
    found = webhooks.lease_delivery(db, "sender", ttl)
    assert found is not None
    return found


def put(shop: Shop, about: str, event: str = "gate.failed") -> None:
    with shop.db.begin() as connection:
        webhooks.announce(connection, shop.tenant, event, about, {"n": 1}, shop.db.now(connection))


def test_the_secret_is_shown_once_and_kept_for_signing(shop: Shop) -> None:
    made, secret = webhooks.create_webhook(shop.db, shop.tenant, url=URL, events=["gate.failed"])
    assert secret.startswith("whsec_")
    assert secret not in repr(made)
    assert secret not in repr(webhooks.get_webhook(shop.db, shop.tenant, made.id))
    put(shop, "out_1")
    found = lease(shop.db)
    assert found.secret == secret
    assert secret not in repr(found)  # reprs end up in logs


def test_every_ending_of_a_job_is_told_once(shop: Shop) -> None:
    all_of_them, other = hook(shop), hook(shop, "gate.passed")
    done = answered(shop, shop.submit(seed=1), [True] * 8)
    cancelled = shop.submit(seed=2)
    for _ in range(2):
        jobs.request_cancel(shop.db, shop.tenant, cancelled.id)
    failed = shop.submit(seed=3)
    for _ in range(2):
        jobs.fail_job(shop.db, failed.id, [Problem(field="job", detail="broke")])
    with shop.db.read() as connection:
        bodies = [json.loads(body) for body in connection.execute(sa.select(outbox.c.body).order_by(outbox.c.id)).scalars()]
    told = {(body["type"], body["data"]["job"], body["data"]["state"]) for body in bodies}
    assert told == {("job.ended", done.id, "succeeded"), ("job.ended", cancelled.id, "cancelled"), ("job.ended", failed.id, "failed")}
    assert len(bodies) == 3
    assert [one.event for one in deliveries(shop, all_of_them)] == ["job.ended"] * 3
    assert deliveries(shop, other) == []


def test_an_outcome_and_its_event_are_there_together_or_not_at_all(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    hook_id = hook(shop, "gate.passed", "gate.failed", "gate.inconclusive")
    job = answered(shop, shop.submit(), [True] * 8)
    rule = rules({"kind": "certified-accuracy", "radius": 0.1, "at_least": 0.9})
    gate = create_gate(shop.db, shop.tenant, name="g", rules=rule, job_id=job.id)
    monkeypatch.setattr(webhooks, "_put", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judging.step(shop.db)
    assert gates.list_outcomes(shop.db, shop.tenant, gate.id, limit=9).items == ()
    monkeypatch.undo()
    judging.step(shop.db)
    (outcome,) = gates.list_outcomes(shop.db, shop.tenant, gate.id, limit=9).items
    (told,) = deliveries(shop, hook_id)
    body = json.loads(lease(shop.db).body)
    assert (body["id"], body["type"], body["data"]["outcome"]) == (told.id, "gate.passed", outcome.id)
    assert body["data"]["sentence"] == outcome.sentence
    assert body["data"]["checks"][0]["numbers"]["certified"] == 8


def test_what_happened_is_written_once_even_if_it_is_announced_twice(shop: Shop) -> None:
    hook_id = hook(shop)
    put(shop, "out_1")
    put(shop, "out_1")
    put(shop, "out_2")
    assert len(deliveries(shop, hook_id)) == 2


def test_a_change_that_is_rolled_back_is_not_told(shop: Shop) -> None:
    hook_id = hook(shop)

    def change() -> None:
        with shop.db.begin() as connection:
            webhooks.announce(connection, shop.tenant, "gate.failed", "out_1", {}, shop.db.now(connection))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change()
    assert deliveries(shop, hook_id) == []


def test_an_event_has_one_sender_and_is_taken_over_from_a_dead_one(shop: Shop) -> None:
    hook_id = hook(shop)
    put(shop, "out_1")
    first = lease(shop.db, ttl=0.3)
    assert webhooks.lease_delivery(shop.db, "other", 60) is None
    time.sleep(0.4)
    second = lease(shop.db)
    assert (second.id, second.body, second.attempts) == (first.id, first.body, 2)
    with pytest.raises(LostLease):
        webhooks.finish_delivery(shop.db, first)
    webhooks.finish_delivery(shop.db, second)
    (told,) = deliveries(shop, hook_id)
    assert told.state is DeliveryState.DELIVERED
    assert told.delivered_at is not None
    assert webhooks.lease_delivery(shop.db, "other", 60) is None


def test_many_senders_never_share_an_event(shop: Shop) -> None:
    for _ in range(8):
        hook(shop)
    put(shop, "out_1")
    taken: list[str] = []

    def work() -> None:
        while (found := webhooks.lease_delivery(shop.db, "w", 60)) is not None:
            taken.append(found.id)
            webhooks.finish_delivery(shop.db, found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 8


def test_a_receiver_that_hangs_holds_up_only_itself(shop: Shop) -> None:
    slow = hook(shop, "gate.failed")
    put(shop, "out_1")
    put(shop, "out_2")
    quick = hook(shop, "gate.passed")
    put(shop, "out_3", "gate.passed")
    assert [lease(shop.db).webhook_id for _ in range(2)] == [slow, quick]
    assert webhooks.lease_delivery(shop.db, "other", 60) is None  # the second event of the slow one waits for its first


def test_it_waits_between_attempts_and_gives_up_after_the_last(shop: Shop) -> None:
    hook_id = hook(shop)
    put(shop, "out_1")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        found = lease(shop.db)
        assert found.attempts == attempt
        state = webhooks.retry_delivery(shop.db, found, "the receiver answered 500", 0.0)
    assert state is DeliveryState.GIVEN_UP
    assert webhooks.lease_delivery(shop.db, "other", 60) is None
    (told,) = deliveries(shop, hook_id)
    assert (told.state, told.attempts, told.last_error) == (DeliveryState.GIVEN_UP, MAX_ATTEMPTS, "the receiver answered 500")
    put(shop, "out_2")
    webhooks.retry_delivery(shop.db, lease(shop.db), "no", 3600.0)
    assert webhooks.lease_delivery(shop.db, "other", 60) is None


def test_a_sender_that_always_dies_is_not_followed_for_ever(shop: Shop) -> None:
    hook_id = hook(shop)
    put(shop, "out_1")
    for _ in range(MAX_ATTEMPTS):
        lease(shop.db, ttl=-1.0)
    assert webhooks.lease_delivery(shop.db, "w", 60) is None
    assert deliveries(shop, hook_id)[0].state is DeliveryState.GIVEN_UP


def test_a_paused_webhook_is_told_nothing_and_a_deleted_one_is_forgotten(shop: Shop) -> None:
    hook_id = hook(shop)
    put(shop, "out_1")
    webhooks.set_active(shop.db, shop.tenant, hook_id, False)
    put(shop, "out_2")
    assert webhooks.lease_delivery(shop.db, "w", 60) is None
    with pytest.raises(Conflict, match="paused"):
        webhooks.send_test(shop.db, shop.tenant, hook_id)
    webhooks.set_active(shop.db, shop.tenant, hook_id, True)
    found = lease(shop.db)
    assert len(deliveries(shop, hook_id)) == 1
    webhooks.delete_webhook(shop.db, shop.tenant, hook_id)
    with pytest.raises(LostLease):
        webhooks.finish_delivery(shop.db, found)
    put(shop, "out_3")
    assert webhooks.lease_delivery(shop.db, "w", 60) is None


def test_a_test_event_goes_to_its_webhook_only(shop: Shop) -> None:
    hook_id, other = hook(shop, "gate.failed"), hook(shop)
    sent = webhooks.send_test(shop.db, shop.tenant, hook_id)
    assert sent.event == "webhook.test"
    assert json.loads(lease(shop.db).body)["data"] == {"webhook": hook_id}
    assert deliveries(shop, other) == []
    assert webhooks.send_test(shop.db, shop.tenant, hook_id).id != sent.id


def test_what_cannot_be_a_webhook_is_refused(shop: Shop) -> None:
    with pytest.raises(InputError, match="private network"):
        webhooks.create_webhook(shop.db, shop.tenant, url="http://127.0.0.1/", events=["gate.failed"])
    with pytest.raises(InputError, match=r"'gate\.exploded' is not known"):
        webhooks.create_webhook(shop.db, shop.tenant, url=URL, events=["gate.exploded"])
    for _ in range(MAX_WEBHOOKS):
        hook(shop)
    with pytest.raises(Conflict, match="already"):
        hook(shop)


def test_another_tenant_hears_and_sees_nothing(db: Database, shop: Shop) -> None:
    stranger = Shop.open(db, "stranger")
    mine, theirs = hook(shop), hook(stranger)
    put(shop, "out_1")
    assert deliveries(stranger, theirs) == []
    for act in (
        lambda: webhooks.get_webhook(db, stranger.tenant, mine),
        lambda: webhooks.delete_webhook(db, stranger.tenant, mine),
        lambda: webhooks.set_active(db, stranger.tenant, mine, False),
        lambda: webhooks.send_test(db, stranger.tenant, mine),
        lambda: deliveries(stranger, mine),
    ):
        with pytest.raises(NotFound, match="there is no webhook"):
            act()
    assert [one.id for one in webhooks.list_webhooks(db, stranger.tenant, limit=9).items] == [theirs]
