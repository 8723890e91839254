"""Where noise may be added: a tensor that is no cut, or has no bound before it, is refused at submission with the ones that would do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from certify import Examples, Model, certify
from certify.errors import InputError
from certify.facts import DatasetFacts, ModelFacts, check
from certify.spec import parse_spec
from tests.support.onnx_models import model_bytes, node
from tests.support.runs import run_for
from workers.facts import model_facts
from workers.plan import plan_job

DATASET = DatasetFacts(count=10, input_shape=(4,), low=0.0, high=1.0, label_low=0, label_high=2)


def residual_bytes(middle: str) -> bytes:
    """x -> a = W x -> b = relu(a) -> c = V b -> s = a + c -> t = relu(s) -> logits: b and c lie inside a skip path."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Gemm", "x w zero", "a", transB=1),
        node(middle, "a", "b"),
        node("Gemm", "b v zero", "c", transB=1),
        node("Add", "a c", "s"),
        node("Relu", "s", "t"),
        node("Gemm", "t u none", "logits", transB=1),
    ]
    weights = {name: rng.normal(size=(4, 4)).astype(np.float32) for name in "wv"}
    weights |= {"u": rng.normal(size=(3, 4)).astype(np.float32), "zero": np.zeros(4, np.float32), "none": np.zeros(3, np.float32)}
    return model_bytes(nodes, weights, input_shape=("batch", 4))


def residual(middle: str = "Relu") -> ModelFacts:
    return model_facts(Model.from_onnx(residual_bytes(middle)))


def refused(facts: ModelFacts, split: str, **changes: Any) -> tuple[str, str, str]:
    spec = parse_spec({"certifiers": [{"kind": "latent-smoothing", "split": split, "sigma": 0.25, "n": 1000, **changes}]})
    with pytest.raises(InputError) as found:
        check(spec, facts, DATASET, None)
    [problem] = found.value.problems
    return problem.field, problem.detail, problem.mend


@pytest.mark.parametrize("split", ["b", "c"])
def test_a_split_that_a_skip_path_goes_around_is_refused_with_the_nearest_cut_first(split: str) -> None:
    field, detail, mend = refused(residual(), split)
    assert field == "certifiers.0.split"
    assert f"{split!r} is not a cut: some path from the input to the logits goes around it" in detail
    assert mend.index("'a'" if split == "b" else "'s'") < mend.index("'t'")
    assert "'b'" not in mend
    assert "'c'" not in mend
    assert "[4] (Lipschitz <= " in mend


def test_a_name_that_no_tensor_has_lists_the_cuts() -> None:
    field, detail, mend = refused(residual(), "conv3")
    assert field == "certifiers.0.split"
    assert detail == "the model has no tensor 'conv3'"
    assert all(f"'{name}'" in mend for name in "ast")


def test_a_cut_behind_an_operator_without_a_constant_names_the_operator() -> None:
    _, detail, mend = refused(residual("Exp"), "s")
    assert "'s' has no Lipschitz bound: exp_b" in detail
    assert "'a'" in mend
    assert "'t'" not in mend


def test_every_valid_cut_is_accepted_and_planned_by_what_is_behind_it() -> None:
    facts = residual()
    for cut in facts.cuts:
        spec = parse_spec({"certifiers": [{"kind": "latent-smoothing", "split": cut.name, "sigma": 0.25, "n": 1000}]})
        check(spec, facts, DATASET, None)
        plan, shards = plan_job(spec, facts, DATASET, "cpu")
        assert plan.batch_sizes[0] >= 16
        assert shards


def test_a_radius_that_the_encoder_puts_out_of_reach_is_refused_with_the_numbers() -> None:
    facts = residual()
    constant = facts.cut("a").lipschitz  # type: ignore[union-attr]
    _, detail, _ = refused(facts, "a", radii=[0.6])
    assert f"behind an encoder of Lipschitz constant {constant:.4g}" in detail


def test_predictions_need_such_a_cut_too() -> None:
    # Where nothing bounds the encoder, nothing bounds the rounding error of what the noise would be added to.
    facts = residual("Exp")
    at = {split: parse_spec({"certifiers": [{"kind": "predict", "split": split, "sigma": 0.25}]}) for split in "asb"}
    check(at["a"], facts, DATASET, None)
    for split, reason in (("s", "has no Lipschitz bound"), ("b", "is not a cut")):
        with pytest.raises(InputError, match=reason):
            check(at[split], facts, DATASET, None)


def test_facts_of_older_inspections_are_still_read_and_left_to_the_worker() -> None:
    stored = residual().model_dump(exclude={"layers"})
    stored["cuts"] = [{"name": cut["name"], "shape": cut["shape"]} for cut in stored["cuts"]]
    old = ModelFacts.model_validate(stored)
    spec = parse_spec({"certifiers": [{"kind": "latent-smoothing", "split": "b", "sigma": 0.25, "n": 1000}]})
    check(spec, old, DATASET, None)
    model, examples = Model.from_onnx(residual_bytes("Relu")), Examples((0,), torch.zeros(1, 4), torch.tensor([0]))
    with pytest.raises(InputError, match="choose one of the tensors a, s, t"):
        list(certify(model, examples, spec, run_for(spec, model, 1)))
