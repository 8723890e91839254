"""The loop when something goes wrong, on real tables with a real executor in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from certify.certificate import Certificate
from storage import jobs, shards
from storage.records import Job, JobState, ShardLease
from storage.tables import models
from tests.support.workplace import BOUNDS, FEATURES, Workplace, dataset, smoothing, turn
from workers.dispatcher import Dispatcher
from workers.executor import LocalExecutor

LONG = smoothing(n=2_000_000, sampling="fixed")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace.make(tmp_path)
    yield place
    place.db.close()


@pytest.fixture
def dispatcher(place: Workplace) -> Iterator[Dispatcher]:
    executor = LocalExecutor()
    dispatcher = place.dispatcher(executor)
    place.stock(dispatcher)
    yield dispatcher
    executor.close()


def ended(place: Workplace, job: Job) -> bool:
    return place.job(job).state.ended


def test_a_job_that_cannot_be_planned_fails_alone(place: Workplace, dispatcher: Dispatcher) -> None:
    broken, sound = place.submit(BOUNDS), place.submit(BOUNDS, seed=1)
    with place.db.begin() as connection:  # as if another version had written facts that this one cannot use
        facts = connection.execute(sa.select(models.c.facts)).scalar_one()
        connection.execute(sa.update(models).values(facts=None))
    dispatcher._plan()
    with place.db.begin() as connection:
        connection.execute(sa.update(models).values(facts=facts))
    turn(dispatcher, lambda: ended(place, sound))
    assert place.job(broken).state is JobState.FAILED
    assert "planned" in place.job(broken).error[0].detail
    assert place.job(sound).state is JobState.SUCCEEDED


def test_a_shard_that_can_never_be_answered_is_not_tried_again(place: Workplace, dispatcher: Dispatcher) -> None:
    job = place.submit(BOUNDS)
    sha256 = place.blob(dataset(6, features=FEATURES + 1))
    dispatcher.fetch = lambda digest: place.store.get(sha256 if digest == job.dataset_digest else digest)
    turn(dispatcher, lambda: ended(place, job), 10)
    failed = place.job(job)
    assert failed.state is JobState.FAILED
    assert failed.error[0].field == "x"


def test_a_cancelled_job_stops_and_keeps_what_is_done(place: Workplace, dispatcher: Dispatcher) -> None:
    job = place.submit(BOUNDS, LONG)
    turn(dispatcher, lambda: place.job(job).progress.shards_done == 1 and place.job(job).progress.samples_done > 0)
    jobs.request_cancel(place.db, place.tenant, job.id)
    turn(dispatcher, lambda: ended(place, job), 20)
    assert place.job(job).state is JobState.CANCELLED
    assert {Certificate.model_validate_json(line).certifier for line in place.lines(job)} == {0}


def test_a_shard_that_was_lost_and_leased_again_is_answered(place: Workplace, dispatcher: Dispatcher) -> None:
    """What the earlier holder was told, to stop, must not reach the next holder of the same shard."""
    job = place.submit(smoothing(n=20_000))
    turn(dispatcher, lambda: bool(dispatcher._held))
    (held,) = dispatcher._held.values()
    shards.release_shard(place.db, held.lease)  # as if the lease had ended while this dispatcher was asleep
    held.next_beat = 0.0
    turn(dispatcher, lambda: ended(place, job), 30)
    assert place.job(job).state is JobState.SUCCEEDED
    assert len(place.lines(job)) == 6


def test_answers_wait_for_a_database_that_comes_back(place: Workplace, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storing fails once, as in a short outage: nothing is lost, nothing is computed twice."""
    tries: list[ShardLease] = []
    real = shards.finish_shard

    def once(db: object, lease: ShardLease, certificates: Sequence[Certificate]) -> None:
        tries.append(lease)
        if len(tries) == 1:
            raise sa.exc.OperationalError("COMMIT", {}, Exception("the server went away"))
        real(place.db, lease, certificates)

    monkeypatch.setattr(shards, "finish_shard", once)
    # The loop pauses after an error: on a busy machine a lease of three seconds would be over before the second try.
    dispatcher.settings = dispatcher.settings.model_copy(update={"lease_seconds": 120.0})
    job = place.submit(BOUNDS)
    dispatcher.run(lambda: ended(place, job))
    assert place.job(job).state is JobState.SUCCEEDED
    assert [(lease.id, lease.epoch) for lease in tries] == [(tries[0].id, tries[0].epoch)] * 2


def test_a_stopping_dispatcher_gives_its_shards_back_uncounted(place: Workplace, dispatcher: Dispatcher) -> None:
    job = place.submit(LONG)
    dispatcher.run(lambda: bool(dispatcher._held))
    lease = shards.lease_shard(place.db, "another", 60)
    assert lease is not None
    assert (lease.job_id, lease.attempts, lease.epoch) == (job.id, 1, 2)


def test_a_waiting_job_says_what_it_waits_for(place: Workplace, dispatcher: Dispatcher) -> None:
    first, second = place.submit(LONG), place.submit(LONG, seed=1)
    turn(dispatcher, lambda: place.job(second).condition != "")
    assert place.job(second).condition == "waiting for a free worker"
    for job in (first, second):
        jobs.request_cancel(place.db, place.tenant, job.id)
    turn(dispatcher, lambda: ended(place, first) and ended(place, second), 20)
