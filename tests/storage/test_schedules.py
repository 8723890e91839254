"""Schedules: refused when they can never run, changed only as they were read, paused and resumed, tenants apart."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from certify.errors import InputError, Problem
from certify.gate_rules import parse_rules
from storage import catalog, firing, gates, schedules, tenants
from storage.errors import Conflict, NotFound, Stale
from storage.guard import guard
from storage.keys import create_key
from storage.records import Actor
from storage.records_schedules import CatchUp, Overlap, Ref, RunState
from storage.schedule_runs import count_schedules, list_runs
from storage.tables import audit_log
from tests.support.nights import Nights, schedule, template
from tests.support.shop import BOUNDS, SECRET, Shop


def test_a_schedule_is_kept_as_it_was_made(shop: Shop) -> None:
    made = schedule(shop, cron=" 0  2 * * * ", zone="Europe/Berlin", overlap=Overlap.QUEUE, catch_up=CatchUp.NONE, deadline_seconds=600)
    assert schedules.get_schedule(shop.db, shop.tenant, made.id) == made
    assert (made.cron, made.revision, made.paused) == ("0 2 * * *", 1, False)
    assert made.template.model == Ref(name="cnn")
    assert made.next_at is not None
    assert made.next_at.astimezone(UTC) - datetime.now(UTC) <= timedelta(hours=25)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cron": "0 25 * * *"}, "cron: '0 25 * * *'"),
        ({"zone": "Berlin"}, "zone: 'Berlin'"),
        ({"asks": {"examples": {"start": 100}}}, "template.spec.examples"),
        ({"asks": {"certifiers": [{**BOUNDS, "epsilon": -1}]}}, "epsilon"),
    ],
)
def test_what_can_never_run_is_refused(shop: Shop, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refusal:
        schedule(shop, **{**options, **({"asks": template(shop, **options["asks"])} if "asks" in options else {})})
    assert said in str(refusal.value)
    assert schedules.list_schedules(shop.db, shop.tenant, limit=10).items == ()


def test_a_template_names_what_exists(shop: Shop) -> None:
    for ref, said in (
        (Ref(name="nobody"), "no model named 'nobody'"),
        (Ref(name="cnn", version=7), "version 7"),
        (Ref(id="mdl_x"), "mdl_x"),
    ):
        with pytest.raises(NotFound, match=said):
            schedule(shop, asks=template(shop, model=ref))
    stranger = Shop.open(shop.db, "stranger")
    with pytest.raises(NotFound):
        schedule(stranger, asks=template(stranger, model=Ref(id=shop.model)))


RULES = [{"kind": "certified-accuracy", "radius": 0.1, "at_least": 0.5}]


def test_a_rejected_version_is_refused_and_one_under_inspection_is_not(shop: Shop) -> None:
    waiting = catalog.register_model(shop.db, shop.tenant, name="new", blob=catalog.get_model(shop.db, shop.tenant, shop.model).blob)
    assert schedule(shop, name="early", asks=template(shop, model=Ref(id=waiting.id))).next_at is not None
    lease = catalog.lease_inspection(shop.db, "w", 60)
    assert lease is not None
    catalog.reject(shop.db, lease, [Problem(field="operators", detail="Loop is not allowed")])
    with pytest.raises(InputError, match=r"template\.model: was rejected: operators: Loop is not allowed"):
        schedule(shop, name="late", asks=template(shop, model=Ref(id=waiting.id)))
    with pytest.raises(InputError, match="Loop"):
        schedule(shop, name="late", asks=template(shop, model=Ref(name="new", version=1)))
    with pytest.raises(InputError, match="Loop"):
        schedule(shop, name="hopeful", asks=template(shop, model=Ref(name="new")))
    early = schedules.list_schedules(shop.db, shop.tenant, limit=1, name="early").items[0]
    with pytest.raises(InputError, match=r"schedule\.model: was rejected: operators: Loop is not allowed"):
        gates.create_gate(shop.db, shop.tenant, name="g", rules=parse_rules(RULES), schedule_id=early.id)
    catalog.inspect_model_again(shop.db, shop.tenant, waiting.id)
    assert schedule(shop, name="hopeful", asks=template(shop, model=Ref(name="new"))).next_at is not None
    for _ in range(3):
        assert catalog.lease_inspection(shop.db, "w", 0.0) is not None
        time.sleep(0.01)
    assert catalog.lease_inspection(shop.db, "w", 60) is None
    with pytest.raises(Conflict, match="says nothing about the file"):
        schedule(shop, name="late", asks=template(shop, model=Ref(name="new")))
    with pytest.raises(Conflict, match="says nothing about the file"):
        shop.offer(model=waiting.id)


def test_names_are_taken_once_in_a_tenant(shop: Shop) -> None:
    first = schedule(shop)
    with pytest.raises(Conflict, match="there is a schedule named 'nightly' already"):
        schedule(shop)
    other = schedule(shop, name="weekly")
    with pytest.raises(Conflict, match="'nightly'"):
        schedules.update_schedule(shop.db, shop.tenant, other.id, name="nightly")
    assert schedules.update_schedule(shop.db, shop.tenant, first.id, name="nightly").revision == 1
    assert schedule(Shop.open(shop.db, "another")).name == "nightly"


def test_a_change_that_is_based_on_an_old_reading_is_refused(shop: Shop) -> None:
    made = schedule(shop)
    changed = schedules.update_schedule(shop.db, shop.tenant, made.id, revision=1, overlap=Overlap.ALLOW, deadline_seconds=60)
    assert (changed.revision, changed.overlap, changed.deadline_seconds) == (2, Overlap.ALLOW, 60)
    assert changed.next_at == made.next_at
    with pytest.raises(Stale, match=r"If-Match: is 1, but .* is at revision 2"):
        schedules.update_schedule(shop.db, shop.tenant, made.id, revision=1, overlap=Overlap.SKIP)
    assert schedules.get_schedule(shop.db, shop.tenant, made.id) == changed
    assert schedules.update_schedule(shop.db, shop.tenant, made.id, revision=2, deadline_seconds=None).deadline_seconds is None


def test_of_two_changes_at_once_one_is_refused(shop: Shop) -> None:
    made = schedule(shop)

    def change(seconds: int) -> bool:
        try:
            schedules.update_schedule(shop.db, shop.tenant, made.id, revision=1, deadline_seconds=seconds)
        except Stale:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(change, (10, 20, 30, 40))) == 1


def test_a_change_is_checked_like_a_new_schedule(shop: Shop) -> None:
    made = schedule(shop)
    for changes, said in (
        ({"cron": "nonsense"}, "cron"),
        ({"zone": "Mars/Base"}, "zone"),
        ({"template": template(shop, examples={"start": 100})}, "template"),
    ):
        with pytest.raises(InputError, match=said):
            schedules.update_schedule(shop.db, shop.tenant, made.id, **changes)  # type: ignore[misc]
    assert schedules.get_schedule(shop.db, shop.tenant, made.id) == made
    moved = schedules.update_schedule(
        shop.db, shop.tenant, made.id, cron="30 4 * * *", zone="America/New_York", template=template(shop, seed=5)
    )
    assert moved.next_at is not None
    assert moved.next_at.minute == 30
    assert moved.next_at.hour in (8, 9)
    assert moved.template.spec.seed == 5


def test_paused_it_has_no_tick_and_resumed_it_counts_from_now(shop: Shop) -> None:
    nights = Nights.of(shop)
    paused = schedules.update_schedule(shop.db, shop.tenant, nights.id, paused=True)
    assert (paused.paused, paused.next_at, paused.revision) == (True, None, 2)
    assert schedules.update_schedule(shop.db, shop.tenant, nights.id, paused=True).revision == 2
    assert nights.fire(5) == ()
    resumed = schedules.update_schedule(shop.db, shop.tenant, nights.id, paused=False)
    assert (resumed.paused, resumed.next_at, resumed.revision) == (False, nights.first, 3)
    assert nights.history() == []
    assert schedule(shop, name="asleep", paused=True).next_at is None


def test_a_tick_that_was_due_when_the_schedule_was_changed_has_its_reason(shop: Shop) -> None:
    nights = Nights.of(shop, cron="* * * * *")
    early = nights.first - timedelta(minutes=3)
    with shop.db.begin() as connection:  # as if no scheduler had run for three minutes
        connection.execute(schedules.schedules.update().values(next_at=early))
    schedules.update_schedule(shop.db, shop.tenant, nights.id, cron="0 0 1 1 *")
    (run,) = nights.history()
    assert (run.scheduled_for, run.state, run.reason) == (early, RunState.SKIPPED, "the schedule was changed before this tick was started")


def test_removed_it_takes_its_history_and_leaves_its_jobs(shop: Shop) -> None:
    nights = Nights.of(shop)
    run = nights.one(0)
    assert run.job_id is not None
    schedules.delete_schedule(shop.db, shop.tenant, nights.id)
    with pytest.raises(NotFound):
        list_runs(shop.db, shop.tenant, nights.id, limit=10)
    assert nights.fire(1) == ()
    assert shop.job(run.job_id).id == run.job_id
    assert schedule(shop).name == "nightly"


def test_history_is_paged_latest_tick_first(shop: Shop) -> None:
    nights = Nights.of(shop)
    for tick in range(5):
        nights.fire(tick)
    seen, cursor = [], None
    while True:
        page = list_runs(shop.db, shop.tenant, nights.id, limit=2, cursor=cursor)
        seen += [run.scheduled_for for run in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [nights.at(tick) for tick in (4, 3, 2, 1, 0)]
    for wrong in ("nonsense", "WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwgIngiXQ", "WyJ4IiwgInkiXQ"):
        with pytest.raises(InputError, match="cursor"):
            list_runs(shop.db, shop.tenant, nights.id, limit=2, cursor=wrong)


def test_another_tenant_sees_and_changes_nothing(shop: Shop) -> None:
    nights = Nights.of(shop)
    nights.fire(0)
    guard(shop.db)
    stranger, db = tenants.ensure_tenant(shop.db, "stranger").id, shop.db
    for call in (
        lambda: schedules.get_schedule(db, stranger, nights.id),
        lambda: schedules.update_schedule(db, stranger, nights.id, paused=True),
        lambda: schedules.delete_schedule(db, stranger, nights.id),
        lambda: list_runs(db, stranger, nights.id, limit=5),
    ):
        with pytest.raises(NotFound):
            call()
    assert schedules.list_schedules(db, stranger, limit=5).items == ()
    assert nights.now().revision == 1
    assert len(nights.history()) == 1


def test_metrics_count_what_all_tenants_have(shop: Shop) -> None:
    assert count_schedules(shop.db).late_seconds == 0.0
    nights = Nights.of(shop)
    nights.fire(0)
    nights.fire(1)
    schedule(Shop.open(shop.db, "stranger"), paused=True)
    with shop.db.begin() as connection:
        connection.execute(schedules.schedules.update().where(schedules.schedules.c.id == nights.id).values(next_at=nights.at(-2)))
    guard(shop.db)
    found = count_schedules(shop.db)
    assert (found.active, found.paused) == (1, 1)
    assert found.runs == {**dict.fromkeys(RunState, 0), RunState.SUBMITTED: 1, RunState.SKIPPED: 1}
    assert 3600 <= found.late_seconds <= 7200


def test_every_change_is_in_the_audit_log_with_who_made_it(shop: Shop) -> None:
    someone = Actor(key_id=create_key(shop.db, shop.tenant, "someone")[0].id, request_id="req_1")
    made = schedule(shop, by=someone)
    run = firing.run_now(shop.db, shop.tenant, made.id, SECRET, by=someone)
    for change in ({"overlap": Overlap.QUEUE}, {"paused": True}, {"paused": True}, {"paused": False}):
        schedules.update_schedule(shop.db, shop.tenant, made.id, by=someone, **change)  # type: ignore[misc]
    schedules.delete_schedule(shop.db, shop.tenant, made.id, by=someone)
    with shop.db.read() as connection:
        noted = connection.execute(sa.select(audit_log).where(audit_log.c.request_id == "req_1").order_by(audit_log.c.id)).mappings().all()
    changes = ("created", "fired", "updated", "paused", "resumed", "deleted")
    assert sorted(row["action"] for row in noted) == sorted(["job.submitted", *(f"schedule.{change}" for change in changes)])
    assert {row["key_id"] for row in noted} == {someone.key_id}
    assert {row["target"] for row in noted} == {made.id, run.job_id}
