"""Attack results have a table of their own; whoever lists results gets both kinds in one order."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from certify.certificate import Certificate
from certify.findings import AttackResult, parse_finding
from certify.norms import Norm
from certify.run import Plan
from storage import jobs, results, shards
from storage.errors import NotFound
from storage.records import Job, ShardLease, ShardPlan
from storage.tables import attack_results, certificates
from storage.tenants import ensure_tenant
from tests.support.shop import BOUNDS, Shop, answers

ATTACK = {"kind": "attack", "norm": "linf", "max_radius": 0.5}
COUNT = 4


def attacks(lease: ShardLease) -> list[AttackResult]:
    """One found, one not, in turn."""
    return [_attack(lease, example, found=example % 2 == 0) for example in range(lease.first, lease.last)]


def _attack(lease: ShardLease, example: int, *, found: bool) -> AttackResult:
    return AttackResult(
        example=example,
        certifier=lease.certifier,
        method="apgd",
        label=1,
        prediction=1,
        correct=True,
        found=found,
        answer=0 if found else None,
        distance_upper=0.1 + example / 7 if found else None,
        norm=Norm.LINF,
        max_radius=2.0,
        clipped=False,
        counterexample="AACAPw==" if found else None,
        reason="",
        provenance=answers(lease)[0].provenance,
        seconds=0.1,
    )


@pytest.fixture
def job(shop: Shop) -> Job:
    """A job of three certifiers, the second of which attacks; all its rows are stored."""
    submitted = shop.submit(certifiers=[BOUNDS, ATTACK, BOUNDS])
    parts = [ShardPlan(ix=i, certifier=i, first=0, last=COUNT) for i in range(3)]
    assert jobs.plan_job(shop.db, submitted.id, Plan(family=1, batch_sizes=(1, 1, 1)), parts)
    while (lease := shards.lease_shard(shop.db, "w", 60)) is not None:
        shards.finish_shard(shop.db, lease, attacks(lease) if lease.certifier == 1 else answers(lease))
    return shop.job(submitted.id)


PLACES = [(certifier, example) for certifier in range(3) for example in range(COUNT)]


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 8, 100])
def test_pages_hold_both_kinds_in_one_order_and_miss_nothing(shop: Shop, job: Job, limit: int) -> None:
    cursor, seen = None, []
    while True:
        page = results.list_findings(shop.db, shop.tenant, job.id, limit=limit, cursor=cursor)
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.items) == limit
    assert [(row.certifier, row.example) for row in seen] == PLACES
    assert [isinstance(row, AttackResult) for row in seen] == [certifier == 1 for certifier, _ in PLACES]
    assert seen == [parse_finding(line) for line in results.iter_lines(shop.db, shop.tenant, job.id)]


def test_each_kind_is_in_its_own_table_only(shop: Shop, job: Job) -> None:
    with shop.db.read() as connection:
        attacked = connection.execute(sa.select(attack_results)).mappings().all()
        assert connection.execute(sa.select(sa.func.count()).select_from(certificates)).scalar_one() == 2 * COUNT
    assert {(row["tenant_id"], row["job_id"], row["certifier"], row["norm"]) for row in attacked} == {(shop.tenant, job.id, 1, "linf")}
    assert {row["example"]: (row["found"], row["distance_upper"]) for row in attacked} == {
        example: (True, 0.1 + example / 7) if example % 2 == 0 else (False, None) for example in range(COUNT)
    }
    proved = list(results.iter_certificates(shop.db, shop.tenant, job.id))
    assert proved == list(results.list_certificates(shop.db, shop.tenant, job.id, limit=100).items)
    assert [row.certifier for row in proved] == [0] * COUNT + [2] * COUNT
    assert all(isinstance(row, Certificate) for row in proved)


def test_a_shard_takes_only_its_own_kind(shop: Shop) -> None:
    submitted = shop.submit(certifiers=[BOUNDS, ATTACK])
    parts = [ShardPlan(ix=i, certifier=i, first=0, last=COUNT) for i in range(2)]
    jobs.plan_job(shop.db, submitted.id, Plan(family=1, batch_sizes=(1, 1)), parts)
    for wrong in (attacks, answers):
        lease = shards.lease_shard(shop.db, "w", 60)
        assert lease is not None
        with pytest.raises(ValueError, match="kind"):
            shards.finish_shard(shop.db, lease, wrong(lease))
    assert list(results.iter_findings(shop.db, shop.tenant, submitted.id)) == []


def test_another_tenant_sees_nothing(shop: Shop, job: Job) -> None:
    stranger = ensure_tenant(shop.db, "stranger").id
    with pytest.raises(NotFound):
        results.list_findings(shop.db, stranger, job.id, limit=10)
    with pytest.raises(NotFound):
        results.iter_findings(shop.db, stranger, job.id)
