"""Schedules in tests: one that ticks, moments counted in its ticks, and jobs that end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from certify.report import Report
from certify.run import Plan
from storage import firing, jobs, schedules, shards
from storage.records import Job, JobState
from storage.records_schedules import Ref, Schedule, ScheduleRun, Template
from storage.schedule_runs import list_runs
from storage.tables import jobs as jobs_table
from tests.support.shop import SECRET, Shop, answers, digest, ready_model, shard_plans, spec

HOUR = timedelta(hours=1)


def template(shop: Shop, *, model: Ref | None = None, dataset: Ref | None = None, **changes: Any) -> Template:
    return Template(model=model or Ref(name="cnn"), dataset=dataset or Ref(id=shop.dataset), spec=spec(**changes))


def schedule(shop: Shop, *, name: str = "nightly", asks: Template | None = None, **options: Any) -> Schedule:
    values = {"cron": "0 * * * *", "zone": "UTC", **options}
    return schedules.create_schedule(shop.db, shop.tenant, name=name, template=asks or template(shop), **values)


@dataclass
class Nights:
    """A schedule that ticks every hour; `at(n)` is its n-th tick, from 0."""

    shop: Shop
    first: datetime
    id: str
    models: int = field(default=1)

    @classmethod
    def of(cls, shop: Shop, **options: Any) -> Nights:
        made = schedule(shop, **options)
        assert made.next_at is not None
        return cls(shop, made.next_at, made.id)

    def at(self, tick: float) -> datetime:
        return self.first + tick * HOUR

    def fire(self, tick: float) -> tuple[ScheduleRun, ...]:
        return firing.fire_due(self.shop.db, SECRET, now=self.at(tick))

    def one(self, tick: float) -> ScheduleRun:
        (run,) = (run for run in self.fire(tick) if run.schedule_id == self.id)
        return run

    def history(self) -> list[ScheduleRun]:
        """Oldest tick first."""
        return list(reversed(list_runs(self.shop.db, self.shop.tenant, self.id, limit=1000).items))

    def states(self) -> list[str]:
        return [str(run.state) for run in self.history()]

    def now(self) -> Schedule:
        return schedules.get_schedule(self.shop.db, self.shop.tenant, self.id)

    def new_model(self) -> str:
        """The next version of `cnn`, other bytes."""
        self.models += 1
        return ready_model(self.shop.db, self.shop.tenant, blob=digest(f"model {self.models}"))


def succeed(shop: Shop, job_id: str) -> Job:
    """The job is planned, answered and finished."""
    jobs.plan_job(shop.db, job_id, Plan(family=1, batch_sizes=(1,)), shard_plans(4, 2))
    while lease := shards.lease_shard(shop.db, "w", 60):
        shards.finish_shard(shop.db, lease, answers(lease))
    jobs.finish_job(shop.db, job_id, Report(certifiers=()))
    ended = shop.job(job_id)
    assert ended.state is JobState.SUCCEEDED
    return ended


def count_jobs(shop: Shop) -> int:
    with shop.db.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(jobs_table)).scalar_one())


def breaking(message: str) -> Callable[..., Any]:
    """A function that always fails."""

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(message)

    return fail
