"""Models and datasets: registered by name and version, inspected by a worker, then ready or rejected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
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


def register_model(
    db: Database, tenant_id: str, *, name: str, blob: str, value_range: Range | None = None, by: Actor = audit.SERVER
) -> Model:
    """The next version under `name`; the same bytes and range again return the version that exists."""
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


def lease_inspection(db: Database, worker: str, ttl: float) -> InspectionLease | None:
    """The right to inspect the oldest waiting model or dataset; null when none waits. What failed three times is rejected."""
    with db.begin() as connection:
        now = db.now(connection)
        for kind, table in (("model", models), ("dataset", datasets)):
            free = (table.c.state == ArtifactState.INSPECTING) & (table.c.lease_until.is_(None) | (table.c.lease_until < now))
            row = connection.execute(locked(sa.select(table).where(free).order_by(table.c.id).limit(1))).mappings().first()
            if row is None:
                continue
            mine = sa.update(table).where(table.c.id == row["id"])
            if row["attempts"] >= _MAX_INSPECTIONS:
                why = Problem(
                    field=kind, detail="could not be inspected: the inspection died three times", mend="make the file smaller or simpler"
                )
                connection.execute(mine.values(state=ArtifactState.REJECTED, rejection=dump_problems([why])))
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


def finish_inspection(db: Database, lease: InspectionLease, facts: ModelFacts | DatasetFacts) -> None:
    _end_inspection(db, lease, {"state": ArtifactState.READY, "facts": facts.model_dump_json()})


def reject(db: Database, lease: InspectionLease, problems: Sequence[Problem]) -> None:
    _end_inspection(db, lease, {"state": ArtifactState.REJECTED, "rejection": dump_problems(problems)})


def _end_inspection(db: Database, lease: InspectionLease, values: dict[str, Any]) -> None:
    table = models if lease.kind == "model" else datasets
    mine = (table.c.id == lease.id) & (table.c.epoch == lease.epoch) & (table.c.state == ArtifactState.INSPECTING)
    with db.begin() as connection:
        if connection.execute(sa.update(table).where(mine).values(**values, lease_until=None, lease_owner=None)).rowcount != 1:
            raise LostLease


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
            return row
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
            "created_at": now,
        }
        connection.execute(sa.insert(table).values(values))
        detail = {"name": name, "version": version, "blob": blob}
        audit.record(connection, tenant_id, by, f"{table.name.removesuffix('s')}.registered", values["id"], now, detail)
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
    plain = {name: row[name] for name in ("id", "tenant_id", "name", "version", "blob", "size", "created_at")}
    return {**plain, "state": ArtifactState(row["state"]), "rejection": load_problems(row["rejection"])}


def range_text(value_range: Range | None) -> str:
    """The range as stored: canonical, so that equal ranges are equal texts."""
    return "" if value_range is None else json.dumps([float(value_range[0]), float(value_range[1])])


def read_range(text: str) -> Range | None:
    return tuple(json.loads(text)) if text else None


def dump_problems(problems: Sequence[Problem]) -> str:
    return json.dumps([{"field": p.field, "detail": p.detail, "mend": p.mend} for p in problems])


def load_problems(text: str | None) -> tuple[Problem, ...]:
    return tuple(Problem(**problem) for problem in json.loads(text)) if text else ()
