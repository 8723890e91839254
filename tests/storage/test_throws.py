"""One throw for one question: the salt is drawn once and kept, tenants apart, and every throw of a certifier is counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from certify.attempts import EFFORT, tried_as
from certify.errors import Problem
from certify.registry import CERTIFIERS
from certify.run import Plan, commitment
from certify.spec import parse_spec
from storage import jobs, shards
from storage.database import Database
from storage.records import Job
from tests.contract.test_other_models import classes
from tests.support.salts import key_of, salts
from tests.support.shop import BOUNDS, Shop, digest, ready_model, shard_plans

SMOOTHING = {"kind": "smoothing", "sigma": 0.25, "n": 1000}


@pytest.fixture
def shop(db: Database) -> Shop:
    return Shop.open(db, "mine")


def ask(shop: Shop, *certifiers: dict[str, Any], **changes: Any) -> Job:
    return shop.submit(certifiers=list(certifiers or (SMOOTHING,)), **changes)


def test_tenants_that_ask_the_same_get_different_keys(shop: Shop) -> None:
    ours, theirs = ask(shop), ask(Shop.open(shop.db, "theirs"))
    assert (ours.spec_digest, ours.model_digest, ours.dataset_digest) == (theirs.spec_digest, theirs.model_digest, theirs.dataset_digest)
    assert ours.noise_commitment != theirs.noise_commitment
    assert salts(shop.db, ours) != salts(shop.db, theirs)


def test_the_commitment_is_there_from_the_start_and_is_that_of_the_salted_key(shop: Shop) -> None:
    job = ask(shop)
    assert (job.noise_key, job.noise_commitment) == (None, commitment(key_of(shop.db, job)))


def test_after_failure_and_cancel_salt_and_key_are_the_same_whatever_the_secret(shop: Shop) -> None:
    first = ask(shop)
    before = salts(shop.db, first)
    jobs.fail_job(shop.db, first.id, [Problem(field="", detail="no plan")])
    second = ask(shop)
    jobs.request_cancel(shop.db, shop.tenant, second.id)
    third = ask(shop, secret=b"t" * 32)
    assert len({first.id, second.id, third.id}) == 3
    assert {job.noise_commitment for job in (first, second, third)} == {first.noise_commitment}
    assert {job.attempts for job in (first, second, third)} == {(1,)}
    assert salts(shop.db, third) == before


def test_another_range_is_no_second_throw(shop: Shop) -> None:
    first = ask(shop)
    ranged = ready_model(shop.db, shop.tenant, name="ranged", value_range=(0.0, 1.0))
    second = ask(shop, model=ranged)
    assert second.id != first.id
    assert (second.noise_commitment, second.attempts) == (first.noise_commitment, first.attempts)


def test_the_same_question_at_once_draws_one_salt(shop: Shop) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ask(shop), range(12)))
    assert len({job.noise_commitment for job in made}) == len(salts(shop.db, made[0])) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"examples": {"stop": 3}},
        {"certifiers": [BOUNDS, SMOOTHING]},
        *({"certifiers": [{**SMOOTHING, **one}]} for one in ({"n": 999}, {"alpha": 0.01}, {"bound": "top-two"}, {"norm": "linf"})),
        *({"certifiers": [{**SMOOTHING, **one}]} for one in ({"batch_size": 7}, {"sampling": "fixed"}, {"n0": 50}, {"tolerance": 0.1})),
    ],
    ids=str,
)
def test_what_is_no_other_certifier_is_another_throw_of_it(shop: Shop, changes: dict[str, Any]) -> None:
    first = ask(shop)
    jobs.request_cancel(shop.db, shop.tenant, first.id)
    second = shop.submit(**{"certifiers": [SMOOTHING], **changes})
    assert second.noise_commitment != first.noise_commitment
    assert second.attempts[-1] == 2


def test_another_certifier_model_dataset_or_tenant_begins_at_one(shop: Shop) -> None:
    ask(shop)
    assert ask(shop, {**SMOOTHING, "sigma": 0.5}).attempts == (1,)
    assert ask(shop, {**SMOOTHING, "noise": "uniform"}).attempts == (1,)
    assert ask(shop, model=ready_model(shop.db, shop.tenant, name="other", blob=digest("other"))).attempts == (1,)
    assert ask(Shop.open(shop.db, "theirs")).attempts == (1,)


def test_each_place_in_a_spec_is_a_throw_of_its_own(shop: Shop) -> None:
    assert ask(shop, SMOOTHING, BOUNDS, {**SMOOTHING, "alpha": 0.01}).attempts == (1, None, 2)
    assert ask(shop, {**SMOOTHING, "n": 500}).attempts == (3,)


def test_a_shard_is_told_the_attempt_of_its_certifier(shop: Shop) -> None:
    ask(shop)
    jobs.request_cancel(shop.db, shop.tenant, jobs.list_jobs(shop.db, shop.tenant, limit=1).items[0].id)
    job = ask(shop, seed=1)
    assert jobs.plan_job(shop.db, job.id, Plan(family=1, batch_sizes=(1,)), shard_plans(1, 8))
    lease = shards.lease_shard(shop.db, "w", 60)
    assert lease is not None
    assert (lease.attempt, lease.noise_key) == (2, key_of(shop.db, job))


def test_every_field_of_a_kind_with_noise_says_whether_it_makes_another_certifier() -> None:
    """A new field is put on one side by whoever adds it."""
    identity = {"kind", "noise", "selector", "sigma", "sigmas", "split", "statement"}
    for kind in CERTIFIERS:
        one = classes()[kind]
        if getattr(one, "stochastic", False):
            assert set(one.model_fields) <= identity | EFFORT, kind
    chosen = {"kind": "confidence", "thresholds": [0.5], "sigma": 0.25}
    entry = {"kind": "instance-smoothing", "sigmas": [0.1, 0.2]}
    tries = [{**chosen}, {**chosen, "n": 50, "n0": 7}, {**chosen, "thresholds": [0.6]}]
    numbers = [tried_as(parse_spec({"certifiers": [{**entry, "selector": one}]}).certifiers[0]) for one in tries]
    assert numbers[0] == numbers[1] != numbers[2]
