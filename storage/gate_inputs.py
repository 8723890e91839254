"""What a gate looks at: the answers of a job, and the run that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from certify.comparison import Row, Side, counterpart
from certify.facts import DatasetFacts
from certify.old_rows import as_asked
from certify.spec import Spec, parse_spec
from certify.statement import Statement
from certify.verdict import Verdict
from storage.catalog import load_problems, read_range
from storage.database import Database
from storage.records import JobState
from storage.records_gates import DueGate
from storage.scoped import one, owned
from storage.tables import certificates, datasets, gates, jobs, schedule_runs


def sides(db: Database, due: DueGate) -> tuple[Side, dict[str, Side | str]]:
    """The run that is judged and, for each baseline its rules name, the run it stands for or why there is none."""
    rules, tenant_id = due.gate.rules, due.gate.tenant_id

    def asked(spec: Spec) -> set[int]:
        return {index for rule in rules.rules for index in rule.chosen(spec)}

    with db.read() as connection:
        run = side(connection, tenant_id, due.job_id, asked)
        found: dict[str, Side | str] = {}
        for name in rules.baselines():
            job_id, why = _baseline(connection, due, name)
            if job_id is None:
                found[name] = why
                continue
            bare = side(connection, tenant_id, job_id, lambda spec: ())
            there = {counterpart(run, bare, index) for index in asked(run.spec)} - {None}
            found[name] = side(connection, tenant_id, job_id, lambda spec, there=there: there)  # type: ignore[misc]
    return run, found


def side(connection: sa.Connection, tenant_id: str, job_id: str, wanted: Callable[[Spec], Iterable[int]]) -> Side:
    """One job as a gate sees it, with the answers of the wanted certifiers."""
    job = one(connection, jobs, tenant_id, job_id)
    facts = connection.execute(sa.select(datasets.c.facts).where(owned(datasets, tenant_id) & (datasets.c.id == job["dataset_id"])))
    spec = parse_spec(job["spec"])
    problems = load_problems(job["error"])
    failed = (problems[0].sentence() if problems else "no reason was kept") if job["state"] == JobState.FAILED else ""
    return Side(
        job=job_id,
        dataset=job["dataset_digest"],
        value_range=read_range(job["value_range"]),
        spec=spec,
        examples=spec.examples.indices(DatasetFacts.model_validate_json(facts.scalar_one()).count),
        rows={index: _rows(connection, tenant_id, job_id, spec, index) for index in wanted(spec)},
        failed=failed,
    )


def _rows(connection: sa.Connection, tenant_id: str, job_id: str, spec: Spec, certifier: int) -> dict[int, Row]:
    c = certificates.c
    mine = owned(certificates, tenant_id) & (c.job_id == job_id) & (c.certifier == certifier)
    found = connection.execute(sa.select(c.example, c.verdict, c.correct, c.radius, c.statement, c.alpha).where(mine))
    return {
        example: Row(
            verdict=Verdict(verdict),
            correct=correct,
            radius=radius,
            statement=as_asked(Statement.parse(statement), spec, certifier),
            alpha=alpha,
        )
        for example, verdict, correct, radius, statement, alpha in found
    }


def _baseline(connection: sa.Connection, due: DueGate, name: str) -> tuple[str | None, str]:
    """The job that a baseline stands for, or null and why there is none."""
    if name == "previous":
        job_id = connection.execute(_answered(due, newest=True)).scalar()
        return job_id, "no earlier run of the schedule has an answer"
    if name == "pinned":
        mine = owned(gates, due.gate.tenant_id) & (gates.c.id == due.gate.id)
        chosen = connection.execute(sa.select(gates.c.pinned_job_id).where(mine)).scalar()
        return chosen or connection.execute(
            _answered(due, newest=False)
        ).scalar(), "this is the first run with an answer since the gate was made"
    mine = owned(jobs, due.gate.tenant_id) & (jobs.c.id == name) & (jobs.c.state == JobState.SUCCEEDED)
    return connection.execute(sa.select(jobs.c.id).where(mine)).scalar(), f"{name} has no complete answer"


def _answered(due: DueGate, *, newest: bool) -> sa.Select[Any]:
    """The job of the latest earlier run that succeeded, or of the first such run that the gate judged.

    All earlier runs have ended by now, so the answer never changes.
    """
    assert due.tick is not None  # gates on jobs have no such baselines
    r, tenant_id = schedule_runs.c, due.gate.tenant_id
    query = (
        sa.select(r.job_id)
        .join(jobs, (jobs.c.id == r.job_id) & owned(jobs, tenant_id))
        .where(owned(schedule_runs, tenant_id), r.schedule_id == due.gate.schedule_id, jobs.c.state == JobState.SUCCEEDED)
        .where(earlier(schedule_runs, due.tick.scheduled_for, due.tick.run_id))
    )
    if newest:
        return query.order_by(r.scheduled_for.desc(), r.id.desc()).limit(1)
    return query.where(judged_by(due.gate.created_at)).order_by(r.scheduled_for, r.id).limit(1)


def judged_by(created_at: Any) -> sa.ColumnElement[bool]:
    """The runs that a gate on a schedule judges: those whose job had not ended when the gate was made, and all later ones."""
    open_then = jobs.c.finished_at.is_(None) | (jobs.c.finished_at >= created_at)
    return sa.or_(open_then, schedule_runs.c.created_at >= created_at)


def earlier(runs: sa.FromClause, scheduled_for: Any, run_id: Any) -> sa.ColumnElement[bool]:
    """Runs before this one in the order of their ticks."""
    same_tick = (runs.c.scheduled_for == scheduled_for) & (runs.c.id < run_id)
    return sa.or_(runs.c.scheduled_for < scheduled_for, same_tick)
