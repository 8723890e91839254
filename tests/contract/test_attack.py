"""Attacks keep the laws of rows, find what is there, and never say that it is nearer than it is."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from certify import Examples, Model, certify
from certify.attacks.refutation import decoded
from certify.exit_codes import Exit, exit_code
from certify.findings import AttackResult, parse_finding
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.contract.certifier_laws import FindingLaws
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model
from tests.support.runs import run_for

METHODS = ["apgd", "pgd"]
FEW: dict[str, Any] = {"restarts": 3, "steps": 10}


def exact_distance(a: np.ndarray, b: np.ndarray, norm: Norm) -> tuple[Fraction, int]:
    """A power of the distance, and which one: exact for float32 values."""
    differences = [abs(Fraction(float(p)) - Fraction(float(q))) for p, q in zip(a.ravel(), b.ravel(), strict=True)]
    if norm is Norm.L2:
        return sum((d * d for d in differences), Fraction(0)), 2
    return (max(differences) if norm is Norm.LINF else sum(differences, Fraction(0))), 1


class Truth:
    """What an attack finds on linear models, whose distances are known."""

    entry: ClassVar[dict[str, Any]]
    norm: ClassVar[Norm]

    @pytest.mark.parametrize("normalised", [False, True])
    def test_the_distance_is_never_below_the_exact_one_and_near_it(self, normalised: bool) -> None:
        truth = LinearTruth.random(6, 4, seed=7, normalised=normalised)
        for x, result in results_of(truth, 5, self.entry):
            assert result.found, result.reason
            exact = truth.distance(x.numpy(), result.prediction, self.norm)
            assert exact <= Fraction(result.distance_upper) <= exact * Fraction(101, 100)

    def test_a_ball_without_counterexample_has_none(self) -> None:
        truth = LinearTruth.random(6, 4, seed=7)
        x = truth.examples(1, seed=1).x[0]
        label = max(range(4), key=truth.logits(x.numpy()).__getitem__)
        near = float(truth.distance(x.numpy(), label, self.norm)) * 0.999
        [(_, result)] = results_of(truth, 1, {**self.entry, "max_radius": near})
        assert (result.found, result.distance_upper, result.counterexample, result.answer) == (False, None, None, None)
        assert "proves nothing" in result.reason


class TestApgdLinf(Truth, FindingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "attack", "norm": "linf", "max_radius": 4.0, **FEW}
    norm = Norm.LINF

    def test_infinite_logits_are_no_answer_and_nothing_is_tried(self) -> None:
        weight = np.full((2, 3), 3e38, dtype=np.float32)
        weight[1] *= -1
        model = Model.from_onnx(linear_model(weight, np.zeros(2, dtype=np.float32)))
        [result] = self.run(model, Examples((0,), torch.full((1, 3), 1e3), torch.tensor([0])))
        assert (result.prediction, result.found, result.correct) == (None, False, False)
        assert "NaN or infinite" in result.reason
        assert exit_code(self.spec(), [result]) is Exit.ERROR


class TestApgdL2(Truth):
    entry: ClassVar[dict[str, Any]] = {"kind": "attack", "norm": "l2", "max_radius": 4.0}
    norm = Norm.L2


class TestApgdL1(Truth):
    entry: ClassVar[dict[str, Any]] = {"kind": "attack", "norm": "l1", "max_radius": 4.0}
    norm = Norm.L1


class TestPgdLinf(Truth):
    entry: ClassVar[dict[str, Any]] = {"kind": "attack", "method": "pgd", "norm": "linf", "max_radius": 4.0}
    norm = Norm.LINF


class TestPgdL1(Truth):
    entry: ClassVar[dict[str, Any]] = {"kind": "attack", "method": "pgd", "norm": "l1", "max_radius": 4.0}
    norm = Norm.L1


def results_of(
    truth: LinearTruth, count: int, entry: dict[str, Any], *, value_range: tuple[float, float] | None = None, clip: bool = False
) -> list[tuple[torch.Tensor, Any]]:
    model = Model.from_onnx(linear_model(truth.weight, truth.bias, truth.mean, truth.std), value_range)
    spec, examples = parse_spec({"clip": clip, "certifiers": [entry]}), truth.examples(count, seed=1)
    return list(zip(examples.x, certify(model, examples, spec, run_for(spec, model, count)), strict=True))


def attacked(truth: LinearTruth, *, value_range: tuple[float, float] | None = None, clip: bool = False, **entry: Any) -> list[Any]:
    return results_of(truth, 2, {"kind": "attack", "restarts": 2, "steps": 10, **entry}, value_range=value_range, clip=clip)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    features=st.integers(1, 40),
    classes=st.integers(2, 5),
    norm=st.sampled_from(list(Norm)),
    method=st.sampled_from(METHODS),
    clip=st.booleans(),
    reach=st.floats(0.01, 3.0),
)
def test_a_find_is_what_it_says(seed: int, features: int, classes: int, norm: Norm, method: str, clip: bool, reach: float) -> None:
    truth = LinearTruth.random(features, classes, seed=seed, normalised=bool(seed % 2))
    for x, row in attacked(truth, value_range=(0.0, 1.0), clip=clip, norm=str(norm), method=method, max_radius=reach):
        assert row.clipped is clip
        if not row.found:
            continue
        found = decoded(row.counterexample, (features,)).numpy()
        distance, power = exact_distance(found, x.numpy(), norm)
        assert distance <= Fraction(row.distance_upper) ** power
        assert row.distance_upper <= reach
        logits = truth.logits(found)
        assert max(range(classes), key=logits.__getitem__) == row.answer != row.prediction
        assert not clip or (found.min() >= 0.0 and found.max() <= 1.0)


@pytest.mark.parametrize("norm", list(Norm))
def test_the_ends_of_a_range_that_float32_cannot_hold_are_kept_too(norm: Norm) -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    rows = [row for _, row in attacked(truth, value_range=(-0.1, 1.1), clip=True, norm=str(norm), max_radius=8.0) if row.found]
    assert rows
    for row in rows:
        found = decoded(row.counterexample, (6,)).double()
        assert -0.1 <= float(found.min()) <= float(found.max()) <= 1.1


def test_without_clip_the_range_is_left() -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    rows = [row for _, row in attacked(truth, value_range=(0.0, 1.0), norm="linf", max_radius=8.0, method="pgd")]
    values = torch.cat([decoded(row.counterexample, (6,)) for row in rows if row.found])
    assert float(values.min()) < 0.0 or float(values.max()) > 1.0


def test_little_memory_means_fewer_points_at_once_and_no_other_law() -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    model, examples = truth.model(), truth.examples(2, seed=1)
    spec = parse_spec({"certifiers": [{"kind": "attack", "norm": "linf", "max_radius": 4.0}]})
    run = run_for(spec, model, 2)
    small = run_for(spec, model, 2, plan=run.plan.model_copy(update={"memory": 1}))
    assert all(row.found for row in certify(model, examples, spec, small))


FIND = {"found": True, "answer": 0, "distance_upper": 0.1, "counterexample": "AACAPw=="}
ROW = {
    **FIND, "example": 0, "certifier": 0, "method": "apgd", "label": 1, "prediction": 1, "correct": True, "norm": "linf", "max_radius": 0.2,
    "clipped": False, "reason": "x.", "seconds": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"found": False},
        {"distance_upper": None},
        {"counterexample": None},
        {"answer": 1},
        {"answer": None},
        {"prediction": None, "correct": False},
        {"correct": False},
        {"distance_upper": 0.3},
        {"distance_upper": -0.1},
    ],
)
def test_a_row_that_contradicts_itself_cannot_be_made(change: dict[str, Any]) -> None:
    truth = LinearTruth.random(2, 2, seed=1)
    spec = parse_spec({"certifiers": [{"kind": "attack", "norm": "linf", "max_radius": 1.0}]})
    origin = run_for(spec, truth.model(), 1).provenance
    row = AttackResult.model_validate({**ROW, "provenance": origin})
    assert parse_finding(row.line()) == row
    assert json.loads(row.line())["kind"] == "attack"
    assert "radius" not in json.loads(row.line())
    with pytest.raises(ValidationError):
        AttackResult.model_validate({**ROW, **change, "provenance": origin})


def test_attacks_do_not_share_in_alpha() -> None:
    smoothing = {"kind": "smoothing", "sigma": 0.25, "n": 2000}
    attack = {"kind": "attack", "norm": "l2", "max_radius": 1.0}
    alone, beside = parse_spec({"certifiers": [smoothing]}), parse_spec({"certifiers": [smoothing, attack, attack]})
    assert alone.family(10) == beside.family(10) == 10


def test_every_default_is_in_the_spec() -> None:
    [entry] = parse_spec({"certifiers": [{"kind": "attack", "norm": "l2", "max_radius": 1.0}]}).model_dump(mode="json")["certifiers"]
    assert entry == {"kind": "attack", "method": "apgd", "norm": "l2", "max_radius": 1.0, "restarts": 5, "steps": 50}


def test_an_attack_claims_nothing_that_could_fail() -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    spec = parse_spec({"certifiers": [{"kind": "attack", "norm": "linf", "max_radius": 4.0}]})
    model, examples = truth.model(), truth.examples(2, seed=1)
    rows = list(certify(model, examples, spec, run_for(spec, model, 2)))
    assert all(row.found for row in rows)
    assert exit_code(spec, rows) is Exit.DONE
    assert Verdict.REFUTED not in [getattr(row, "verdict", None) for row in rows]
