"""Ticks become jobs: one each, by the policies of the schedule, with a reason wherever there is none; nothing breaks the loop."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from certify.errors import Problem
from storage import catalog, firing, jobs, schedules, starting, tenants
from storage.errors import Busy, NotFound
from storage.guard import guard
from storage.quotas import Quota
from storage.records import JobState
from storage.records_schedules import CatchUp, Overlap, Ref, RunState, ScheduleRun
from storage.tables import audit_log
from storage.tables import schedules as table
from tests.support.nights import Nights, breaking, count_jobs, schedule, succeed, template
from tests.support.shop import SECRET, Shop, digest


def job_of(run: ScheduleRun) -> str:
    assert run.job_id is not None
    return run.job_id


def test_a_tick_submits_its_job_once(shop: Shop) -> None:
    nights = Nights.of(shop)
    assert nights.fire(-0.01) == ()
    run = nights.one(0.001)
    assert (run.scheduled_for, run.state, run.reused, run.manual) == (nights.first, RunState.SUBMITTED, False, False)
    assert run.reason == "cnn version 1 on digits version 1"
    job = shop.job(job_of(run))
    assert (job.state, job.name, job.model_id) == (JobState.QUEUED, "nightly", shop.model)
    assert nights.fire(0.5) == ()
    assert nights.history() == [run]
    assert nights.now().next_at == nights.at(1)
    assert nights.now().revision == 1


def test_an_unchanged_question_uses_its_certificates_again_and_says_so(shop: Shop) -> None:
    nights = Nights.of(shop)
    first = nights.one(0)
    succeed(shop, job_of(first))
    second = nights.one(1)
    assert (second.state, second.reused, second.job_id) == (RunState.REUSED, True, first.job_id)
    assert second.reason == (
        "model, dataset and spec are unchanged (cnn version 1 on digits version 1): "
        f"{first.job_id} asks the same, and its certificates are used again"
    )
    changed = nights.new_model()
    third = nights.one(2)
    assert third.state is RunState.SUBMITTED
    assert third.reason == "cnn version 2 on digits version 1"
    assert shop.job(job_of(third)).model_id == changed
    assert shop.job(job_of(third)).attempt == 1
    assert count_jobs(shop) == 2


def test_a_pinned_version_stays(shop: Shop) -> None:
    nights = Nights.of(shop, asks=template(shop, model=Ref(name="cnn", version=1)))
    first = nights.one(0)
    succeed(shop, job_of(first))
    nights.new_model()
    assert nights.one(1).job_id == first.job_id


def test_after_a_failed_job_the_next_tick_tries_again(shop: Shop) -> None:
    nights = Nights.of(shop)
    first = nights.one(0)
    jobs.fail_job(shop.db, job_of(first), [Problem(field="", detail="no plan")])
    second = nights.one(1)
    assert second.state is RunState.SUBMITTED
    assert second.job_id != first.job_id


def test_skip_leaves_a_working_job_alone(shop: Shop) -> None:
    nights = Nights.of(shop)
    first = nights.one(0)
    nights.new_model()
    second = nights.one(1)
    assert (second.state, second.job_id) == (RunState.SKIPPED, None)
    assert second.reason == f"{first.job_id} of the tick of {nights.first:%Y-%m-%d %H:%M} UTC is still at work; the overlap policy is skip"
    succeed(shop, job_of(first))
    assert nights.one(2).state is RunState.SUBMITTED


def test_queue_lets_one_tick_wait_for_the_end(shop: Shop) -> None:
    nights = Nights.of(shop, overlap=Overlap.QUEUE)
    first = nights.one(0)
    nights.new_model()
    second, third = nights.one(1), nights.one(2)
    assert (second.state, second.job_id) == (RunState.WAITING, None)
    assert f"{first.job_id} of the tick of" in second.reason
    assert (third.state, third.reason) == (
        RunState.SKIPPED,
        f"the tick of {nights.at(1):%Y-%m-%d %H:%M} UTC still waits, and at most one does",
    )
    assert nights.fire(2.5) == ()
    succeed(shop, job_of(first))
    started = nights.one(2.6)
    assert (started.id, started.state, started.scheduled_for) == (second.id, RunState.SUBMITTED, nights.at(1))
    assert nights.states() == ["submitted", "submitted", "skipped"]
    # the end of a job and a new tick at once: the one that waits goes first
    fourth = nights.one(3)
    assert fourth.state is RunState.WAITING
    nights.new_model()
    succeed(shop, job_of(started))
    assert [(run.scheduled_for, run.state) for run in nights.fire(4)] == [
        (nights.at(3), RunState.SUBMITTED),
        (nights.at(4), RunState.WAITING),
    ]


def test_a_tick_that_waits_too_long_misses_its_deadline(shop: Shop) -> None:
    nights = Nights.of(shop, overlap=Overlap.QUEUE, deadline_seconds=1800)
    first = nights.one(0)
    waiting = nights.one(1)
    succeed(shop, job_of(first))
    late = nights.one(1.6)
    assert (late.id, late.state) == (waiting.id, RunState.SKIPPED)
    assert late.reason.startswith("waited longer than its deadline of 1800 s: ")


def test_a_pause_ends_what_waits(shop: Shop) -> None:
    nights = Nights.of(shop, overlap=Overlap.QUEUE)
    nights.one(0)
    nights.one(1)
    schedules.update_schedule(shop.db, shop.tenant, nights.id, paused=True)
    assert nights.states() == ["submitted", "skipped"]
    assert nights.history()[1].reason == "the schedule was paused before this tick was started"


def test_cancel_previous_replaces_a_job_that_asks_something_else(shop: Shop) -> None:
    nights = Nights.of(shop, overlap=Overlap.CANCEL_PREVIOUS)
    first = nights.one(0)
    nights.new_model()
    second = nights.one(1)
    assert second.state is RunState.SUBMITTED
    assert second.reason.endswith(f"; {first.job_id} was cancelled for it")
    assert shop.job(job_of(first)).state is JobState.CANCELLED
    # the same question again: cancelling would only throw away what is done
    third = nights.one(2)
    assert (third.state, third.job_id) == (RunState.REUSED, second.job_id)
    assert "it is still at work, and its certificates will be used" in third.reason
    assert shop.job(job_of(second)).state is JobState.QUEUED


def test_cancel_previous_cancels_nothing_for_a_tick_that_gets_no_job(shop: Shop) -> None:
    nights = Nights.of(shop, overlap=Overlap.CANCEL_PREVIOUS)
    first = nights.one(0)
    nights.new_model()
    assert firing.fire_due(shop.db, SECRET, quota=Quota(max_queued_jobs=0), now=nights.at(1))[0].state is RunState.FAILED
    assert shop.job(job_of(first)).state is JobState.QUEUED


def test_cancel_previous_spares_what_others_asked_for(shop: Shop) -> None:
    theirs = shop.submit()
    nights = Nights.of(shop, overlap=Overlap.CANCEL_PREVIOUS)
    assert nights.one(0).job_id == theirs.id
    nights.new_model()
    mine = nights.one(1)
    assert shop.job(theirs.id).state is JobState.QUEUED
    other = Nights.of(shop, name="other")
    assert mine.job_id in {run.job_id for run in other.fire(1) if run.schedule_id == other.id}
    nights.new_model()
    assert nights.one(2).state is RunState.SUBMITTED
    assert shop.job(job_of(mine)).state is JobState.QUEUED


def test_allow_lets_jobs_run_side_by_side(shop: Shop) -> None:
    nights = Nights.of(shop, overlap=Overlap.ALLOW)
    first = nights.one(0)
    nights.new_model()
    second = nights.one(1)
    assert {shop.job(job_of(run)).state for run in (first, second)} == {JobState.QUEUED}
    assert nights.one(2).job_id == second.job_id


@pytest.mark.parametrize(
    ("policy", "states"),
    [
        (CatchUp.NONE, ["skipped"] * 5 + ["submitted"]),
        (CatchUp.LATEST, ["skipped"] * 5 + ["submitted"]),
        (CatchUp.ALL, ["submitted"] + ["reused"] * 5),
    ],
)
def test_after_a_sleep_the_history_names_every_tick(shop: Shop, policy: CatchUp, states: list[str]) -> None:
    nights = Nights.of(shop, catch_up=policy, overlap=Overlap.ALLOW)
    nights.fire(5.001)
    assert nights.states() == states
    assert [run.scheduled_for for run in nights.history()] == [nights.at(tick) for tick in range(6)]
    assert all(run.reason for run in nights.history())
    assert nights.now().next_at == nights.at(6)


def test_a_version_under_inspection_is_waited_for(shop: Shop) -> None:
    nights = Nights.of(shop)
    blob = digest("late")
    from storage import artifacts

    artifacts.record_blob(shop.db, shop.tenant, blob, 100)
    late = catalog.register_model(shop.db, shop.tenant, name="cnn", blob=blob)
    run = nights.one(0)
    assert (run.state, run.reason) == (RunState.WAITING, f"model: {late.id} is still being inspected; try again in a few seconds")
    assert nights.fire(0.1) == ()
    assert nights.one(1).state is RunState.SKIPPED
    lease = catalog.lease_inspection(shop.db, "w", 60)
    assert lease is not None
    catalog.reject(shop.db, lease, [Problem(field="operators", detail="Loop is not allowed")])
    failed = nights.one(1.1)
    assert (failed.id, failed.state, failed.reason) == (run.id, RunState.FAILED, "model: was rejected: operators: Loop is not allowed")
    assert count_jobs(shop) == 0


def test_a_job_that_is_being_cancelled_answers_nothing(shop: Shop) -> None:
    job = shop.planned()
    assert jobs.request_cancel(shop.db, shop.tenant, job.id).state is JobState.CANCELLING
    nights = Nights.of(shop)
    run = nights.one(0)
    assert (run.state, run.job_id) == (RunState.WAITING, None)
    assert f"{job.id} asks the same and is being cancelled" in run.reason
    found = jobs.next_unfinalized(shop.db)
    assert found is not None
    from certify.report import Report

    jobs.finish_job(shop.db, job.id, Report(certifiers=()))
    assert nights.one(0.1).state is RunState.SUBMITTED


def test_a_full_queue_is_a_reason(shop: Shop) -> None:
    nights = Nights.of(shop)
    (run,) = firing.fire_due(shop.db, SECRET, quota=Quota(max_queued_jobs=0), now=nights.at(0))
    assert (run.state, run.job_id) == (RunState.FAILED, None)
    assert "0 is the most" in run.reason
    assert nights.one(1).state is RunState.SUBMITTED


def test_run_now_is_a_run_of_its_own(shop: Shop) -> None:
    nights = Nights.of(shop, paused=False)
    schedules.update_schedule(shop.db, shop.tenant, nights.id, paused=True)
    guard(shop.db)  # this one is called by the API
    run = firing.run_now(shop.db, shop.tenant, nights.id, SECRET)
    assert (run.state, run.manual) == (RunState.SUBMITTED, True)
    again = firing.run_now(shop.db, shop.tenant, nights.id, SECRET)
    assert (again.state, again.manual) == (RunState.SKIPPED, True)
    assert "still at work" in again.reason
    with pytest.raises(NotFound):
        firing.run_now(shop.db, tenants.ensure_tenant(shop.db, "stranger").id, nights.id, SECRET)
    assert nights.now().next_at is None


def test_a_schedule_that_cannot_be_read_holds_up_no_other(shop: Shop) -> None:
    healthy = [Nights.of(shop, name=f"healthy {i}") for i in range(3)]
    broken = Nights.of(shop, name="broken zone")
    odd = Nights.of(shop, name="odd template")
    with shop.db.begin() as connection:
        connection.execute(sa.update(table).where(table.c.id == broken.id).values(zone="Mars/Base"))
        connection.execute(sa.update(table).where(table.c.id == odd.id).values(template='{"model": {}}'))
    fired = {run.schedule_id: run for run in broken.fire(0)}
    assert {fired[nights.id].job_id for nights in healthy} != {None}
    assert fired[broken.id].state is RunState.FAILED
    assert "the schedule was paused: ZoneInfoNotFoundError" in fired[broken.id].reason
    with shop.db.read() as connection:
        paused = connection.execute(sa.select(audit_log.c.target).where(audit_log.c.action == "schedule.paused")).scalars().all()
    assert paused == [broken.id]
    assert fired[odd.id].state is RunState.FAILED
    assert "could not be submitted: " in fired[odd.id].reason
    assert [run.schedule_id for run in broken.fire(1) if run.schedule_id in (broken.id, odd.id)] == [odd.id]


def test_what_breaks_in_a_tick_leaves_the_tick_and_its_reason(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights.of(shop)
    real = starting.submit_job

    def half(connection: sa.Connection, *arguments: Any, **more: Any) -> Any:
        real(connection, *arguments, **more)
        raise RuntimeError("broke after the job was inserted")

    monkeypatch.setattr(starting, "submit_job", half)
    run = nights.one(0)
    assert (run.state, run.job_id) == (RunState.FAILED, None)
    assert run.reason == "could not be submitted: RuntimeError: broke after the job was inserted"
    assert count_jobs(shop) == 0


def test_when_the_database_goes_away_the_tick_comes_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights.of(shop)
    away = sa.exc.OperationalError("INSERT", {}, Exception("gone"))

    def gone(*_: Any, **__: Any) -> Any:
        raise away

    with monkeypatch.context() as broken:
        broken.setattr(starting, "submit_job", gone)
        with pytest.raises(Busy):
            nights.fire(0)
    assert nights.history() == []
    assert nights.one(0.01).state is RunState.SUBMITTED


def test_a_tick_that_has_a_run_gets_no_second_one(shop: Shop) -> None:
    nights = Nights.of(shop, overlap=Overlap.ALLOW)
    run = nights.one(0)
    with shop.db.begin() as connection:  # as if the clock had been set back and the schedule changed
        connection.execute(sa.update(table).values(next_at=nights.first))
    assert nights.fire(0.5) == ()
    assert nights.history() == [run]
    assert nights.now().next_at == nights.at(1)


def test_next_due_is_the_earliest_tick_of_anybody(shop: Shop) -> None:
    assert firing.next_due(shop.db) is None
    nights = Nights.of(shop)
    stranger = Shop.open(shop.db, "stranger")
    yearly = schedule(stranger, cron="@yearly")
    assert firing.next_due(shop.db) == min(nights.first, yearly.next_at or nights.first)


def test_a_removed_schedule_takes_what_waits_with_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights.of(shop, overlap=Overlap.QUEUE)
    nights.one(0)
    nights.one(1)
    waiting = firing._waiting(shop.db)
    schedules.delete_schedule(shop.db, shop.tenant, nights.id)
    monkeypatch.setattr(firing, "_waiting", lambda db: waiting)
    assert nights.fire(1.1) == ()


def test_a_run_that_cannot_be_started_holds_up_no_tick(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights.of(shop, overlap=Overlap.QUEUE)
    nights.one(0)
    nights.one(1)
    other = Nights.of(shop, name="other", asks=template(shop, seed=3))
    monkeypatch.setattr(firing, "_waited", breaking("no"))
    assert [run.state for run in firing.fire_due(shop.db, SECRET, now=other.first + timedelta(hours=1)) if run.schedule_id == other.id] == [
        RunState.SKIPPED,
        RunState.SUBMITTED,
    ]
