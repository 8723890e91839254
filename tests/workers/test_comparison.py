"""Rows once onnxruntime was asked as users start it: what it answers otherwise is an error, whatever it was certified by."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from certify import Examples, Model, certify
from certify.certificate import Certificate
from certify.curves import report
from certify.errors import ModelRejected
from certify.findings import AttackResult, parse_finding
from certify.spec import Spec, parse_spec
from certify.verdict import Verdict
from tests.support.onnx_models import batch_switch, linear_model, mlp, model_bytes, node, small_cnn
from tests.support.runs import run_for
from workers.comparison import Comparison, Given
from workers.looks import Programme
from workers.runtime import CannotRun, Session

IDENTITY = model_bytes([node("Mul", "x one", "logits")], {"one": np.ones(3, np.float32)}, input_shape=("batch", 3))
X = torch.tensor([[1.0, 0.0, 0.2], [0.0, 0.4, 1.0]])
Y = torch.tensor([0, 2])
SMOOTHING = {"kind": "smoothing", "sigma": 0.1, "n": 100, "n0": 10}
ENTRIES: dict[str, dict[str, Any]] = {
    "smoothing": SMOOTHING,
    "uniform": {**SMOOTHING, "noise": "uniform"},
    "grid": {**SMOOTHING, "noise": "discrete-gaussian"},
    "dual": {"kind": "instance-smoothing", "sigmas": [0.05, 0.1], "n": 200, "n0": 10},
    "frozen": {"kind": "instance-smoothing", "sigmas": [0.05, 0.1], "n": 100, "n0": 10, "statement": "frozen"},
    "predict": {"kind": "predict", "sigma": 0.1, "n": 50},
    "dssn": {"kind": "dssn", "sigma": 0.2},
    "bounds": {"kind": "bounds", "method": "ibp", "norm": "linf", "max_radius": 0.3},
    "epsilon": {"kind": "bounds", "method": "ibp", "norm": "linf", "epsilon": 0.01},
    "lipschitz": {"kind": "lipschitz"},
    "attack": {"kind": "attack", "norm": "linf", "max_radius": 0.1, "restarts": 1, "steps": 3},
}
VOTING = ("smoothing", "uniform", "grid", "dual", "frozen", "predict", "dssn")

Row = Certificate | AttackResult


def comparison(ours: bytes, theirs: bytes, spec: Spec, x: Tensor, batch_size: int = 64, **changes: Any) -> Comparison:
    """Our reading of one file and onnxruntime on another: what a wrong reading, a rewritten graph or another batch comes to."""
    model = Model.from_onnx(ours)
    run = run_for(spec, model, len(x), batch_size=batch_size)
    given = Given(model, theirs, Session(theirs, optimised=True))
    values = {"network": given, "others": {}, "rows": range(len(x)), "inputs": x, "differs": "", **changes}
    asked = Comparison(spec, run.plan, run.noise_key, "cpu", values["network"], values["others"], values["rows"], values["inputs"])
    asked.__dict__["differs"] = values["differs"]  # what random inputs show is another matter
    return asked


def rows_of(ours: bytes, entry: dict[str, Any], x: Tensor = X, y: Tensor = Y) -> tuple[Spec, list[Row]]:
    spec = parse_spec({"certifiers": [entry]})
    model = Model.from_onnx(ours)
    return spec, list(certify(model, Examples(tuple(range(len(x))), x, y), spec, run_for(spec, model, len(x), batch_size=64)))


def compared(ours: bytes, theirs: bytes, entry: dict[str, Any], x: Tensor = X, y: Tensor = Y, **changes: Any) -> list[Row]:
    spec, rows = rows_of(ours, entry, x, y)
    found = list(comparison(ours, theirs, spec, x, **changes).compared(rows, lambda: False))
    for row in found:
        assert parse_finding(row.line()) == row
    return found


def failed(row: Row) -> bool:
    if isinstance(row, AttackResult):
        return row.prediction is None and not row.found
    return row.verdict is Verdict.ERROR and row.radius == 0.0 and row.evidence is None and row.prediction is None


@pytest.mark.parametrize("name", ENTRIES)
def test_a_row_keeps_what_was_found_where_onnxruntime_answers_alike(name: str) -> None:
    _, before = rows_of(IDENTITY, ENTRIES[name])
    after = compared(IDENTITY, IDENTITY, ENTRIES[name])
    for one, other in zip(before, after, strict=True):
        runtime = other.provenance.runtime
        assert runtime is not None
        assert {1, 256} <= set(runtime.batches)
        assert (runtime.copies > 0) is (name in VOTING)
        assert (runtime.reason, runtime.differs) == ("", "")
        kept = other.model_copy(update={"provenance": one.provenance, "seconds": one.seconds})
        assert kept == one


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("rows", [1, 2, 100, 200, 256])
def test_a_batch_size_that_changes_the_answer_is_an_error(name: str, rows: int) -> None:
    """From one row on: whatever the batch. From 256 on: only in the largest call."""
    for row in compared(IDENTITY, batch_switch(rows, 3), ENTRIES[name]):
        assert failed(row)
        assert "onnxruntime (default options) answers" in row.reason
        assert ("alone" in row.reason) is (rows == 1)
        assert "where the certified classifier answers" in row.reason


def test_the_batch_of_the_worker_is_asked_too() -> None:
    [first, _] = compared(IDENTITY, batch_switch(300, 3), SMOOTHING, batch_size=512)
    assert failed(first)
    assert first.reason.endswith("in a batch of 512 rows.")
    assert first.provenance.runtime is not None
    assert first.provenance.runtime.batches == (1, 256, 512)


@pytest.mark.parametrize("name", VOTING)
def test_noisy_copies_are_asked_about_where_votes_count(name: str) -> None:
    """At the inputs themselves the two files agree; near them, they do not."""
    nodes = [
        node("Sub", "x a", "from_a"),
        node("Sub", "x b", "from_b"),
        node("Mul", "from_a from_a", "a2"),
        node("Mul", "from_b from_b", "b2"),
        node("ReduceSum", "a2 axis", "da", keepdims=1),
        node("ReduceSum", "b2 axis", "db", keepdims=1),
        node("Min", "da db", "near"),
        node("Greater", "near tiny", "off"),
        node("Neg", "x", "turned"),
        node("Where", "off turned x", "logits"),
    ]
    weights = {"a": X[0].numpy(), "b": X[1].numpy(), "axis": np.array([1]), "tiny": np.array(1e-9, np.float32)}
    theirs = model_bytes(nodes, weights, input_shape=("batch", 3))
    for row in compared(IDENTITY, theirs, ENTRIES[name]):
        assert failed(row)
        assert "a noisy copy of this input" in row.reason


def test_other_logits_with_the_same_answer_are_another_classifier() -> None:
    theirs = linear_model(np.diag([1.01, 1.0, 1.01]).astype(np.float32), np.zeros(3, np.float32))
    for entry in (ENTRIES["bounds"], SMOOTHING):
        for row in compared(IDENTITY, theirs, entry):
            assert failed(row)
            assert "computes logits that differ by" in row.reason


def test_what_is_not_finite_there_is_an_error() -> None:
    nodes = [node("Sub", "x half", "y"), node("Log", "y", "z"), node("Mul", "z none", "nothing"), node("Add", "x nothing", "logits")]
    theirs = model_bytes(nodes, {"half": np.array(0.5, np.float32), "none": np.array(0, np.float32)}, input_shape=("batch", 3))
    assert all(failed(row) and "NaN or infinite" in row.reason for row in compared(IDENTITY, theirs, ENTRIES["lipschitz"]))


def near_tie() -> tuple[bytes, bytes, Tensor]:
    """Two files that differ by a rounding of the weights, and an input at which that decides."""
    ours = linear_model(np.array([[1.0, 1.0], [1.0, 1.0]], np.float32), np.array([0, -1e-7], np.float32))
    theirs = linear_model(np.array([[1.0, 1.0], [1.0, 1.0]], np.float32), np.array([0, 1e-7], np.float32))
    return ours, theirs, torch.tensor([[0.25, 0.25]])


def test_one_near_tie_is_rounding_where_votes_count_and_an_error_where_the_answer_does() -> None:
    ours, theirs, x = near_tie()
    rows = compared(ours, theirs, {"kind": "lipschitz"}, x, torch.tensor([0]))
    assert all(failed(row) for row in rows)
    weight = np.array([[1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], np.float32)
    again = linear_model(weight, np.array([1e-6, 0, 0], np.float32))
    other = linear_model(weight, np.array([-1e-6, 0, 0], np.float32))
    # At the input itself the two logits tie; at its copies they do not.
    rows = compared(again, other, {**SMOOTHING, "sampling": "fixed"}, torch.tensor([[4.0, 4.0]]), torch.tensor([0]))
    assert [row.verdict for row in rows if isinstance(row, Certificate)] == [Verdict.ABSTAINED]


def test_copies_that_all_turn_are_no_rounding() -> None:
    """Every point is within the tolerance, for the logits are large and nearly tie everywhere: a majority turned is another classifier."""
    ours, theirs, x = near_tie()
    [row] = compared(ours, theirs, SMOOTHING, x, torch.tensor([0]))
    assert failed(row)
    assert "a few noisy copies" in row.reason


def test_a_refutation_at_radius_zero_is_confirmed_before_it_is_said() -> None:
    wrong = torch.tensor([1, 1])
    said = compared(IDENTITY, IDENTITY, ENTRIES["epsilon"], X, wrong)
    assert [row.verdict for row in said if isinstance(row, Certificate)] == [Verdict.REFUTED] * 2
    theirs = linear_model(np.roll(np.eye(3, dtype=np.float32), 1, axis=0), np.zeros(3, np.float32))
    for row in compared(IDENTITY, theirs, ENTRIES["epsilon"], X, wrong):
        assert failed(row)
        assert isinstance(row, Certificate)
        assert row.epsilon_verified is False


@pytest.mark.parametrize("name", ["smoothing", "bounds", "dssn"])
def test_shards_do_not_change_what_is_seen(name: str) -> None:
    """One row of the job is answered otherwise; cut anyhow, and compared in any order, the lines are the same bytes."""
    count = 70
    x = (torch.rand((count, 3), generator=torch.Generator().manual_seed(3)) * 255).round() / 255
    x[66] = torch.tensor([1.0, 0.0, 0.0])
    nodes = [
        node("Greater", "x limit", "large"),
        node("Gather", "x back", "turned", axis=1),
        node("Where", "large turned x", "logits"),
    ]
    weights = {"limit": np.array([0.99, 9, 9], np.float32), "back": np.array([2, 1, 0])}
    theirs = model_bytes(nodes, weights, input_shape=("batch", 3))
    spec, rows = rows_of(IDENTITY, ENTRIES[name], x, x.argmax(dim=1))
    whole = [row.line() for row in comparison(IDENTITY, theirs, spec, x).compared(rows, lambda: False)]
    for cut in (1, 7, 64):
        parts = [rows[first : first + cut] for first in range(0, count, cut)]
        lines = [
            [row.line() for row in comparison(IDENTITY, theirs, spec, x).compared(part, lambda: False)]
            for part in (parts if cut > 1 else parts[60:68])
        ]
        assert [line for part in lines for line in part] == (whole if cut > 1 else whole[60:68])
    verdicts = [json.loads(line)["verdict"] for line in whole]
    assert verdicts[66] == "error"
    assert verdicts.count("error") < count // 2


def test_what_cannot_be_run_is_certified_and_says_that_it_was_not_compared() -> None:
    nodes = [node("LRN", "x", "y", size=4), node("Flatten", "y", "logits")]
    data = model_bytes(nodes, {}, input_shape=("batch", 3, 1, 1))
    given = Given.of(Model.from_onnx(data), data, "cpu")
    assert isinstance(given.session, CannotRun)
    x = X.reshape(2, 3, 1, 1)
    spec, rows = rows_of(data, SMOOTHING, x)
    after = list(comparison(data, IDENTITY, spec, x, network=given).compared(rows, lambda: False))
    for row in after:
        assert isinstance(row, Certificate)
        assert row.verdict is Verdict.CERTIFIED
        assert row.provenance.runtime is not None
        assert row.provenance.runtime.batches == ()
        assert "cannot run it" in row.provenance.runtime.reason
    [sentence] = report(after, spec).runtime
    assert sentence.startswith("Not compared with onnxruntime")
    assert report(rows, spec).runtime == ("2 of 2 rows were not compared with onnxruntime.",)


def test_a_classifier_in_bf16_is_another_one_than_onnxruntime_runs() -> None:
    entry = {**SMOOTHING, "precision": "bf16"}
    spec, _ = rows_of(IDENTITY, entry)
    after = compared(IDENTITY, IDENTITY, entry)
    for row in after:
        assert isinstance(row, Certificate)
        assert row.verdict is Verdict.CERTIFIED
        assert row.provenance.runtime is not None
        assert row.provenance.runtime.batches == ()
        assert "runs in bf16" in row.provenance.runtime.reason
    [sentence] = report(after, spec).runtime
    assert "only the reading of the file was compared" in sentence


def test_a_fixed_batch_of_one_is_asked_alone() -> None:
    data = model_bytes([node("Mul", "x one", "logits")], {"one": np.ones(3, np.float32)}, input_shape=(1, 3))
    for row in compared(data, data, SMOOTHING):
        assert row.provenance.runtime is not None
        assert row.provenance.runtime.batches == (1,)


def test_a_second_network_is_compared_as_well() -> None:
    chooser = linear_model(np.eye(2, 3, dtype=np.float32), np.zeros(2, np.float32))
    wrong = linear_model(-np.eye(2, 3, dtype=np.float32), np.zeros(2, np.float32))
    other = Model.from_onnx(chooser)
    selector = {"kind": "model", "model": other.digest, "sigma": 0.1}
    spec = parse_spec({"certifiers": [{**ENTRIES["dual"], "selector": selector}]})
    model = Model.from_onnx(IDENTITY)
    run = run_for(spec, model, 2, batch_size=64, models={other.digest: other})
    rows = list(certify(model, Examples((0, 1), X, Y), spec, run))
    for file, bad in ((chooser, False), (wrong, True)):
        given = {other.digest: Given(other, file, Session(file, optimised=True))}
        after = list(comparison(IDENTITY, IDENTITY, spec, X, others=given).compared(rows, lambda: False))
        assert [failed(row) for row in after] == [bad, bad]


def test_a_reading_that_is_wrong_on_the_range_of_the_dataset_ends_the_job() -> None:
    """Before its first row: `findings` is never asked."""
    nodes = [node("Clip", "x low high", "logits")]
    theirs = model_bytes(nodes, {"low": np.array(-1, np.float32), "high": np.array(1, np.float32)}, input_shape=("batch", 3))
    spec = parse_spec({"certifiers": [SMOOTHING]})
    asked = comparison(IDENTITY, theirs, spec, 40 * X)
    del asked.__dict__["differs"]
    with pytest.raises(ModelRejected, match="on inputs from 0 to 40, as this dataset has them"):
        next(asked.compared(iter(()), lambda: False))


@pytest.mark.parametrize(
    ("data", "rows", "batch", "expected"),
    [
        (small_cnn(), 100, 4096, Programme(4, 4, (256, 4096))),
        (small_cnn(), 100_000, 4096, Programme(2, 1, (256, 4096))),
        (mlp([4, 3]), 1, 16, Programme(4, 4, (16, 256))),
    ],
)
def test_what_is_asked_follows_from_sizes(data: bytes, rows: int, batch: int, expected: Programme) -> None:
    spec = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": 0.25, "n": 1000}]})
    assert Programme.of(spec.certifiers[0], Model.from_onnx(data), rows, batch, noisy=True) == expected


def test_large_networks_are_asked_in_smaller_calls() -> None:
    """By what fits into memory, and by what it costs beside the job: never by the clock."""
    held = [node("Relu", "x", "h"), node("ReduceMean", "h", "logits", axes=[2], keepdims=0)]
    model = Model.from_onnx(model_bytes(held, {}, input_shape=("batch", 2**6, 2**16), opset=13))
    spec = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": 0.25, "n": 100_000, "sampling": "fixed"}]})
    programme = Programme.of(spec.certifiers[0], model, 100, 16, noisy=True)
    assert max(programme.calls) * model.graph.live_elements() <= 2**26
