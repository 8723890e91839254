"""Models and datasets: versions, inspection under a lease, pages, tenants."""

from __future__ import annotations

import time

import pytest

from certify.errors import Problem
from storage import artifacts, catalog, tenants
from storage.database import Database
from storage.errors import LostLease, NotFound
from storage.records import ArtifactState
from tests.support.shop import MODEL_FACTS, Shop, dataset_facts, digest


@pytest.fixture
def tenant(db: Database) -> str:
    tenant = tenants.ensure_tenant(db, "acme").id
    for name in ("one", "two"):
        artifacts.record_blob(db, tenant, digest(name), 10)
    return tenant


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


def test_what_kills_every_inspector_is_rejected(db: Database, tenant: str) -> None:
    model = catalog.register_model(db, tenant, name="cnn", blob=digest("one"))
    for _ in range(3):
        assert catalog.lease_inspection(db, "w", 0.01) is not None
        time.sleep(0.03)
    assert catalog.lease_inspection(db, "w", 60) is None
    refused = catalog.get_model(db, tenant, model.id)
    assert refused.state is ArtifactState.REJECTED
    assert "three times" in refused.rejection[0].detail


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
