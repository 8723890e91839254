"""A second network that a spec names: the tenant's own, inspected, and fitting the classifier, or the job is refused at submission."""

from __future__ import annotations

from typing import Any

import pytest

from certify.errors import InputError
from certify.facts import ModelFacts
from storage import artifacts, catalog
from storage.database import Database
from storage.errors import NotReady
from storage.records import JobState
from tests.support.shop import MODEL_FACTS, Shop, digest


def entry(**changes: Any) -> list[dict[str, Any]]:
    selector = {"kind": "model", "model": digest("selector"), "sigma": 0.25, "n": 300}
    return [{"kind": "instance-smoothing", "sigmas": [0.12, 0.25], "n": 300, "alpha": 0.01, "selector": selector, **changes}]


def add(shop: Shop, facts: ModelFacts | None) -> None:
    """A selector; one that was not inspected yet without facts."""
    artifacts.record_blob(shop.db, shop.tenant, digest("selector"), 100)
    catalog.register_model(shop.db, shop.tenant, name="selector", blob=digest("selector"), value_range=None)
    if facts is not None:
        lease = catalog.lease_inspection(shop.db, "w", 60)
        assert lease is not None
        catalog.finish_inspection(shop.db, lease, facts)


def fitting(**changes: Any) -> ModelFacts:
    return MODEL_FACTS.model_copy(update={"classes": 2, **changes})


@pytest.fixture
def shop(db: Database) -> Shop:
    return Shop.open(db, "mine")


def test_a_selector_of_the_tenant_is_accepted(shop: Shop) -> None:
    add(shop, fitting())
    assert shop.submit(certifiers=entry()).state is JobState.QUEUED


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (fitting(classes=3), "the selector has 3 logits for 2 sigmas"),
        (fitting(input_shape=(5,)), r"the selector takes inputs of shape \[5\], the classifier \[4\]"),
    ],
    ids=["logits", "shape"],
)
def test_a_selector_that_does_not_fit_is_refused(shop: Shop, facts: ModelFacts, words: str) -> None:
    add(shop, facts)
    with pytest.raises(InputError, match=words) as refused:
        shop.submit(certifiers=entry())
    assert [problem.field for problem in refused.value.problems] == ["certifiers.0.selector.model"]
    assert all(problem.mend for problem in refused.value.problems)


def test_a_selector_that_is_missing_or_of_another_tenant_is_refused_alike(shop: Shop) -> None:
    with pytest.raises(InputError, match="no network with SHA-256") as missing:
        shop.submit(certifiers=entry())
    add(Shop.open(shop.db, "theirs"), fitting())
    with pytest.raises(InputError) as theirs:
        shop.submit(certifiers=entry())
    assert str(theirs.value) == str(missing.value)


def test_a_selector_that_is_being_inspected_is_waited_for(shop: Shop) -> None:
    add(shop, None)
    with pytest.raises(NotReady, match="still being inspected"):
        shop.submit(certifiers=entry())
