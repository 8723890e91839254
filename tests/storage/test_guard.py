"""No statement reads or changes rows without saying whose, however it is written."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from storage.database import Database
from storage.guard import ForgottenTenant, forgotten, guard
from storage.scoped import everyones, owned
from storage.tables import certificates, jobs, models, shards, tenants
from tests.architecture.sizes import ROOT

MINE, A_JOB = owned(jobs, "ten_1"), jobs.c.id == "job_1"
other = jobs.alias("other")
inner, outer = jobs.join(shards, jobs.c.id == shards.c.job_id), jobs.outerjoin(shards, jobs.c.id == shards.c.job_id)
same_tenant = jobs.c.tenant_id == shards.c.tenant_id
counted = sa.select(shards.c.job_id, sa.func.count().label("n")).group_by(shards.c.job_id)

SETTLED: dict[str, Any] = {
    "select": sa.select(jobs).where(MINE & A_JOB),
    "columns": sa.select(jobs.c.id).where(A_JOB).where(MINE),
    "turned round": sa.select(jobs).where(sa.literal("ten_1") == jobs.c.tenant_id),
    "own tenant": sa.select(tenants).where(owned(tenants, "ten_1")),
    "update": sa.update(jobs).where(MINE & A_JOB).values(name="x"),
    "delete": sa.delete(jobs).where(MINE),
    "insert": sa.insert(jobs).values(id="job_1", tenant_id="ten_1"),
    "insert once": sqlite.insert(jobs).values(id="job_1", tenant_id="ten_1").on_conflict_do_nothing(),
    "alias": sa.select(other).where(owned(other, "ten_1")),
    "join": sa.select(jobs).select_from(inner).where(MINE & owned(shards, "ten_1")),
    "chain": sa.select(jobs).select_from(inner).where(MINE & same_tenant),
    "chain in ON": sa.select(jobs).select_from(jobs.join(shards, same_tenant & (jobs.c.id == shards.c.job_id))).where(MINE),
    "outer join": sa.select(jobs).select_from(jobs.outerjoin(shards, owned(shards, "ten_1") & same_tenant)).where(MINE),
    "subquery": sa.select(jobs).where(MINE & jobs.c.id.in_(sa.select(shards.c.job_id).where(owned(shards, "ten_1")))),
    "exists": sa.select(jobs).where(MINE & sa.exists().where(same_tenant & (shards.c.job_id == jobs.c.id))),
    "from": sa.select(counted.where(owned(shards, "ten_1")).subquery()),
    "text": sa.text("SELECT clock_timestamp()"),
    "no table": sa.select(sa.func.now()),
}
FORGOTTEN: dict[str, tuple[Any, list[str]]] = {
    "select": (sa.select(jobs), ["jobs"]),
    "by id": (sa.select(jobs).where(A_JOB), ["jobs"]),
    "column": (sa.select(sa.func.max(jobs.c.attempt)), ["jobs"]),
    "or": (sa.select(jobs).where(MINE | A_JOB), ["jobs"]),
    "not": (sa.select(jobs).where(~MINE), ["jobs"]),
    "unequal": (sa.select(jobs).where(jobs.c.tenant_id != "ten_1"), ["jobs"]),
    "itself": (sa.select(jobs).where(jobs.c.tenant_id == jobs.c.tenant_id), ["jobs"]),
    "tenants": (sa.select(tenants).where(tenants.c.name == "acme"), ["tenants"]),
    "update": (sa.update(jobs).where(A_JOB).values(name="x"), ["jobs"]),
    "update of all": (sa.update(jobs).values(name="x"), ["jobs"]),
    "update from": (sa.update(jobs).where(MINE & (jobs.c.id == shards.c.job_id)).values(name="x"), ["shards"]),
    "delete": (sa.delete(certificates).where(certificates.c.job_id == "job_1"), ["certificates"]),
    "alias": (sa.select(other).where(MINE), ["jobs"]),
    "both of a self join": (sa.select(jobs).select_from(jobs.join(other, jobs.c.model_id == other.c.model_id)).where(MINE), ["jobs"]),
    "join": (sa.select(jobs).select_from(inner).where(MINE), ["shards"]),
    "neither of a chain": (sa.select(jobs).select_from(inner).where(same_tenant), ["jobs", "shards"]),
    "left of an outer join": (sa.select(jobs).select_from(jobs.outerjoin(shards, same_tenant & MINE)), ["jobs", "shards"]),
    "right of an outer join": (sa.select(jobs).select_from(outer).where(MINE), ["shards"]),
    "subquery": (sa.select(jobs).where(MINE & jobs.c.id.in_(sa.select(shards.c.job_id))), ["shards"]),
    "same table inside": (sa.select(jobs).where(MINE & jobs.c.id.in_(sa.select(jobs.c.id).where(A_JOB))), ["jobs"]),
    "exists": (sa.select(jobs).where(MINE & sa.exists().where(shards.c.job_id == jobs.c.id)), ["shards"]),
    "scalar": (sa.select(jobs, sa.select(models.c.name).where(models.c.id == jobs.c.model_id).scalar_subquery()).where(MINE), ["models"]),
    "from": (sa.select(counted.subquery()), ["shards"]),
    "cte": (sa.select(counted.cte()), ["shards"]),
    "union": (sa.union_all(sa.select(jobs.c.id).where(MINE), sa.select(models.c.id)), ["models"]),
    "insert from": (sa.insert(shards).from_select(["id"], sa.select(jobs.c.id)), ["jobs"]),
    "value of an update": (
        sa.update(jobs).where(MINE).values(name=sa.select(models.c.name).where(models.c.id == jobs.c.model_id).scalar_subquery()),
        ["models"],
    ),
    "upsert": (postgresql.insert(jobs).values(id="x").on_conflict_do_update(index_elements=["id"], set_={"name": "y"}), ["jobs"]),
    "upsert of sqlite": (sqlite.insert(jobs).values(id="x").on_conflict_do_update(set_={"name": "y"}), ["jobs"]),
    "text": (sa.text("SELECT * FROM Jobs"), ["jobs"]),
    "text of a column": (sa.select(sa.literal_column("(SELECT name FROM models)")), ["models"]),
    "a table by name": (sa.select(sa.table("jobs", sa.column("id"))), ["jobs"]),
}


@pytest.mark.parametrize("name", SETTLED)
def test_statements_that_say_whose_rows_they_mean_pass(name: str) -> None:
    assert forgotten(SETTLED[name]) == []


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_forgotten_tenant_is_found(name: str) -> None:
    statement, tables = FORGOTTEN[name]
    assert forgotten(statement) == tables


def test_a_guarded_database_refuses_before_it_asks(db: Database) -> None:
    guard(db)
    with db.begin() as connection:
        for name, (statement, _) in FORGOTTEN.items():
            if "upsert" in name:  # each is of one dialect only
                continue
            with pytest.raises(ForgottenTenant, match="no condition on the tenant"):
                connection.execute(statement)
        assert connection.execute(SETTLED["select"]).all() == []
        assert connection.execute(everyones(sa.select(jobs))).all() == []
        assert db.now(connection)
    with pytest.raises(ForgottenTenant), db.read() as connection:
        connection.execute(sa.select(jobs))


# Who may ask about the rows of every tenant, and why. In a process that answers requests nothing else can.
EVERYONES = {
    "jobs.count_by_state": "metrics: numbers without names",
    "schedule_runs.count_schedules": "metrics: numbers without names",
    "keys.authenticate": "whose key it is, is the question",
    "tenants.list_tenants": "the command line of the server",
    "tenants._named": "the command line of the server",
    "idempotency.drop_old_answers": "cleaning up by age alone",
    "uploads.drop_stale_uploads": "cleaning up by age alone",
}


def users_of_everyones() -> Iterator[str]:
    for room in ("storage", "api"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                calls = ast.walk(node) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else ()
                if any(isinstance(call, ast.Call) and ast.unparse(call.func).endswith("everyones") for call in calls):
                    yield f"{path.stem}.{node.name}"  # type: ignore[union-attr]


def test_only_who_is_on_the_list_asks_about_every_tenant() -> None:
    assert set(users_of_everyones()) - {"guard._check", "guard.guard"} == set(EVERYONES)


def hand_made_conditions() -> Iterator[str]:
    """Comparisons of a tenant column with a value; one column with another is how tables are joined."""
    for path in (ROOT / "storage").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and ".c.tenant_id" in (text := ast.unparse(node)) and text.count(".tenant_id") == 1:
                yield f"{path.name}: {text}"


def test_the_condition_on_the_tenant_is_made_in_one_place() -> None:
    assert list(hand_made_conditions()) == []
