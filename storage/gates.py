"""Gates and what became of the runs that they judged. An outcome is recorded once, together with the events that tell of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from certify.comparison import unlike
from certify.errors import InputError, Problem
from certify.gate_rules import NoDrop, Rules, check_rules, parse_rules
from certify.gates import GateOutcome
from certify.spec import parse_spec
from storage import audit, webhooks
from storage.database import Database, held, insert_once
from storage.errors import NotFound
from storage.gate_inputs import earlier, judged_by, side
from storage.ids import new_id
from storage.records import Actor, JobState, Page
from storage.records_gates import DueGate, Gate, JobGates, Outcome, Tick
from storage.records_schedules import RunState
from storage.scoped import newest, one, owned
from storage.tables import gate_outcomes, gates, jobs, schedule_runs, schedules
from storage.templates import read_template, usable_versions

_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def create_gate(
    db: Database,
    tenant_id: str,
    *,
    name: str,
    rules: Rules,
    schedule_id: str | None = None,
    job_id: str | None = None,
    by: Actor = audit.SERVER,
) -> Gate:
    """A gate on every run of a schedule that ends from now on, or on one job, ended or not.

    Raises:
        NotFound: no such schedule or job.
        Conflict: what the schedule certifies could not be inspected.
        InputError: the rules can never be answered; every problem is named. Or what the schedule certifies was rejected, or not exactly
            one of schedule and job is given.
    """
    if (schedule_id is None) == (job_id is None):
        raise InputError.at("schedule", "a gate stands on a schedule or on a job", "give exactly one of schedule and job")
    with db.begin() as connection:
        on = one(connection, jobs, tenant_id, job_id) if job_id else one(connection, schedules, tenant_id, str(schedule_id))
        spec = parse_spec(on["spec"]) if job_id else read_template(on["template"]).spec
        check_rules(rules, spec, scheduled=schedule_id is not None)
        if schedule_id is not None:
            usable_versions(connection, tenant_id, read_template(on["template"]), "schedule")
        _check_baselines(connection, tenant_id, rules, job_id)
        values: dict[str, Any] = {
            "id": new_id("gat"),
            "tenant_id": tenant_id,
            "name": name,
            "rule": rules.canonical(),
            "schedule_id": schedule_id,
            "job_id": job_id,
            "pinned_job_id": None,
            "created_at": db.now(connection),
        }
        connection.execute(sa.insert(gates).values(values))
        audit.record(connection, tenant_id, by, "gate.created", values["id"], values["created_at"], {"name": name})
    return _gate(values)


def get_gate(db: Database, tenant_id: str, gate_id: str) -> Gate:
    with db.read() as connection:
        return _gate(one(connection, gates, tenant_id, gate_id))


def list_gates(
    db: Database, tenant_id: str, *, limit: int, cursor: str | None = None, schedule_id: str | None = None, job_id: str | None = None
) -> Page[Gate]:
    """Newest first; those of one schedule or job if asked for."""
    wanted = [gates.c.schedule_id == schedule_id] if schedule_id else []
    wanted += [gates.c.job_id == job_id] if job_id else []
    with db.read() as connection:
        rows, following = newest(connection, gates, tenant_id, *wanted, limit=limit, cursor=cursor)
    return Page(items=tuple(map(_gate, rows)), next_cursor=following)


def delete_gate(db: Database, tenant_id: str, gate_id: str, *, by: Actor = audit.SERVER) -> None:
    """The gate and its outcomes; events that were announced are still sent."""
    with db.begin() as connection:
        row = one(connection, gates, tenant_id, gate_id, lock=True)
        connection.execute(sa.delete(gates).where(owned(gates, tenant_id) & (gates.c.id == gate_id)))
        audit.record(connection, tenant_id, by, "gate.deleted", gate_id, db.now(connection), {"name": row["name"]})


def pin_job(db: Database, tenant_id: str, gate_id: str, job_id: str, *, by: Actor = audit.SERVER) -> Gate:
    """From now on the baseline `pinned` of this gate is this job.

    Raises:
        NotFound: no such gate or job.
        InputError: no rule of the gate asks for `pinned`, or the job has no complete answer.
    """
    with db.begin() as connection:
        row = one(connection, gates, tenant_id, gate_id, lock=True)
        job = one(connection, jobs, tenant_id, job_id)
        if "pinned" not in parse_rules(row["rule"]).baselines():
            raise InputError.at("gate", "has no rule with the baseline pinned", "make a gate with one")
        if job["state"] != JobState.SUCCEEDED:
            raise InputError.at("job", f"{job_id} is {job['state']}", "pin a job that succeeded")
        connection.execute(sa.update(gates).where(owned(gates, tenant_id) & (gates.c.id == gate_id)).values(pinned_job_id=job_id))
        audit.record(connection, tenant_id, by, "gate.pinned", gate_id, db.now(connection), {"job": job_id})
    return _gate({**row, "pinned_job_id": job_id})


def list_outcomes(db: Database, tenant_id: str, gate_id: str, *, limit: int, cursor: str | None = None) -> Page[Outcome]:
    """What became of the runs or the job that a gate judged, newest first."""
    with db.read() as connection:
        gate = _gate(one(connection, gates, tenant_id, gate_id))
        mine = gate_outcomes.c.gate_id == gate_id
        rows, following = newest(connection, gate_outcomes, tenant_id, mine, limit=limit, cursor=cursor)
    return Page(items=tuple(_outcome(row, gate) for row in rows), next_cursor=following)


def gates_of_job(db: Database, tenant_id: str, job_id: str) -> JobGates:
    """The outcomes of a job, and the gates that will judge it. Of a job that answers several runs, the outcome of each run."""
    with db.read() as connection:
        one(connection, jobs, tenant_id, job_id)
        mine = owned(gate_outcomes, tenant_id) & (gate_outcomes.c.job_id == job_id)
        rows = connection.execute(sa.select(gate_outcomes).where(mine).order_by(gate_outcomes.c.id.desc())).mappings().all()
        named = {row["gate_id"] for row in rows}
        known = connection.execute(sa.select(gates).where(owned(gates, tenant_id) & gates.c.id.in_(named))).mappings()
        by_id = {row["id"]: _gate(row) for row in known}
        found = [
            row for query in _unjudged() for row in connection.execute(query.where(owned(gates, tenant_id), jobs.c.id == job_id)).mappings()
        ]
    waiting = {row["id"]: _gate(row) for row in found}
    return JobGates(outcomes=tuple(_outcome(row, by_id[row["gate_id"]]) for row in rows), waiting=tuple(waiting.values()))


def due_gates(db: Database, limit: int = 100) -> tuple[DueGate, ...]:
    """Gates of all tenants and the ended jobs that they have not judged, those of a schedule in the order of its ticks.

    A run is due when all earlier runs of its schedule have ended too, so that what it is compared with does not depend on who was faster.
    """
    ended, before, its_job = jobs.c.state.in_(_ENDED), schedule_runs.alias("before"), jobs.alias("its_job")
    unfinished = (
        sa.select(before.c.id)
        .outerjoin(its_job, its_job.c.id == before.c.job_id)
        .where(before.c.schedule_id == schedule_runs.c.schedule_id, earlier(before, schedule_runs.c.scheduled_for, schedule_runs.c.id))
        .where((before.c.state == RunState.WAITING) | its_job.c.state.not_in(_ENDED))
    )
    on_jobs, on_runs = _unjudged()
    queries = (
        on_jobs.where(ended).order_by(gates.c.id),
        on_runs.where(ended, ~unfinished.exists()).order_by(schedule_runs.c.scheduled_for, schedule_runs.c.id, gates.c.id),
    )
    with db.read() as connection:
        return tuple(_due(row) for query in queries for row in connection.execute(query.limit(limit)).mappings())


def record_outcome(db: Database, due: DueGate, found: GateOutcome) -> bool:
    """Keep what became of a run, once, and announce it to every webhook that listens; false when it was kept before."""
    gate = due.gate
    with db.begin() as connection:
        mine = owned(gates, gate.tenant_id) & (gates.c.id == gate.id)
        if connection.execute(held(sa.select(gates.c.id).where(mine))).first() is None:  # deleted meanwhile
            return False
        values = _values(due, found) | {"created_at": db.now(connection)}
        if not insert_once(connection, gate_outcomes, values):
            return False
        outcome = _outcome(values, gate)
        event = f"gate.{outcome.judgement.past}"
        webhooks.announce(connection, gate.tenant_id, event, outcome.id, _told(outcome), values["created_at"])
    return True


def _unjudged() -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Gates with a job that they judge or will judge, without an outcome yet: gates on jobs, and gates on schedules."""
    same = (
        jobs.c.tenant_id == gates.c.tenant_id,
        schedule_runs.c.tenant_id == gates.c.tenant_id,
        schedules.c.tenant_id == gates.c.tenant_id,
    )
    on_jobs = sa.select(gates, jobs.c.id.label("judged")).join(jobs, (jobs.c.id == gates.c.job_id) & same[0])
    run = (schedule_runs.c.id.label("run_id"), schedule_runs.c.scheduled_for, schedule_runs.c.manual, schedules.c.cron, schedules.c.zone)
    on_runs = (
        sa.select(gates, jobs.c.id.label("judged"), *run)
        .join(schedule_runs, (schedule_runs.c.schedule_id == gates.c.schedule_id) & same[1])
        .join(schedules, (schedules.c.id == gates.c.schedule_id) & same[2])
        .join(jobs, (jobs.c.id == schedule_runs.c.job_id) & same[0])
        .where(judged_by(gates.c.created_at))
    )
    return on_jobs.where(~_judged(jobs.c.id)), on_runs.where(~_judged(schedule_runs.c.id))


