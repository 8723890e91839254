"""Jobs that ended with known answers, and the nights of a schedule: what gates judge, without any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from certify.certificate import Certificate
from certify.gate_rules import parse_rules
from certify.report import Report
from certify.run import Plan
from certify.verdict import Verdict
from storage import gates, jobs, schedules, shards
from storage.records import Job
from storage.records_gates import Gate, Outcome
from storage.records_schedules import Ref, RunState, Template
from storage.schedule_runs import new_run
from storage.tables import schedule_runs
from tests.support.shop import Shop, answers, shard_plans, spec
from workers import gates as judging

RADIUS = 0.1  # the epsilon that the shop's jobs ask for
START = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
Held = Sequence[bool | None]


def answered(shop: Shop, job: Job, held: Held) -> Job:
    """The job, ended: each example certified at RADIUS, not, or, where null, without an answer."""
    assert jobs.plan_job(shop.db, job.id, Plan(family=1, batch_sizes=(1,)), shard_plans(1, len(held)))
    lease = shards.lease_shard(shop.db, "w", 60)
    assert lease is not None
    assert lease.job_id == job.id
    shards.finish_shard(shop.db, lease, [_row(row, one) for row, one in zip(answers(lease), held, strict=True)])
    jobs.finish_job(shop.db, job.id, Report(certifiers=()))
    return shop.job(job.id)


def _row(row: Certificate, held: bool | None) -> Certificate:
    if held:
        return row
    verdict = Verdict.ERROR if held is None else Verdict.UNKNOWN
    return row.model_copy(update={"verdict": verdict, "radius": 0.0, "epsilon_verified": False})


@dataclass
class Nightly:
    """A schedule whose runs are written by hand."""

    shop: Shop
    schedule_id: str

    @classmethod
    def open(cls, shop: Shop, name: str = "nightly", cron: str = "0 2 * * *") -> Nightly:
        template = Template(model=Ref(id=shop.model), dataset=Ref(id=shop.dataset), spec=spec())
        made = schedules.create_schedule(shop.db, shop.tenant, name=name, cron=cron, zone="UTC", template=template)
        return cls(shop, made.id)

    def gate(self, *rules: dict[str, Any], name: str = "gate") -> Gate:
        return gates.create_gate(self.shop.db, self.shop.tenant, name=name, rules=parse_rules(list(rules)), schedule_id=self.schedule_id)

    def run(self, day: int, job: Job, *, manual: bool = False) -> str:
        """The run of a night, of an already submitted job."""
        row = {"id": self.schedule_id, "tenant_id": self.shop.tenant}
        with self.shop.db.begin() as connection:
            values = new_run(row, START + timedelta(days=day), self.shop.db.now(connection), RunState.SUBMITTED, "", manual=manual)
            connection.execute(sa.insert(schedule_runs).values({**values, "job_id": job.id}))
        return str(values["id"])

    def night(self, day: int, held: Held, **more: Any) -> Job:
        """A run and its job, ended with these answers; each night has a seed of its own."""
        job = self.shop.submit(seed=1000 + day)
        self.run(day, job, **more)
        return answered(self.shop, job, held)

    def judged(self, gate: Gate) -> list[Outcome]:
        """What became of the runs so far, in the order in which they were judged."""
        judging.step(self.shop.db)
        return list(gates.list_outcomes(self.shop.db, self.shop.tenant, gate.id, limit=1000).items)[::-1]
