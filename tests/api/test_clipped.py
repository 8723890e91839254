"""Balls that were cut to the value range say so in every output, those of version 1 too, and are never mixed with whole ones unsaid."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from api import exports
from api.pages.render import render_report
from api.schemas_queries import CompareOut
from certify.arrays import columns
from certify.certificate import BoundsEvidence, Certificate
from certify.curves import report
from certify.report import Report
from certify.run import Plan
from certify.statement import Statement
from storage import catalog, jobs, queries, results, shards
from storage.database import Database
from storage.records import Job, JobState
from storage.tables import certificates
from tests.support.shop import SECRET, Shop, answers, digest, ready_model, shard_plans, spec

CLIPPED, WHOLE = Statement.parse("float32-runtime-clipped"), Statement.parse("float32-runtime")
SEARCH: dict[str, Any] = {"kind": "bounds", "method": "ibp", "norm": "linf", "max_radius": 5.0}


@pytest.fixture
def shop() -> Shop:
    db = Database("sqlite://")
    db.migrate()
    made = Shop.open(db, "acme")
    ranged = ready_model(db, made.tenant, name="ranged", blob=digest("ranged"), value_range=(0.0, 1.0))
    return Shop(db, made.tenant, ranged, made.dataset)


def row(row: Certificate, *, cut: bool) -> Certificate:
    cuts: dict[str, Any] = {"clipped": True, "value_range": (0.0, 1.0)} if cut else {}
    evidence = BoundsEvidence(method="ibp", margin_lower=0.3, tau=1e-9, dtype="float64", float32_error=0.0, **cuts)
    changed = {"evidence": evidence, "statement": CLIPPED if cut else WHOLE, "epsilon_verified": None}
    return Certificate.model_validate({**dict(row), **changed})


def finished(shop: Shop, *, cut: bool, old: bool = False) -> Job:
    """A job with a report. Where `old`, its rows and its report are as version 1 wrote them."""
    asked = spec(clip=cut, certifiers=[SEARCH])
    job, _ = jobs.create_job(shop.db, shop.tenant, model_id=shop.model, dataset_id=shop.dataset, spec=asked, secret=SECRET)
    assert jobs.plan_job(shop.db, job.id, Plan(family=1, batch_sizes=(1,)), shard_plans(1, 8))
    lease = shards.lease_shard(shop.db, "worker", 60)
    assert lease is not None
    rows = [row(one, cut=cut) for one in answers(lease)]
    shards.finish_shard(shop.db, lease, rows)
    made = report(rows, asked)
    if old:
        _as_version_1(shop, job)
        made = Report.model_validate_json(made.model_dump_json().replace("-clipped", ""))
    jobs.finish_job(shop.db, job.id, made)
    ended = shop.job(job.id)
    assert ended.state is JobState.SUCCEEDED
    return ended


def _as_version_1(shop: Shop, job: Job) -> None:
    c = certificates.c
    with shop.db.begin() as connection:
        mine = (c.tenant_id == shop.tenant) & (c.job_id == job.id)
        for stored in connection.execute(sa.select(c.example, c.document).where(mine)).all():
            line = json.loads(stored.document)
            del line["evidence"]["value_range"]
            line["statement"] = "float32-runtime"
            document = json.dumps(line, separators=(",", ":"))
            changed = sa.update(certificates).where(mine, c.example == stored.example)
            connection.execute(changed.values(document=document, statement="float32-runtime"))


def found(shop: Shop, job: Job, statement: Statement | None = None) -> list[queries.Found]:
    return list(queries.iter_found(shop.db, shop.tenant, queries.Filter(job=job.id, statement=statement)))


@pytest.mark.parametrize("old", [False, True])
def test_rows_reports_and_filters_say_it(shop: Shop, old: bool) -> None:
    job = finished(shop, cut=True, old=old)
    assert {row.statement for row in results.iter_certificates(shop.db, shop.tenant, job.id)} == {CLIPPED}
    lines = list(results.iter_lines(shop.db, shop.tenant, job.id))
    assert all('"statement":"float32-runtime-clipped"' in line for line in lines)
    assert len(lines) == len(found(shop, job, CLIPPED)) == 8
    assert found(shop, job, WHOLE) == []
    assert job.report is not None
    assert [one.statement for one in job.report.certifiers] == [CLIPPED]
    whole = finished(shop, cut=False)
    assert len(found(shop, whole, WHOLE)) == 8
    assert found(shop, whole, CLIPPED) == []


@pytest.mark.parametrize("old", [False, True])
def test_every_export_says_it(shop: Shop, old: bool) -> None:
    job = finished(shop, cut=True, old=old)
    assert job.report is not None
    name = "float32-runtime-clipped"
    _, *lines = "".join(exports.csv_lines(found(shop, job))).strip().split("\r\n")
    assert all(f",{name}," in line for line in lines)
    assert len(lines) == 8
    flat = [exports.row(one) for one in found(shop, job)]
    assert set(columns(flat)["statement"]) == {name}
    told = exports.mlflow(job, job.report, ())
    assert {tag["key"]: tag["value"] for tag in told["tags"]}["assay.statement.0"].startswith(f"{name}; ")
    assert {metric["key"].partition("/")[0] for metric in told["metrics"]} == {"0-bounds-linf-clipped"}
    printed = [line for line in exports.latex(job, job.report, ()).splitlines() if not line.startswith("%")]
    assert len(printed) == 1
    assert name in printed[0]
    page = render_report(
        job,
        job.report,
        catalog.get_model(shop.db, shop.tenant, shop.model),
        catalog.get_dataset(shop.db, shop.tenant, shop.dataset),
    )
    assert f"<b>{name}.</b>" in page
    assert "the ball is cut to that range, and outside of it the" in page
    assert old or "declared value range, 0.0 to 1.0: of inputs outside of it nothing is claimed" in page


@pytest.mark.parametrize("old", [False, True])
def test_clipped_balls_are_compared_with_clipped_ones_only(shop: Shop, old: bool) -> None:
    before, after = finished(shop, cut=True, old=old), finished(shop, cut=False)
    [pair] = CompareOut.of(*queries.both_sides(shop.db, shop.tenant, before.id, after.id), ()).certifiers
    assert pair.points == []
    assert "clipped to the model's value range, and the other whole balls" in pair.reason
    with_itself = queries.both_sides(shop.db, shop.tenant, before.id, before.id)
    [same] = CompareOut.of(*with_itself, ()).certifiers
    assert same.reason == ""
    assert json.loads(same.model_dump_json())["statement"] == "real-arithmetic-clipped"


def test_a_chart_with_clipped_and_whole_balls_says_so(shop: Shop) -> None:
    job = finished(shop, cut=True)
    assert job.report is not None
    [cut] = job.report.certifiers
    whole = cut.model_copy(update={"certifier": 1, "kind": "smoothing", "statement": Statement.parse("S0-fixed-from-l2")})
    model, data = catalog.get_model(shop.db, shop.tenant, shop.model), catalog.get_dataset(shop.db, shop.tenant, shop.dataset)
    said = "Some of these balls are cut to the model"
    assert said in render_report(job, Report(certifiers=(cut, whole)), model, data)
    assert said not in render_report(job, Report(certifiers=(cut,)), model, data)
