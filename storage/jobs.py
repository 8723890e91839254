"""Jobs: submitted, read, cancelled, planned, finished. Each function is one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from certify.errors import InputError, Problem
from certify.facts import check
from certify.report import Report
from certify.run import Plan, commitment, public_key, service_key
from certify.spec import Spec, parse_spec
from storage import audit, events, webhooks
from storage.catalog import dataset_in, dump_problems, get_dataset, get_model, load_problems, model_in, range_text, unusable
from storage.database import Database, held
from storage.errors import Conflict, NotReady
from storage.ids import new_id
from storage.ledger_rows import check_predictions
from storage.other_models import check_owned
from storage.progress import progress
from storage.quotas import DEFAULT, check_jobs
from storage.records import Actor, ArtifactState, Dataset, Job, JobState, Model, Page, Quota, ShardPlan, ShardState
from storage.scoped import everyones, hold_tenant, newest, one, owned
from storage.tables import jobs, shards
from storage.throws import Attempts, attempts, salt

_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
_DEAD = (JobState.FAILED, JobState.CANCELLED)
_PARSED = ("spec", "plan", "report", "error", "attempts")
_Question = tuple[Model, Dataset, Spec]


def create_job(
    db: Database,
    tenant_id: str,
    *,
    model_id: str,
    dataset_id: str,
    spec: Spec,
    secret: bytes,
    name: str = "",
    quota: Quota = DEFAULT,
    by: Actor = audit.SERVER,
) -> tuple[Job, bool]:
    """Accept a job, or return the one that already answers the same question (false).

    The same model bytes and range, dataset bytes and spec are one question: it is thrown once. After a failed or cancelled job a new
    one starts the same noise streams again. Another spec for the same model and dataset is the next numbered attempt, and another
    throw of each certifier that an earlier one asked for.

    Raises:
        NotFound: no such model or dataset.
        NotReady: the model or dataset has not been inspected yet.
        Conflict: the model or dataset could not be inspected; it can be asked for again.
        InputError: the model or dataset was rejected, or the spec does not fit them; every problem is named.
        TooManyJobs: the tenant has as many as it may.
    """
    question = _asked(get_model(db, tenant_id, model_id), get_dataset(db, tenant_id, dataset_id), spec)
    with db.begin() as connection:
        return _submit(connection, db.now(connection), tenant_id, question, secret, name, quota, by)


def submit_job(
    connection: sa.Connection,
    now: datetime,
    tenant_id: str,
    *,
    model_id: str,
    dataset_id: str,
    spec: Spec,
    secret: bytes,
    name: str = "",
    quota: Quota = DEFAULT,
    by: Actor = audit.SERVER,
) -> tuple[Job, bool]:
    """`create_job` within a transaction of the caller."""
    question = _asked(model_in(connection, tenant_id, model_id), dataset_in(connection, tenant_id, dataset_id), spec)
    return _submit(connection, now, tenant_id, question, secret, name, quota, by)


def get_job(db: Database, tenant_id: str, job_id: str) -> Job:
    with db.read() as connection:
        return _job(connection, one(connection, jobs, tenant_id, job_id), db.now(connection), by_verdict=True)


def has_ended(db: Database, tenant_id: str, job_id: str) -> bool:
    """Whether all that will ever be found of a job is there. Raises NotFound as `get_job` does."""
    with db.read() as connection:
        return JobState(one(connection, jobs, tenant_id, job_id)["state"]).ended


def list_jobs(db: Database, tenant_id: str, *, limit: int, cursor: str | None = None, state: JobState | None = None) -> Page[Job]:
    """Newest first."""
    wanted = [] if state is None else [jobs.c.state == state]
    with db.read() as connection:
        now = db.now(connection)
        rows, following = newest(connection, jobs, tenant_id, *wanted, limit=limit, cursor=cursor)
        return Page(items=tuple(_job(connection, row, now) for row in rows), next_cursor=following)


def request_cancel(db: Database, tenant_id: str, job_id: str, by: Actor = audit.SERVER) -> Job:
    """Ask a job to stop; what is finished is kept. Calling it again changes nothing."""
    with db.begin() as connection:
        now = db.now(connection)
        cancel_job(connection, now, tenant_id, job_id, by)
        return _job(connection, one(connection, jobs, tenant_id, job_id), now, by_verdict=True)


def cancel_job(connection: sa.Connection, now: datetime, tenant_id: str, job_id: str, by: Actor = audit.SERVER) -> None:
    """`request_cancel` within a transaction of the caller."""
    row = one(connection, jobs, tenant_id, job_id, lock=True)
    if row["state"] not in (JobState.QUEUED, JobState.RUNNING):
        return
    if row["state"] == JobState.QUEUED:
        _end(connection, row, JobState.CANCELLED, now)
    else:
        _update(connection, tenant_id, job_id, state=JobState.CANCELLING, condition="stopping")
        events.record(connection, tenant_id, job_id, "cancelling", now, state=JobState.CANCELLING, condition="stopping")
        waiting = owned(shards, tenant_id) & (shards.c.job_id == job_id) & (shards.c.state == ShardState.QUEUED)
        connection.execute(sa.update(shards).where(waiting).values(state=ShardState.CANCELLED))
    audit.record(connection, tenant_id, by, "job.cancelled", job_id, now)


def count_by_state(db: Database) -> dict[JobState, int]:
    """How many jobs of all tenants are in each state, for metrics."""
    with db.read() as connection:
        found = connection.execute(everyones(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)))
        counts = {str(state): int(count) for state, count in found}
    return {state: counts.get(state, 0) for state in JobState}


def next_unplanned(db: Database) -> tuple[Job, Dataset, Model] | None:
    """The oldest job without a plan, with what the plan needs."""
    with db.read() as connection:
        row = connection.execute(sa.select(jobs).where(jobs.c.state == JobState.QUEUED).order_by(jobs.c.id).limit(1)).mappings().first()
        job = _job(connection, row, db.now(connection)) if row else None
    if job is None:
        return None
    return job, get_dataset(db, job.tenant_id, job.dataset_id), get_model(db, job.tenant_id, job.model_id)


def plan_job(db: Database, job_id: str, plan: Plan, parts: Sequence[ShardPlan]) -> bool:
    """Store the plan and all shards at once; false when the job was planned or cancelled meanwhile."""
    with db.begin() as connection:
        now = db.now(connection)
        open_job = (jobs.c.id == job_id) & (jobs.c.state == JobState.QUEUED)
        running = {"state": JobState.RUNNING, "plan": plan.model_dump_json(), "started_at": now}
        if connection.execute(sa.update(jobs).where(open_job).values(**running)).rowcount != 1:
            return False
        tenant_id = connection.execute(sa.select(jobs.c.tenant_id).where(jobs.c.id == job_id)).scalar_one()
        connection.execute(
            sa.insert(shards),
            [
                {
                    "id": new_id("shd"),
                    "job_id": job_id,
                    "tenant_id": tenant_id,
                    "ix": part.ix,
                    "certifier": part.certifier,
                    "first": part.first,
                    "last": part.last,
                    "state": ShardState.QUEUED,
                    "not_before": now,
                }
                for part in parts
            ],
        )
        events.record(connection, tenant_id, job_id, "running", now, state=JobState.RUNNING, shards=len(parts))
        return True


def fail_job(db: Database, job_id: str, problems: Sequence[Problem]) -> None:
    """End a job at once, whatever its shards do: workers that still hold one lose their lease."""
    with db.begin() as connection:
        going = (shards.c.job_id == job_id) & shards.c.state.in_((ShardState.QUEUED, ShardState.LEASED))
        connection.execute(sa.update(shards).where(going).values(state=ShardState.CANCELLED, lease_until=None))
        open_job = (jobs.c.id == job_id) & jobs.c.state.not_in(_ENDED)
        row = connection.execute(held(sa.select(jobs).where(open_job))).mappings().first()
        if row is not None:
            _end(connection, row, JobState.FAILED, db.now(connection), error=dump_problems(problems))


def set_condition(db: Database, job_id: str, text: str) -> None:
    """Say what a job waits for; empty when it waits for nothing."""
    with db.begin() as connection:
        row = connection.execute(held(sa.select(jobs).where((jobs.c.id == job_id) & (jobs.c.condition != text)))).mappings().first()
        if row is not None:
            _update(connection, row["tenant_id"], job_id, condition=text)
            events.record(connection, row["tenant_id"], job_id, "condition", db.now(connection), state=row["state"], condition=text)


def waiting_jobs(db: Database) -> tuple[str, ...]:
    """Ids of running jobs, oldest first."""
    with db.read() as connection:
        return tuple(connection.execute(sa.select(jobs.c.id).where(jobs.c.state == JobState.RUNNING).order_by(jobs.c.id)).scalars())


def next_unfinalized(db: Database) -> Job | None:
    """The oldest job whose shards have all ended but that has no report yet.

    When a job is to be cancelled, shards that wait or whose worker went silent end here, so that it ends without any worker.
    """
    leased = sa.select(shards.c.job_id).where(shards.c.state.in_((ShardState.LEASED, ShardState.QUEUED)))
    ready = jobs.c.state.in_((JobState.FINALIZING, JobState.CANCELLING)) & jobs.c.id.not_in(leased)
    with db.begin() as connection:
        cancelling = shards.c.job_id.in_(sa.select(jobs.c.id).where(jobs.c.state == JobState.CANCELLING))
        silent = (shards.c.state == ShardState.LEASED) & (shards.c.lease_until < db.now(connection))
        idle = cancelling & (silent | (shards.c.state == ShardState.QUEUED))
        connection.execute(sa.update(shards).where(idle).values(state=ShardState.CANCELLED, lease_until=None))
        row = connection.execute(sa.select(jobs).where(ready).order_by(jobs.c.id).limit(1)).mappings().first()
        return _job(connection, row, db.now(connection)) if row else None


def finish_job(db: Database, job_id: str, report: Report, problems: Sequence[Problem] = ()) -> None:
    """Store the report and end the job by what became of its shards; a second call changes nothing.

    With `problems` of its results it ends as failed, whatever its shards did; its rows and its report stay readable.
    """
    with db.begin() as connection:
        row = connection.execute(held(sa.select(jobs).where(jobs.c.id == job_id))).mappings().one()
        if row["state"] not in (JobState.FINALIZING, JobState.CANCELLING):
            return
        states = set(connection.execute(sa.select(shards.c.state).where(shards.c.job_id == job_id)).scalars())
        state = JobState.SUCCEEDED
        if row["state"] == JobState.CANCELLING and ShardState.CANCELLED in states:
            state = JobState.CANCELLED
        elif ShardState.FAILED in states:
            state = JobState.FAILED
        error = {"error": dump_problems([*problems, *load_problems(row["error"])])} if problems else {}
        end = JobState.FAILED if problems else state
        _end(connection, row, end, db.now(connection), report=report.model_dump_json(), **error)


def _asked(model: Model, dataset: Dataset, spec: Spec) -> _Question:
    for noun, artifact in (("model", model), ("dataset", dataset)):
        if artifact.state is ArtifactState.INSPECTING:
            raise NotReady.at(noun, f"{artifact.id} is still being inspected", "try again in a few seconds")
        if problems := unusable(artifact, noun):
            raise (Conflict if artifact.state is ArtifactState.FAILED else InputError)(*problems)
    assert model.facts is not None
    assert dataset.facts is not None
    spec = spec.with_noise_key("service")
    check(spec, model.facts, dataset.facts, model.value_range)
    return model, dataset, spec


def _submit(
    connection: sa.Connection, now: datetime, tenant_id: str, question: _Question, secret: bytes, name: str, quota: Quota, by: Actor
) -> tuple[Job, bool]:
    model, dataset, spec = question
    # One submission of a tenant at a time: the question is looked up and asked in one step.
    hold_tenant(connection, tenant_id)
    check_predictions(connection, tenant_id, model.blob, spec)
    check_owned(connection, tenant_id, spec, model.facts.input_shape if model.facts else None)
    pair = owned(jobs, tenant_id) & (jobs.c.model_digest == model.blob) & (jobs.c.dataset_digest == dataset.blob)
    # The declared range is free to choose and not part of the noise key: a new range must not hide an attempt or restart the count.
    same = pair & (jobs.c.spec_digest == spec.digest())
    known = connection.execute(sa.select(jobs).where(same).order_by(jobs.c.id.desc())).mappings().all()
    for row in known:
        if row["state"] not in _DEAD and row["value_range"] == range_text(model.value_range):
            return _job(connection, row, now), False
    check_jobs(connection, tenant_id, quota)
    newest_attempt = connection.execute(sa.select(sa.func.max(jobs.c.attempt)).where(pair)).scalar() or 0
    tried = attempts(connection, tenant_id, model.blob, dataset.blob, spec)
    values = _values(tenant_id, model, dataset, spec, known[0]["attempt"] if known else newest_attempt + 1, tried)
    if known:  # the dice that lie there, even if the server's secret has changed since
        values |= {"noise_key": known[0]["noise_key"], "noise_commitment": known[0]["noise_commitment"]}
    else:
        values |= _dice(connection, now, values, spec, secret)
    values |= {"name": name, "created_at": now}
    connection.execute(sa.insert(jobs).values(values))
    events.record(connection, tenant_id, values["id"], "queued", now, state=JobState.QUEUED)
    audit.record(connection, tenant_id, by, "job.submitted", values["id"], now, {"model": model.id, "dataset": dataset.id})
    return _job(connection, one(connection, jobs, tenant_id, values["id"]), now), True


def _dice(connection: sa.Connection, now: datetime, values: dict[str, Any], spec: Spec, secret: bytes) -> dict[str, Any]:
    """The noise key of a question that is asked for the first time, and what is shown of it."""
    if spec.noise_key == "public-seed":
        return {"noise_key": public_key(spec).hex(), "noise_commitment": None}
    tenant_id = values["tenant_id"]
    digests = {"model": values["model_digest"], "dataset": values["dataset_digest"], "spec": values["spec_digest"]}
    key = service_key(secret, tenant=tenant_id, **digests, salt=salt(connection, now, tenant_id, **digests))
    return {"noise_key": key.hex(), "noise_commitment": commitment(key)}


def _values(tenant_id: str, model: Model, dataset: Dataset, spec: Spec, attempt: int, tried: Attempts) -> dict[str, Any]:
    return {
        "id": new_id("job"),
        "tenant_id": tenant_id,
        "model_id": model.id,
        "dataset_id": dataset.id,
        "model_digest": model.blob,
        "dataset_digest": dataset.blob,
        "value_range": range_text(model.value_range),
        "spec": spec.canonical(),
        "spec_digest": spec.digest(),
        "attempt": attempt,
        "attempts": json.dumps(tried),
        "state": JobState.QUEUED,
    }


def _update(connection: sa.Connection, tenant_id: str, job_id: str, **values: Any) -> None:
    connection.execute(sa.update(jobs).where(owned(jobs, tenant_id) & (jobs.c.id == job_id)).values(**values))


def _end(connection: sa.Connection, row: Any, state: JobState, now: datetime, **values: Any) -> None:
    """The last change of a job; whoever listens is told of it in the same transaction."""
    _update(connection, row["tenant_id"], row["id"], state=state, finished_at=now, condition="", **values)
    events.record(
        connection, row["tenant_id"], row["id"], "ended", now, state=state, error=json.loads(values.get("error") or row["error"] or "[]")
    )
    told = {"job": row["id"], "name": row["name"], "state": state, "model": row["model_id"], "dataset": row["dataset_id"]}
    webhooks.announce(connection, row["tenant_id"], "job.ended", row["id"], told, now)


def _job(connection: sa.Connection, row: Any, now: datetime, *, by_verdict: bool = False) -> Job:
    state = JobState(row["state"])
    spec = parse_spec(row["spec"])
    plain = {name: row[name] for name in Job.__dataclass_fields__ if name in row and name not in _PARSED}
    return Job(
        **{
            **plain,
            "state": state,
            "attempts": tuple(json.loads(row["attempts"])),
            "noise_key": row["noise_key"] if state.ended else None,
            "spec": spec,
            "plan": Plan.model_validate_json(row["plan"]) if row["plan"] else None,
            "report": Report.model_validate_json(row["report"]).completed(spec) if row["report"] else None,
            "error": load_problems(row["error"]),
            "progress": progress(connection, row, now, by_verdict=by_verdict),
        }
    )