def _judged(subject: sa.ColumnElement[str]) -> sa.Exists:
    o = gate_outcomes.c
    return sa.select(o.id).where(o.gate_id == gates.c.id, o.subject == subject, o.tenant_id == gates.c.tenant_id).exists()


def _check_baselines(connection: sa.Connection, tenant_id: str, rules: Rules, job_id: str | None) -> None:
    """Jobs that are named as baselines exist, and ask what the gated job asks."""
    run = side(connection, tenant_id, job_id, lambda spec: ()) if job_id else None
    problems = []
    for place, rule in enumerate(rules.rules):
        if not isinstance(rule, NoDrop) or rule.baseline in ("previous", "pinned"):
            continue
        field = f"rules.{place}.baseline"
        try:
            before = side(connection, tenant_id, rule.baseline, lambda spec: ())
        except NotFound as error:
            problems.append(replace(error.problems[0], field=field))
            continue
        if run and run.job == before.job:
            problems.append(Problem(field=field, detail="is the gated job itself", mend="name an earlier job"))
        for index in rule.chosen(run.spec) if run else ():
            if why := unlike(run, before, index) if run else "":
                detail = f"{before.job} cannot be compared with: {why}"
                problems.append(Problem(field=field, detail=detail, mend="name a job with the same dataset, examples and certifier"))
    if problems:
        raise InputError(*problems)


