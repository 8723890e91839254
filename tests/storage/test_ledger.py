"""A job goes through its ledger once, whole or not at all; what it leaves is what the rules say, on both databases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from certify.memory import resolve
from certify.regions import Candidate, Region, Resolution
from certify.verdict import Verdict
from storage import audit, jobs, ledger, shards
from storage.database import Database
from storage.errors import NotFound
from storage.ledger_rows import get_ledger, list_ledgers, list_regions
from storage.records import Actor, JobState
from tests.support.ledgers import MEMORY, Books, rule
from tests.support.regions import Pass, candidate, crowd, in_conflict


@pytest.fixture
def books(db: Database) -> Iterator[Books]:
    found = Books.open(db)
    yield found
    found.close()


def test_a_pass_leaves_what_the_rules_leave_in_one_process(books: Books) -> None:
    asked = crowd(4, 120, dimension=4)
    job = books.sampled(asked, parts=3)
    assert {str(row.statement) for row in books.rows(job)} == {"S1-frozen"}
    with pytest.raises(ValueError, match="comes behind"):
        books.take(job, list(reversed(asked)))
    assert books.take(job, asked)

    alone = Pass.of(asked)
    assert [replace(one, job="") for one in books.regions()] == alone.memory.regions
    assert in_conflict(books.regions()) == []
    revoked = {one.number for one in books.regions() if one.revoked}
    assert revoked
    withdrawn = 0
    for one, found, row in zip(asked, alone.found, books.rows(job), strict=True):
        if "was revoked in the same pass" in row.reason:
            note = row.evidence.memory  # type: ignore[union-attr]
            assert {note.region, note.by} & revoked  # type: ignore[union-attr]
            assert (str(row.statement), row.prediction, row.radius, row.verdict) == ("S2-memory", None, 0.0, Verdict.ABSTAINED)
            withdrawn += 1
            continue
        assert (str(row.statement), row.prediction, row.radius) == ("S2-memory", found.answer, found.radius)
        assert row.verdict is (Verdict.ABSTAINED if found.answer is None else Verdict.CERTIFIED)
        assert row.correct == (found.answer == 0)
        note = row.evidence.memory  # type: ignore[union-attr]
        assert (note.how, note.own_prediction, note.own_radius) == (found.how, one.answer, one.radius)  # type: ignore[union-attr]
        assert note.by == (found.by.number if found.by else None)  # type: ignore[union-attr]
        assert "not been asked" not in row.reason
    assert withdrawn >= len(revoked)
    ledger_now = books.ledger()
    assert (ledger_now.regions, ledger_now.version) == (len(alone.memory.regions), 1)
    assert ledger_now.rule["sigmas"] == [0.25, 0.5]
    assert "n" not in ledger_now.rule


def test_columns_say_what_the_documents_say(books: Books) -> None:
    asked = crowd(5, 40, dimension=4)
    job = books.sampled(asked)
    books.take(job, asked)
    with books.shop.db.read() as connection:
        query = "SELECT example, statement, prediction, verdict, radius, alpha FROM certificates ORDER BY example"
        stored = [tuple(row) for row in connection.exec_driver_sql(query).all()]
    assert stored == [(r.example, str(r.statement), r.prediction, r.verdict, r.radius, r.alpha) for r in books.rows(job)]


def test_a_second_pass_changes_nothing(books: Books) -> None:
    asked = crowd(4, 30, dimension=4)
    job = books.sampled(asked)
    assert books.take(job, asked)
    before = books.regions(), books.rows(job), books.ledger()
    assert not books.take(job, asked)
    assert (books.regions(), books.rows(job), books.ledger()) == before


def test_a_later_job_meets_the_regions_of_the_one_before(books: Books) -> None:
    first = [candidate([0, 0, 0, 0], 0, 1.0, sigma=0.5), candidate([9, 0, 0, 0], 1, 1.0, example=1, alpha=0.01)]
    books.take(books.sampled(first), first)
    later = [
        candidate([0, 0, 0, 0], 0, 2.0, sigma=0.5),  # the same input with more
        candidate([9.5, 0, 0, 0], None, 0.0, example=1),  # inside, without an answer of its own
        candidate([2, 0, 0, 0], 2, 1.5, example=2),  # would overlap
        candidate([0.5, 0, 0, 0], 1, 0.1, sigma=0.25, example=3),  # inside, of another class
    ]
    job = books.sampled(later, seed=1)
    assert books.take(job, later)
    rows = books.rows(job)
    assert [row.evidence.memory.how for row in rows] == ["answered", "answered", "shrunk", "answered"]  # type: ignore[union-attr]
    assert rows[0].radius == 1.0
    assert (rows[1].prediction, rows[1].alpha) == (1, 0.01)  # it leans on the other certificate, at the larger level
    assert 0.49 < rows[1].radius <= 0.5
    assert 1 - 1e-9 < rows[2].radius <= 1
    assert (rows[3].prediction, rows[3].correct) == (0, True)
    assert [one.number for one in books.regions()] == [1, 2, 3]
    assert "region 1" in rows[2].reason


def test_a_contradicted_region_is_revoked_and_the_log_says_so(books: Books) -> None:
    first = [candidate([0, 0, 0, 0], 0, 1.0, sigma=0.5)]
    books.take(books.sampled(first), first)
    later = [candidate([0.5, 0, 0, 0], 1, 1.0, sigma=0.5)]
    job = books.sampled(later, seed=1)
    books.take(job, later)
    (row,) = books.rows(job)
    assert (row.verdict, row.radius) == (Verdict.ABSTAINED, 0.0)
    assert row.evidence.memory.revoked == (1,)  # type: ignore[union-attr]
    (shown,) = list_regions(books.shop.db, books.shop.tenant, books.ledger().id, limit=10).items
    assert shown.revoked_at is not None
    assert "one of the certificates is wrong" in (shown.revoked_because or "")
    (entry,) = audit.list_entries(books.shop.db, books.shop.tenant, limit=10, action="region").items
    assert entry.target == f"{books.ledger().id}/1"


def test_somebody_revokes_a_region(books: Books) -> None:
    db, tenant = books.asked, books.shop.tenant
    first = [candidate([0, 0, 0, 0], 0, 1.0, sigma=0.5)]
    books.take(books.sampled(first), first)
    here, by = books.ledger(), Actor(key_id="key_1", request_id="req_1")
    assert ledger.revoke(db, tenant, here.id, 1, "it was a mistake", by)
    assert not ledger.revoke(db, tenant, here.id, 1, "again")
    assert books.ledger().version == here.version + 1
    with pytest.raises(NotFound, match="no region 2"):
        ledger.revoke(db, tenant, here.id, 2, "")
    (entry,) = audit.list_entries(db, tenant, limit=10, action="region.revoked").items
    assert (entry.key_id, entry.detail) == ("key_1", {"reason": "it was a mistake"})
    beside = [candidate([0.5, 0, 0, 0], 1, 1.0), candidate([0, 0, 0, 0], 0, 1.0, example=1)]
    job = books.sampled(beside, seed=1)
    books.take(job, beside)
    assert [row.evidence.memory.how for row in books.rows(job)] == ["stored", "abstained"]  # type: ignore[union-attr]


def test_incomplete_jobs_leave_no_region(books: Books) -> None:
    asked = crowd(4, 20, dimension=4)
    shop = books.shop
    job = shop.planned(certifiers=[MEMORY], parts=2, size=10, examples={"stop": 20})
    lease = shards.lease_shard(shop.db, "w", 60)
    assert lease is not None
    shards.fail_shard(shop.db, lease, [], retry=False)
    assert not books.take(job, asked)  # it still runs
    lease = shards.lease_shard(shop.db, "w", 60)
    assert lease is not None
    shards.fail_shard(shop.db, lease, [], retry=False)
    assert shop.job(job.id).state is JobState.FINALIZING
    assert not books.take(job, asked)  # it has failed
    assert list_ledgers(shop.db, shop.tenant, limit=10).items == ()


def test_a_pass_that_breaks_leaves_nothing(books: Books) -> None:
    asked = crowd(4, 20, dimension=4)
    job = books.sampled(asked)

    def breaks(one: Candidate, near: Sequence[Region]) -> Resolution:
        if one.example == 15:
            raise RuntimeError("a defect")
        return resolve(one, near)

    with pytest.raises(RuntimeError, match="a defect"):
        books.take(job, asked, breaks)
    assert list_ledgers(books.shop.db, books.shop.tenant, limit=10).items == ()
    assert {str(row.statement) for row in books.rows(job)} == {"S1-frozen"}
    assert books.take(job, asked)


def test_an_ended_job_is_fenced(books: Books) -> None:
    asked = crowd(4, 20, dimension=4)
    job = books.sampled(asked)
    jobs.fail_job(books.shop.db, job.id, [])
    assert not books.take(job, asked)
    assert {str(row.statement) for row in books.rows(job)} == {"S1-frozen"}


def test_no_neighbour_is_filtered_out(books: Books) -> None:
    """What the index and the shadows leave is enough: as if every region had been handed over."""
    asked = crowd(7, 150, dimension=4)
    job = books.sampled(asked[:75])
    books.take(job, asked[:75])
    rest = [replace(one, example=one.example - 75) for one in asked[75:]]
    seen = books.regions()

    def watched(one: Candidate, near: Sequence[Region]) -> Resolution:
        found, everything = resolve(one, near), resolve(one, seen)
        assert found == everything
        if found.revokes:
            numbers = {region.number for region in found.revokes}
            seen[:] = [replace(region, revoked=region.revoked or region.number in numbers) for region in seen]
        if found.keeps:
            seen.append(Pass.of([one]).memory.regions[0])
            seen[-1] = replace(seen[-1], number=len(seen), radius=found.radius, job=later.id)
        return found

    later = books.sampled(rest, seed=1)
    assert books.take(later, rest, watched)


def test_ledgers_are_apart_by_tenant_model_and_rule(books: Books, db: Database) -> None:
    asked = crowd(4, 20, dimension=4)
    books.take(books.sampled(asked), asked)
    other = Books.open(db, "rival")
    other.take(other.sampled(asked), asked)
    assert other.ledger().id != books.ledger().id
    with pytest.raises(NotFound):
        get_ledger(db, other.shop.tenant, books.ledger().id)
    with pytest.raises(NotFound):
        list_regions(db, other.shop.tenant, books.ledger().id, limit=10)
    with pytest.raises(NotFound):
        ledger.revoke(db, other.shop.tenant, books.ledger().id, 1, "")
    same = [rule(n=5000), rule(n0=50), rule(bound="top-two"), rule(batch_size=8), rule(sampling="fixed")]
    other.close()
    unlike = [rule(alpha=0.01), rule(sigmas=[0.25, 1.0]), rule(search={"samples": 64}), rule(error_rate="per-example")]
    assert {one.digest() for one in same} == {rule().digest()}
    assert len({one.digest() for one in [*same, *unlike]}) == 5


def test_regions_come_page_by_page(books: Books) -> None:
    asked = [candidate([9 * i, 0, 0, 0], 0, 1.0, example=i) for i in range(5)]
    job = books.sampled(asked)
    books.take(job, asked)
    db, tenant, numbers, cursor = books.asked, books.shop.tenant, [], None
    while True:
        page = list_regions(db, tenant, books.ledger().id, limit=2, cursor=cursor)
        numbers += [one.number for one in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert numbers == [1, 2, 3, 4, 5]
    assert {one.job for one in page.items} == {job.id}
    assert get_ledger(db, tenant, books.ledger().id) == books.ledger()
