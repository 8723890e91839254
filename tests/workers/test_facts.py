"""What inspection says about Lipschitz bounds, and what becomes of jobs on models that were inspected before there were any."""

from __future__ import annotations

import numpy as np
import pytest

from certify import Model
from certify.errors import InputError
from certify.facts import DatasetFacts, ModelFacts, check
from certify.spec import parse_spec
from tests.support.layered import resnet
from tests.support.onnx_models import mlp, model_bytes, node, small_cnn
from workers.facts import model_facts

SPEC = parse_spec({"certifiers": [{"kind": "lipschitz", "norm": "l2"}]})


def dataset(facts: ModelFacts) -> DatasetFacts:
    return DatasetFacts(count=1, input_shape=facts.input_shape, low=0.0, high=1.0, label_low=0, label_high=1)


def supported(facts: ModelFacts) -> dict[str, tuple[bool, str]]:
    return {row.kind: (row.supported, row.reason) for row in facts.support if row.kind in ("lipschitz", "latent-smoothing")}


def test_every_layer_and_cut_of_a_residual_network_has_its_bound() -> None:
    model = Model.from_onnx(resnet(4, 8))
    facts = model_facts(model)
    assert [layer.name for layer in facts.layers] == [operator.name for operator in model.graph.operators]
    assert [cut.name for cut in facts.cuts] == list(model.graph.cuts())
    for cut in facts.cuts:
        assert cut.lipschitz == model.lipschitz.at(cut.name)
    assert supported(facts) == {"lipschitz": (True, ""), "latent-smoothing": (True, "")}
    check(SPEC, facts, dataset(facts), None)
    assert ModelFacts.model_validate_json(facts.model_dump_json()) == facts


def test_rows_are_those_of_the_walk_whatever_was_asked_of_single_tensors() -> None:
    """A bound of a tensor inside a run of linear operators would count its factor twice."""
    facts = model_facts(Model.from_onnx(small_cnn(mean=0.5)))
    product = 1.0
    for layer in facts.layers:
        assert layer.constant is not None
        product *= layer.constant
        if layer.total is not None:
            assert layer.total == pytest.approx(product, rel=1e-9)
    assert any(layer.total is None for layer in facts.layers)
    assert all(cut.lipschitz is not None for cut in facts.cuts)


def test_the_first_operator_without_a_bound_is_named_and_ends_the_rows() -> None:
    nodes = [node("Exp", "x", "a"), node("Gemm", "a w", "b", transB=1), node("Floor", "b", "logits")]
    facts = model_facts(Model.from_onnx(model_bytes(nodes, {"w": np.eye(3, dtype=np.float32)}, input_shape=("batch", 3))))
    assert [(layer.name, layer.constant, layer.reason) for layer in facts.layers] == [("exp_a", None, "Exp: its slope is unbounded")]
    reason = "exp_a: Exp: its slope is unbounded"
    assert supported(facts) == {"lipschitz": (False, reason), "latent-smoothing": (False, reason)}
    with pytest.raises(InputError, match=reason):
        check(SPEC, facts, dataset(facts), None)


def test_facts_stored_before_there_were_bounds_are_read_and_refuse_nothing() -> None:
    stored = model_facts(Model.from_onnx(mlp([3, 4, 2], activation="Exp")), lipschitz=False).model_dump(mode="json")
    del stored["layers"]
    for cut in stored["cuts"]:
        del cut["lipschitz"]
    facts = ModelFacts.model_validate(stored)
    assert facts.layers == ()
    assert not supported(facts)
    check(SPEC, facts, dataset(facts), None)  # the worker finds out


@pytest.mark.parametrize(
    ("broken", "kinds"),
    [("layers", {"lipschitz", "latent-smoothing"}), ("cuts", {"lipschitz", "latent-smoothing"}), ("bounds_support", {"bounds"})],
)
def test_a_fault_in_one_analysis_takes_away_its_own_kinds_only(
    broken: str, kinds: set[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise IndexError("broken by hand")

    model = Model.from_onnx(small_cnn(mean=0.5))
    whole = {(row.kind, row.method, row.norm): row for row in model_facts(model).support}
    monkeypatch.setattr(f"workers.facts.{broken}", fails)
    facts = model_facts(model)
    assert {(row.kind, row.method, row.norm) for row in facts.support} == set(whole)
    for row in facts.support:
        if row.kind not in kinds:
            assert row == whole[row.kind, row.method, row.norm]
            continue
        assert not row.supported
        assert "a fault of Assay, not of the model" in row.reason
        assert "IndexError" in row.reason
    assert "broken by hand" in caplog.text
    if "lipschitz" in kinds:
        with pytest.raises(InputError, match="a fault of Assay"):
            check(SPEC, facts, dataset(facts), None)


def test_memory_that_runs_out_says_nothing_about_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("workers.facts.layers", fails)
    with pytest.raises(MemoryError):
        model_facts(Model.from_onnx(small_cnn(mean=0.5)))


@pytest.mark.parametrize(("shape", "axes"), [((2, 2, 2), 4), ((8,), 3), ((4, 2), 3), ((1, 8, 1), 5)])
def test_one_number_with_more_axes_than_the_tensor_it_was_reshaped_from(shape: tuple[int, ...], axes: int) -> None:
    """Its places are not known any more, and the kernel behind it has fewer axes than the number."""
    weights = {
        "s": np.array((-1, *shape, *(1,) * (axes - 1 - len(shape))), np.int64),
        "k": np.full((1,) * axes, 3.0, np.float32),
        "w": np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32),
    }
    nodes = [node("Reshape", "x s", "a"), node("Mul", "a k", "b"), node("Flatten", "b", "c"), node("Gemm", "c w", "logits", transB=1)]
    facts = model_facts(Model.from_onnx(model_bytes(nodes, weights, input_shape=("batch", 8))))
    assert supported(facts)["lipschitz"] == (True, "")
    assert facts.layers[-1].total == pytest.approx(3.0 * np.linalg.norm(weights["w"], 2), rel=1e-5)