def _values(due: DueGate, found: GateOutcome) -> dict[str, Any]:
    return {
        "id": new_id("out"),
        "tenant_id": due.gate.tenant_id,
        "gate_id": due.gate.id,
        "subject": due.subject,
        "job_id": due.job_id,
        "outcome": found.judgement.value,
        "sentence": found.sentence,
        "document": found.model_dump_json(),
    }


def _told(outcome: Outcome) -> dict[str, Any]:
    """An outcome as events tell it."""
    return {
        "outcome": outcome.id,
        "judgement": outcome.judgement,
        "sentence": outcome.sentence,
        "checks": [check.model_dump(mode="json") for check in outcome.checks],
        "gate": outcome.gate_id,
        "gate_name": outcome.gate_name,
        "schedule": outcome.schedule_id,
        "run": outcome.run_id,
        "job": outcome.job_id,
    }


def _gate(row: Any) -> Gate:
    return Gate(**{name: row[name] for name in Gate.__dataclass_fields__ if name != "rules"}, rules=parse_rules(row["rule"]))


def _due(row: Any) -> DueGate:
    names = Tick.__dataclass_fields__
    return DueGate(gate=_gate(row), job_id=row["judged"], tick=Tick(**{name: row[name] for name in names}) if "run_id" in row else None)


def _outcome(row: Any, gate: Gate) -> Outcome:
    found = GateOutcome.model_validate_json(row["document"])
    return Outcome(
        id=row["id"],
        gate_id=gate.id,
        gate_name=gate.name,
        schedule_id=gate.schedule_id,
        run_id=row["subject"] if gate.schedule_id else None,
        job_id=row["job_id"],
        judgement=found.judgement,
        sentence=found.sentence,
        checks=found.checks,
        created_at=row["created_at"],
    )
