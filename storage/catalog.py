"""Models and datasets: registered by name and version, inspected by a worker, then ready, rejected or failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from certify.errors import Problem
from certify.facts import DatasetFacts, ModelFacts
from storage import audit
from storage.database import Database, locked
from storage.errors import LostLease, NotFound
from storage.ids import Prefix, new_id
from storage.records import Actor, ArtifactState, Dataset, InspectionLease, Model, Page
from storage.scoped import hold_tenant, newest, one, owned
from storage.tables import blobs, datasets, models

Range = tuple[float, float]
_MAX_INSPECTIONS = 3
_PAUSES = (5.0, 30.0)  # seconds before the second try and before the third
_LOST = "the worker that inspected it was lost"
# What ends without an answer may be inspected again.
_UNANSWERED = (ArtifactState.REJECTED, ArtifactState.FAILED)


def register_model(
    db: Database, tenant_id: str, *, name: str, blob: str, value_range: Range | None = None, by: Actor = audit.SERVER
) -> Model:
    """The next version under `name`; the same bytes and range again return the version that exists.

    One that was rejected or failed is then inspected again.
    """
    return _model(_register(db, models, tenant_id, name, blob, range_text(value_range), "mdl", by))


def register_dataset(db: Database, tenant_id: str, *, name: str, blob: str, by: Actor = audit.SERVER) -> Dataset:
    return _dataset(_register(db, datasets, tenant_id, name, blob, "", "dat", by))


def get_model(db: Database, tenant_id: str, model_id: str) -> Model:
    with db.read() as connection:
        return model_in(connection, tenant_id, model_id)


def get_dataset(db: Database, tenant_id: str, dataset_id: str) -> Dataset:
    with db.read() as connection:
        return dataset_in(connection, tenant_id, dataset_id)


def model_in(connection: sa.Connection, tenant_id: str, model_id: str) -> Model:
    """`get_model` within a transaction."""
    return _model(one(connection, models, tenant_id, model_id))


def dataset_in(connection: sa.Connection, tenant_id: str, dataset_id: str) -> Dataset:
    """`get_dataset` within a transaction."""
    return _dataset(one(connection, datasets, tenant_id, dataset_id))


def list_models(db: Database, tenant_id: str, *, limit: int, cursor: str | None = None, name: str | None = None) -> Page[Model]:
    """Newest first."""
    rows, following = _list(db, models, tenant_id, limit, cursor, name)
    return Page(items=tuple(_model(row) for row in rows), next_cursor=following)


def list_datasets(db: Database, tenant_id: str, *, limit: int, cursor: str | None = None, name: str | None = None) -> Page[Dataset]:
    """Newest first."""
    rows, following = _list(db, datasets, tenant_id, limit, cursor, name)
    return Page(items=tuple(_dataset(row) for row in rows), next_cursor=following)


def inspect_model_again(db: Database, tenant_id: str, model_id: str, *, by: Actor = audit.SERVER) -> Model:
    """Have a rejected or failed model inspected once more; any other stays as it is. Raises NotFound."""
    with db.begin() as connection:
        row = one(connection, models, tenant_id, model_id, lock=True)
        return _model(_again(connection, models, row, by, db.now(connection)))


def inspect_dataset_again(db: Database, tenant_id: str, dataset_id: str, *, by: Actor = audit.SERVER) -> Dataset:
    """Have a rejected or failed dataset inspected once more; any other stays as it is. Raises NotFound."""
    with db.begin() as connection:
        row = one(connection, datasets, tenant_id, dataset_id, lock=True)
        return _dataset(_again(connection, datasets, row, by, db.now(connection)))


def reopen_rejected(db: Database, reader: str) -> int:
    """What another version of the reader has rejected is inspected again by this one; says how many. Nothing changes a second time."""
    found = 0
    with db.begin() as connection:
        for table in (models, datasets):
            other = table.c.reader.is_(None) | (table.c.reader != reader)
            mine = (table.c.state == ArtifactState.REJECTED) & other
            found += connection.execute(sa.update(table).where(mine).values(_waiting(table))).rowcount
    return found


def lease_inspection(db: Database, worker: str, ttl: float) -> InspectionLease | None:
    """The right to inspect the oldest waiting model or dataset; null when none waits. What was lost three times is failed."""
    with db.begin() as connection:
        now = db.now(connection)
        for kind, table in (("model", models), ("dataset", datasets)):
            free = (table.c.state == ArtifactState.INSPECTING) & (table.c.lease_until.is_(None) | (table.c.lease_until < now))
            row = connection.execute(locked(sa.select(table).where(free).order_by(table.c.id).limit(1))).mappings().first()
            if row is None:
                continue
            mine = sa.update(table).where(table.c.id == row["id"])
            if row["attempts"] >= _MAX_INSPECTIONS:
                connection.execute(mine.values(_given_up(kind, row["id"], _LOST)))
                continue
            epoch = row["epoch"] + 1
            until = now + timedelta(seconds=ttl)
            connection.execute(mine.values(lease_owner=worker, lease_until=until, epoch=epoch, attempts=row["attempts"] + 1))
            return InspectionLease(
                kind=kind,  # type: ignore[arg-type]
                id=row["id"],
                blob=row["blob"],
                value_range=read_range(row["value_range"]),
                epoch=epoch,
            )
    return None


def keep_inspection(db: Database, lease: InspectionLease, ttl: float) -> None:
    """A heartbeat: the lease ends `ttl` seconds from now. Raises LostLease."""
    with db.begin() as connection:
        _change(connection, lease, {"lease_until": db.now(connection) + timedelta(seconds=ttl)})


def finish_inspection(db: Database, lease: InspectionLease, facts: ModelFacts | DatasetFacts, reader: str | None = None) -> None:
    """The bytes can be used: `facts`, found by that version of the reader. Raises LostLease."""
    _end_inspection(db, lease, {"state": ArtifactState.READY, "facts": facts.model_dump_json(), "reader": reader})


def reject(db: Database, lease: InspectionLease, problems: Sequence[Problem], reader: str | None = None) -> None:
    """The bytes cannot be used: what is wrong with them, as that version of the reader says. Raises LostLease."""
    _end_inspection(db, lease, {"state": ArtifactState.REJECTED, "rejection": dump_problems(problems), "reader": reader})


def put_off(db: Database, lease: InspectionLease, why: str) -> None:
    """Nothing was found out about the bytes, for a reason of the machine: another try after a pause, or failed after the third.

    Args:
        lease: of the inspection.
        why: what happened, as the end of "could not be inspected: ...".

    Raises:
        LostLease: the lease is not ours any more.
    """
    table = _table(lease.kind)
    with db.begin() as connection:
        attempts = connection.execute(sa.select(table.c.attempts).where(_held(table, lease))).scalar()
        if attempts is None:
            raise LostLease
        if attempts >= _MAX_INSPECTIONS:
            _change(connection, lease, _given_up(lease.kind, lease.id, why))
            return
        later = db.now(connection) + timedelta(seconds=_PAUSES[attempts - 1])
        condition = f"try {attempts} of {_MAX_INSPECTIONS}: {why}; it is inspected again"
        _change(connection, lease, {"condition": condition, "lease_until": later, "lease_owner": None})


def release_inspection(db: Database, lease: InspectionLease) -> None:
    """Give it back as if it had not been taken: another worker may begin at once. Raises LostLease."""
    table = _table(lease.kind)
    with db.begin() as connection:
        _change(connection, lease, {"lease_until": None, "lease_owner": None, "attempts": table.c.attempts - 1})


def _end_inspection(db: Database, lease: InspectionLease, values: dict[str, Any]) -> None:
    with db.begin() as connection:
        _change(connection, lease, {**values, "condition": None, "lease_until": None, "lease_owner": None})


def _change(connection: sa.Connection, lease: InspectionLease, values: dict[str, Any]) -> None:
    table = _table(lease.kind)
    if connection.execute(sa.update(table).where(_held(table, lease)).values(values)).rowcount != 1:
        raise LostLease


def _held(table: sa.Table, lease: InspectionLease) -> sa.ColumnElement[bool]:
    return (table.c.id == lease.id) & (table.c.epoch == lease.epoch) & (table.c.state == ArtifactState.INSPECTING)


def _table(kind: str) -> sa.Table:
    return models if kind == "model" else datasets


def _given_up(kind: str, artifact_id: str, why: str) -> dict[str, Any]:
    condition = (
        f"could not be inspected, tried {_MAX_INSPECTIONS} times: {why}; this says nothing about the file; "
        f"ask again with: assay {kind} retry {artifact_id}, or POST /v1/{kind}s/{artifact_id}/inspect"
    )
    return {"state": ArtifactState.FAILED, "condition": condition, "lease_until": None, "lease_owner": None}


def _waiting(table: sa.Table) -> dict[str, Any]:
    """The columns of a version that waits for its first try; whoever inspects it now has lost it."""
    fresh = {"state": ArtifactState.INSPECTING, "attempts": 0, "epoch": table.c.epoch + 1}
    return {**fresh, "rejection": None, "condition": None, "lease_until": None, "lease_owner": None}


def _again(connection: sa.Connection, table: sa.Table, row: Any, by: Actor, now: datetime) -> Any:
    """A version that was rejected or failed waits for an inspection again; another stays as it is."""
    if row["state"] not in _UNANSWERED:
        return row
    mine = owned(table, row["tenant_id"]) & (table.c.id == row["id"])
    connection.execute(sa.update(table).where(mine).values(_waiting(table)))
    audit.record(connection, row["tenant_id"], by, f"{_noun(table)}.inspected_again", row["id"], now)
    return one(connection, table, row["tenant_id"], row["id"])


def _noun(table: sa.Table) -> str:
    return table.name.removesuffix("s")


def _register(db: Database, table: sa.Table, tenant_id: str, name: str, blob: str, value_range: str, prefix: Prefix, by: Actor) -> Any:
    with db.begin() as connection:
        # One registration of a tenant at a time, so that versions count up without gaps.
        hold_tenant(connection, tenant_id)
        mine = owned(blobs, tenant_id) & (blobs.c.sha256 == blob)
        size = connection.execute(sa.select(blobs.c.size).where(mine)).scalar_one_or_none()
        if size is None:
            raise NotFound.at("blob", f"no content {blob} was uploaded", f"first PUT the bytes to /v1/blobs/sha256/{blob}")
        named = owned(table, tenant_id) & (table.c.name == name)
        same = named & (table.c.blob == blob) & (table.c.value_range == value_range)
        row = connection.execute(sa.select(table).where(same)).mappings().first()
        if row is not None:
            return _again(connection, table, row, by, db.now(connection))
        version = (connection.execute(sa.select(sa.func.max(table.c.version)).where(named)).scalar() or 0) + 1
        now = db.now(connection)
        values = {
            "id": new_id(prefix),
            "tenant_id": tenant_id,
            "name": name,
            "version": version,
            "blob": blob,
            "size": size,
            "value_range": value_range,
            "state": ArtifactState.INSPECTING,
            "facts": None,
            "rejection": None,
            "condition": None,
            "reader": None,
            "created_at": now,
        }
        connection.execute(sa.insert(table).values(values))
        detail = {"name": name, "version": version, "blob": blob}
        audit.record(connection, tenant_id, by, f"{_noun(table)}.registered", values["id"], now, detail)
        return values


def _list(db: Database, table: sa.Table, tenant_id: str, limit: int, cursor: str | None, name: str | None) -> tuple[list[Any], str | None]:
    named = [] if name is None else [table.c.name == name]
    with db.read() as connection:
        return newest(connection, table, tenant_id, *named, limit=limit, cursor=cursor)


def _model(row: Any) -> Model:
    return Model(
        **_common(row),
        value_range=read_range(row["value_range"]),
        facts=ModelFacts.model_validate_json(row["facts"]) if row["facts"] else None,
    )


def _dataset(row: Any) -> Dataset:
    return Dataset(**_common(row), facts=DatasetFacts.model_validate_json(row["facts"]) if row["facts"] else None)


def _common(row: Any) -> dict[str, Any]:
    plain = {name: row[name] for name in ("id", "tenant_id", "name", "version", "blob", "size", "reader", "created_at")}
    state = ArtifactState(row["state"])
    return {**plain, "state": state, "rejection": load_problems(row["rejection"]), "condition": row["condition"] or ""}


def unusable(artifact: Model | Dataset, field: str) -> tuple[Problem, ...]:
    """Why no job can use a version, now or later; empty when it is ready or may become so."""
    if artifact.state is ArtifactState.REJECTED:
        return tuple(Problem(field=field, detail=f"was rejected: {why.sentence()}") for why in artifact.rejection)
    if artifact.state is ArtifactState.FAILED:
        return (Problem(field=field, detail=artifact.condition),)
    return ()


def range_text(value_range: Range | None) -> str:
    """The range as stored: canonical, so that equal ranges are equal texts."""
    return "" if value_range is None else json.dumps([float(value_range[0]), float(value_range[1])])


def read_range(text: str) -> Range | None:
    return tuple(json.loads(text)) if text else None


def dump_problems(problems: Sequence[Problem]) -> str:
    return json.dumps([{"field": p.field, "detail": p.detail, "mend": p.mend} for p in problems])


def load_problems(text: str | None) -> tuple[Problem, ...]:
    return tuple(Problem(**problem) for problem in json.loads(text)) if text else ()
