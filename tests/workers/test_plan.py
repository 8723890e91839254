"""Plans are pure and complete."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from certify.facts import DatasetFacts, ModelFacts
from certify.spec import parse_spec
from workers.plan import plan_job


def facts(largest: int, count: int) -> tuple[ModelFacts, DatasetFacts]:
    model = ModelFacts(input_shape=(4,), classes=2, parameters=1, operators=(), support=(), largest_tensor=largest)
    return model, DatasetFacts(count=count, input_shape=(4,), low=0, high=1, label_low=0, label_high=1)


@given(st.integers(1, 10**6), st.integers(1, 400), st.integers(0, 5), st.integers(1, 7))
def test_every_example_is_in_exactly_one_shard(largest: int, count: int, start: int, step: int) -> None:
    if start >= count:
        return
    spec = parse_spec(
        {
            "examples": {"start": start, "step": step},
            "certifiers": [{"kind": "smoothing", "sigma": 0.5}, {"kind": "bounds", "method": "ibp", "norm": "l2", "epsilon": 0.1}],
        }
    )
    plan, shards = plan_job(spec, *facts(largest, count), "cpu")
    selected = len(range(start, count, step))
    covered = sorted((s.certifier, i) for s in shards for i in range(s.first, s.last))
    assert covered == [(c, i) for c in range(2) for i in range(selected)]
    assert [s.ix for s in shards] == list(range(len(shards)))
    assert plan.family == selected
    assert plan_job(spec, *facts(largest, count), "cpu") == (plan, shards)


def test_a_batch_size_that_was_asked_for_is_kept() -> None:
    spec = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": 0.5, "batch_size": 77}]})
    assert plan_job(spec, *facts(10, 3), "cpu")[0].batch_sizes == (77,)


def test_what_the_dataset_takes_is_taken_off_the_memory() -> None:
    spec = parse_spec({"certifiers": [{"kind": "bounds", "method": "crown", "norm": "linf", "epsilon": 0.1}]})
    small, large = (plan_job(spec, *facts(10, count), "cpu", 2**30)[0].memory for count in (1, 10**6))
    assert 2**30 - small < 2**10
    assert small - large > 3 * 4 * 4 * (10**6 - 1)
    assert plan_job(spec, *facts(10, 10**9), "cpu", 2**30)[0].memory == 1
