"""Facts about a model and a dataset: what does not fit together is refused before a job is queued."""

from __future__ import annotations

from typing import Any

import pytest

from certify.errors import InputError
from certify.facts import DatasetFacts, ModelFacts, check
from certify.spec import parse_spec

SPEC = parse_spec({"noise_key": "public-seed", "certifiers": [{"kind": "smoothing", "sigma": 0.2, "n": 1500, "alpha": 0.01}]})


def model(**changes: Any) -> ModelFacts:
    usual = {"input_shape": (2,), "classes": 3, "parameters": 1, "operators": (), "support": (), "largest_tensor": 1}
    return ModelFacts.model_validate({**usual, **changes})


def dataset(**changes: Any) -> DatasetFacts:
    usual = {"count": 4, "input_shape": (2,), "low": 0.0, "high": 1.0, "label_low": 0, "label_high": 2}
    return DatasetFacts.model_validate({**usual, **changes})


def refusal(ours: ModelFacts, theirs: DatasetFacts) -> str:
    with pytest.raises(InputError) as refused:
        check(SPEC, ours, theirs, (0.0, 1.0))
    assert all(problem.field == "dataset" and problem.mend for problem in refused.value.problems)
    return str(refused.value)


NAMES = ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("ours", "theirs"), [(None, None), (NAMES, None), (None, NAMES), (NAMES, NAMES)], ids=["neither", "model", "dataset", "both"]
)
def test_names_that_agree_or_are_missing_pass(ours: Any, theirs: Any) -> None:
    check(SPEC, model(class_names=ours), dataset(class_names=theirs), (0.0, 1.0))


def test_the_number_of_names_must_be_the_number_of_logits() -> None:
    assert "names 2 classes but the model has 3" in refusal(model(), dataset(class_names=NAMES[:2], label_high=1))
    assert "names 4 classes but the model has 3" in refusal(model(class_names=NAMES), dataset(class_names=(*NAMES, "yak")))


def test_the_first_class_that_differs_is_named() -> None:
    text = refusal(model(class_names=NAMES), dataset(class_names=("cat", "owl", "dog")))
    assert "class 1 is named 'owl' but the model names it 'dog'" in text
    assert "class 2" not in text


def test_names_do_not_hide_the_other_checks() -> None:
    text = refusal(model(class_names=NAMES), dataset(class_names=("cat", "owl", "dog"), input_shape=(3,), high=2.0, label_high=3))
    for words in ("shape [3]", "label 3", "values from 0 to 2", "class 1"):
        assert words in text


def test_facts_stored_before_names_existed_are_still_read() -> None:
    old = '{"count":4,"input_shape":[2],"low":0.0,"high":1.0,"label_low":0,"label_high":2}'
    found = DatasetFacts.model_validate_json(old)
    assert (found.class_names, found.rounded) == (None, False)
    check(SPEC, model(), found, None)
