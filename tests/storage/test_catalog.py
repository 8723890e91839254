"""Models and datasets: versions, inspection under a lease, pages, tenants."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from certify.errors import Problem
from storage import artifacts, catalog, tenants
from storage.database import Database
from storage.errors import LostLease, NotFound
from storage.records import ArtifactState, InspectionLease
from tests.support.shop import MODEL_FACTS, Shop, dataset_facts, digest


@pytest.fixture
def tenant(db: Database) -> str:
    tenant = tenants.ensure_tenant(db, "acme").id
    for name in ("one", "two"):
        artifacts.record_blob(db, tenant, digest(name), 10)
    return tenant


def leased(db: Database, ttl: float = 60) -> InspectionLease:
    found = catalog.lease_inspection(db, "w", ttl)
    assert found is not None
    return found


def end(db: Database, state: str) -> None:
    """An inspection that ends without facts."""
    if state == "rejected":
        catalog.reject(db, leased(db), [Problem(field="dataset", detail="is odd")], "reader 1")
        return
    for _ in range(3):
        leased(db, 0.01)
        time.sleep(0.03)
    assert catalog.lease_inspection(db, "w", 60) is None


def test_versions_count_up_and_repeat_nothing(db: Database, tenant: str) -> None:
    first = catalog.register_model(db, tenant, name="cnn", blob=digest("one"), value_range=(0, 1))
    assert (first.version, first.state, first.size, first.value_range) == (1, ArtifactState.INSPECTING, 10, (0.0, 1.0))
    assert catalog.register_model(db, tenant, name="cnn", blob=digest("one"), value_range=(0, 1)).id == first.id
    other_range = catalog.register_model(db, tenant, name="cnn", blob=digest("one"))
    other_bytes = catalog.register_model(db, tenant, name="cnn", blob=digest("two"))
    assert (other_range.version, other_bytes.version) == (2, 3)
    assert catalog.register_model(db, tenant, name="mlp", blob=digest("one")).version == 1


def test_content_must_have_been_uploaded_by_this_tenant(db: Database, tenant: str) -> None:
    stranger = tenants.ensure_tenant(db, "stranger").id
    with pytest.raises(NotFound) as caught:
        catalog.register_model(db, stranger, name="cnn", blob=digest("one"))
    assert caught.value.problems[0].field == "blob"
    with pytest.raises(NotFound):
        catalog.register_dataset(db, tenant, name="digits", blob=digest("never"))


def test_inspection_ends_ready_or_rejected(db: Database, tenant: str) -> None:
    model = catalog.register_model(db, tenant, name="cnn", blob=digest("one"), value_range=(0, 1))
    dataset = catalog.register_dataset(db, tenant, name="digits", blob=digest("two"))
    leases = {lease.kind: lease for lease in (catalog.lease_inspection(db, "w", 60) for _ in range(2)) if lease}
    assert (leases["model"].id, leases["model"].blob, leases["model"].value_range) == (model.id, digest("one"), (0.0, 1.0))
    assert (leases["dataset"].id, leases["dataset"].value_range) == (dataset.id, None)
    assert catalog.lease_inspection(db, "w", 60) is None
    catalog.finish_inspection(db, leases["model"], MODEL_FACTS)
    why = Problem(field="y", detail="is missing", mend="add it")
    catalog.reject(db, leases["dataset"], [why])
    assert catalog.get_model(db, tenant, model.id).facts == MODEL_FACTS
    refused = catalog.get_dataset(db, tenant, dataset.id)
    assert (refused.state, refused.rejection, refused.facts) == (ArtifactState.REJECTED, (why,), None)
    with pytest.raises(LostLease):
        catalog.finish_inspection(db, leases["dataset"], dataset_facts(3))


def test_a_silent_inspector_is_replaced_and_fenced_off(db: Database, tenant: str) -> None:
    model = catalog.register_model(db, tenant, name="cnn", blob=digest("one"))
    stale = catalog.lease_inspection(db, "first", 0.05)
    assert stale is not None
    time.sleep(0.1)
    fresh = catalog.lease_inspection(db, "second", 60)
    assert fresh is not None
    assert fresh.epoch == stale.epoch + 1
    with pytest.raises(LostLease):
        catalog.reject(db, stale, [Problem(field="", detail="late")])
    catalog.finish_inspection(db, fresh, MODEL_FACTS)
    assert catalog.get_model(db, tenant, model.id).state is ArtifactState.READY


def test_what_is_lost_three_times_is_failed_and_not_rejected(db: Database, tenant: str) -> None:
    model = catalog.register_model(db, tenant, name="cnn", blob=digest("one"))
    for _ in range(3):
        assert catalog.lease_inspection(db, "w", 0.01) is not None
        time.sleep(0.03)
    assert catalog.lease_inspection(db, "w", 60) is None
    found = catalog.get_model(db, tenant, model.id)
    assert (found.state, found.rejection) == (ArtifactState.FAILED, ())
    for part in ("tried 3 times", "says nothing about the file", f"assay model retry {model.id}", f"/v1/models/{model.id}/inspect"):
        assert part in found.condition


def test_what_the_machine_spoils_is_tried_again_after_a_pause(db: Database, tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = catalog.register_model(db, tenant, name="cnn", blob=digest("one"))
    monkeypatch.setattr(catalog, "_PAUSES", (0.2, 0.0))
    lease = leased(db)
    catalog.put_off(db, lease, "the reader was ended by SIGKILL")
    waiting = catalog.get_model(db, tenant, model.id)
    assert (waiting.state, waiting.rejection) == (ArtifactState.INSPECTING, ())
    assert waiting.condition.startswith("try 1 of 3: the reader was ended by SIGKILL")
    assert catalog.lease_inspection(db, "w", 60) is None
    with pytest.raises(LostLease):
        catalog.keep_inspection(db, replace(lease, epoch=0), 60)
    time.sleep(0.25)
    catalog.put_off(db, leased(db), "again")
    catalog.put_off(db, leased(db), "and again")
    failed = catalog.get_model(db, tenant, model.id)
    assert (failed.state, failed.rejection) == (ArtifactState.FAILED, ())
    assert "tried 3 times: and again" in failed.condition
    assert catalog.lease_inspection(db, "w", 60) is None


def test_a_heartbeat_keeps_the_lease_and_a_worker_that_stops_gives_it_back(db: Database, tenant: str) -> None:
    catalog.register_model(db, tenant, name="cnn", blob=digest("one"))
    lease = leased(db, 0.2)
    for _ in range(3):
        time.sleep(0.1)
        catalog.keep_inspection(db, lease, 0.2)
    assert catalog.lease_inspection(db, "other", 60) is None
    catalog.release_inspection(db, lease)
    for _ in range(4):  # however often that happens
        catalog.release_inspection(db, leased(db))
    catalog.finish_inspection(db, leased(db), MODEL_FACTS)


@pytest.mark.parametrize("ask", ["upload", "inspect"])
@pytest.mark.parametrize("state", ["rejected", "failed"])
def test_asking_again_inspects_again(db: Database, tenant: str, state: str, ask: str) -> None:
    dataset = catalog.register_dataset(db, tenant, name="digits", blob=digest("two"))
    end(db, state)
    assert catalog.get_dataset(db, tenant, dataset.id).state == state
    if ask == "upload":
        again = catalog.register_dataset(db, tenant, name="digits", blob=digest("two"))
    else:
        again = catalog.inspect_dataset_again(db, tenant, dataset.id)
    assert (again.id, again.state, again.rejection, again.condition) == (dataset.id, ArtifactState.INSPECTING, (), "")
    catalog.finish_inspection(db, leased(db), dataset_facts(3), "reader 2")
    ready = catalog.get_dataset(db, tenant, dataset.id)
    assert (ready.state, ready.reader) == (ArtifactState.READY, "reader 2")
    assert catalog.inspect_dataset_again(db, tenant, dataset.id) == ready


def test_another_version_of_the_reader_inspects_what_was_rejected_once(db: Database, tenant: str) -> None:
    model = catalog.register_model(db, tenant, name="cnn", blob=digest("one"))
    catalog.reject(db, leased(db), [Problem(field="model", detail="is odd")], "reader 1")
    assert catalog.reopen_rejected(db, "reader 1") == 0
    assert catalog.reopen_rejected(db, "reader 2") == 1
    assert catalog.get_model(db, tenant, model.id).state is ArtifactState.INSPECTING
    catalog.reject(db, leased(db), [Problem(field="model", detail="is odd")], "reader 2")
    assert catalog.reopen_rejected(db, "reader 2") == 0


def test_a_rejection_from_before_readers_were_kept_does_not_stick(db: Database, tenant: str) -> None:
    catalog.register_model(db, tenant, name="cnn", blob=digest("one"))
    catalog.reject(db, leased(db), [Problem(field="model", detail="could not be inspected within 180 s")])
    assert catalog.reopen_rejected(db, "reader 1") == 1


def test_who_inspects_when_somebody_asks_again_has_lost_it(db: Database, tenant: str) -> None:
    model = catalog.register_model(db, tenant, name="cnn", blob=digest("one"))
    late = leased(db)
    catalog.reject(db, late, [Problem(field="model", detail="is odd")])
    catalog.inspect_model_again(db, tenant, model.id)
    with pytest.raises(LostLease):
        catalog.finish_inspection(db, late, MODEL_FACTS)


def test_pages_show_everything_once_newest_first(db: Database, tenant: str) -> None:
    made = [catalog.register_model(db, tenant, name=f"m{i % 2}", blob=digest("one"), value_range=(0, i + 1)).id for i in range(5)]
    seen, cursor = [], None
    while True:
        page = catalog.list_models(db, tenant, limit=2, cursor=cursor)
        seen += [model.id for model in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert sorted(seen) == sorted(made)
    assert seen == sorted(seen, reverse=True)
    assert len(catalog.list_models(db, tenant, limit=10, name="m1").items) == 2
    assert catalog.list_models(db, tenant, limit=5).next_cursor is None


def test_another_tenant_sees_nothing(shop: Shop) -> None:
    stranger = tenants.ensure_tenant(shop.db, "stranger").id
    with pytest.raises(NotFound):
        catalog.get_model(shop.db, stranger, shop.model)
    with pytest.raises(NotFound):
        catalog.get_dataset(shop.db, stranger, shop.dataset)
    assert catalog.list_models(shop.db, stranger, limit=10).items == ()
    assert catalog.list_datasets(shop.db, stranger, limit=10).items == ()
