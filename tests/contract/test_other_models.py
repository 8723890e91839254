"""What every kind owes about the networks that it names beside the job's own: it says which, and a job may use its tenant's alone."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, get_args

import pytest

from certify import certify
from certify.errors import InputError
from certify.registry import CERTIFIERS
from certify.spec import CertifierSpec, OtherModel, Part, Spec, parse_spec
from certify.specs.instance import SeenRows
from storage import artifacts, catalog, jobs, schedules
from storage.database import Database
from storage.errors import NotReady
from storage.records_schedules import Ref, Template
from tests.support.linear import LinearTruth
from tests.support.runs import run_for
from tests.support.shop import MODEL_FACTS, SECRET, Shop, digest

OTHER = digest("other")
SELECTOR = {"kind": "model", "model": OTHER, "sigma": 0.25, "n": 300}
SEARCH: dict[str, Any] = {}
# One entry of each kind, with a network of its own where it can name one.
ENTRIES: dict[str, dict[str, Any]] = {
    "smoothing": {"sigma": 0.25},
    "instance-smoothing": {"sigmas": [0.12, 0.25], "selector": SELECTOR},
    "latent-smoothing": {"sigma": 0.25, "split": "h"},
    "predict": {"sigma": 0.25},
    "dual-predict": {"sigmas": [0.12, 0.25], "selector": SELECTOR},
    "memory-predict": {"ledger": f"ldg_{'0' * 26}", "version": 0, "sigmas": [0.25], "search": SEARCH},
    "dssn": {"sigma": 0.25},
    "bounds": {"method": "ibp", "norm": "linf", "epsilon": 0.1},
    "lipschitz": {},
    "attack": {"norm": "l2", "max_radius": 1.0},
}
NAMING = ["instance-smoothing", "dual-predict"]


class Pair(Part):
    """A kind that exists in this file alone: two networks vote."""

    kind: Literal["pair"] = "pair"
    second: str = OTHER

    norm: ClassVar[str] = "l2"
    method: ClassVar[None] = None
    stochastic: ClassVar[bool] = False
    grid_field: ClassVar[None] = None

    @property
    def other_models(self) -> tuple[OtherModel, ...]:
        return (OtherModel(field="second", digest=self.second, noun="second network", outputs=3, each="classes"),)


def of(kind: str) -> Spec:
    if kind == "pair":
        return Spec.model_construct(certifiers=(Pair(),))
    return parse_spec({"certifiers": [{"kind": kind, **ENTRIES[kind]}]})


def classes() -> dict[str, type[Part]]:
    union = get_args(CertifierSpec)[0]
    return {get_args(one.model_fields["kind"].annotation)[0]: one for one in get_args(union)}


def add(shop: Shop, *, outputs: int = 2) -> None:
    artifacts.record_blob(shop.db, shop.tenant, OTHER, 100)
    catalog.register_model(shop.db, shop.tenant, name="other", blob=OTHER, value_range=None)
    lease = catalog.lease_inspection(shop.db, "w", 60)
    assert lease is not None
    catalog.finish_inspection(shop.db, lease, MODEL_FACTS.model_copy(update={"classes": outputs}))


def submit(shop: Shop, spec: Spec) -> None:
    jobs.create_job(shop.db, shop.tenant, model_id=shop.model, dataset_id=shop.dataset, spec=spec, secret=SECRET)


@pytest.fixture
def shop(tmp_path: Any) -> Shop:
    db = Database(f"sqlite:///{tmp_path / 'assay.db'}")
    db.migrate()
    return Shop.open(db, "mine")


def test_every_kind_is_here_and_says_which_networks_take_part() -> None:
    assert set(ENTRIES) == set(CERTIFIERS) == set(classes())
    for kind, one in classes().items():
        assert not inspect.isabstract(one), kind
    assert [kind for kind in ENTRIES if of(kind).certifiers[0].other_models] == NAMING


def test_a_kind_that_does_not_say_cannot_be_made() -> None:
    class Silent(Part):
        kind: Literal["silent"] = "silent"

    with pytest.raises(TypeError, match="other_models"):
        Silent()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="other_models"):
        Silent.model_validate({})


@pytest.mark.parametrize("kind", sorted(ENTRIES))
def test_a_digest_in_a_spec_is_that_of_a_declared_network_or_of_rows(kind: str) -> None:
    """A kind whose class can hold a SHA-256 holds one here, and declares it: nothing is named behind the walk's back."""
    definitions = classes()[kind].model_json_schema()
    definitions.get("$defs", {}).pop(SeenRows.__name__, None)
    certifier = of(kind).certifiers[0]
    assert ("{64}" in json.dumps(definitions)) == bool(certifier.other_models)
    assert {other.digest for other in certifier.other_models} == set(hexes(certifier.model_dump(mode="json")))


@pytest.mark.parametrize("kind", [*NAMING, "pair"])
def test_a_job_uses_no_network_of_another_tenant(shop: Shop, kind: str) -> None:
    spec = of(kind)
    [other] = spec.certifiers[0].other_models
    with pytest.raises(InputError, match="no network with SHA-256") as missing:
        submit(shop, spec)
    assert [problem.field for problem in missing.value.problems] == [f"certifiers.0.{other.field}"]
    add(Shop.open(shop.db, "theirs"))
    with pytest.raises(InputError) as foreign:
        submit(shop, spec)
    assert str(foreign.value) == str(missing.value)


@pytest.mark.parametrize("kind", [*NAMING, "pair"])
def test_a_network_must_have_the_outputs_that_its_kind_declares(shop: Shop, kind: str) -> None:
    [other] = of(kind).certifiers[0].other_models
    add(shop, outputs=other.outputs + 1)
    with pytest.raises(InputError, match=f"the {other.noun} has {other.outputs + 1} logits for {other.outputs} {other.each}"):
        submit(shop, of(kind))


@pytest.mark.parametrize("kind", NAMING)
def test_a_schedule_is_refused_what_a_job_is_refused(shop: Shop, kind: str) -> None:
    asks = Template(model=Ref(id=shop.model), dataset=Ref(id=shop.dataset), spec=of(kind))
    make = {"name": "nightly", "cron": "0 2 * * *", "zone": "UTC", "template": asks}
    with pytest.raises(InputError, match=r"template\.spec\.certifiers\.0\.selector\.model: no network with SHA-256"):
        schedules.create_schedule(shop.db, shop.tenant, **make)
    artifacts.record_blob(shop.db, shop.tenant, OTHER, 100)
    catalog.register_model(shop.db, shop.tenant, name="other", blob=OTHER, value_range=None)
    with pytest.raises(NotReady):
        submit(shop, of(kind))
    assert schedules.create_schedule(shop.db, shop.tenant, **make).name == "nightly"


@pytest.mark.parametrize("kind", NAMING)
def test_the_verb_refuses_a_missing_network_before_the_first_sample(kind: str) -> None:
    truth = LinearTruth.random(4, 3, seed=1)
    spec = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": 0.25, "n": 100}, {"kind": kind, **ENTRIES[kind]}]})
    model = truth.model()
    rows = certify(model, truth.examples(2, seed=1), spec, run_for(spec, model, 2))
    with pytest.raises(InputError, match=r"certifiers\.1\.selector\.model: no network"):
        next(iter(rows))


def hexes(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from hexes(one)
    elif isinstance(value, str) and len(value) == 64:
        yield value
