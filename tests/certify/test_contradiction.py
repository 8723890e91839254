"""What contradicts what: decided exactly, in the certificate's own norm, for the classifier of its statement."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest
import torch

from certify import Examples, Model, certify
from certify.certificate import BoundsEvidence, Certificate
from certify.contradiction import contradictions, problems, suspects, within
from certify.errors import Problem
from certify.findings import AttackResult
from certify.norms import Norm
from certify.spec import parse_spec
from certify.statement import Base, Statement
from certify.verdict import Verdict
from tests.support.onnx_models import linear_model
from tests.support.runs import run_for

# Class 0 where the first feature is positive; the example lies half a unit inside.
MODEL = linear_model(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32), np.zeros(2, np.float32))
X = torch.tensor([0.5, 0.0])
BOUNDS = {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 1.0}
SPEC = parse_spec({"certifiers": [BOUNDS, {"kind": "attack", "norm": "linf", "max_radius": 2.0}]})
PROVENANCE = run_for(SPEC, Model.from_onnx(MODEL), 1).provenance


def encoded(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def proved(radius: float, norm: Norm = Norm.LINF, *, tau: float = 1e-12, clipped: bool = False, **more: Any) -> Certificate:
    values = {
        "example": 7, "certifier": 0, "kind": "bounds",
        "statement": Statement(base=Base.REAL_ARITHMETIC, clipped=clipped), "label": 0, "prediction": 0, "correct": True,
        "verdict": Verdict.CERTIFIED, "reason": "x.", "norm": norm, "radius": radius, "epsilon_verified": None, "alpha": None,
        "evidence": BoundsEvidence(method="crown", margin_lower=0.1, tau=tau, dtype="float64", clipped=clipped),
        "provenance": PROVENANCE, "seconds": 0.0,
    }  # fmt: skip
    return Certificate(**{**values, **more})


def shown(*z: float, **more: Any) -> AttackResult:
    values = {
        "example": 7, "certifier": 1, "method": "apgd", "label": 0, "prediction": 0, "correct": True, "found": True, "answer": 1,
        "distance_upper": 1.9, "norm": Norm.LINF, "max_radius": 2.0, "clipped": False, "counterexample": encoded(*z), "reason": "x.",
        "provenance": PROVENANCE, "seconds": 0.0,
    }  # fmt: skip
    return AttackResult(**{**values, **more})


def refuted(*z: float, **more: Any) -> Certificate:
    evidence = BoundsEvidence(
        method="ibp", margin_lower=-1.0, tau=1e-9, dtype="float64", counterexample=encoded(*z), distance_upper=0.9
    )  # fmt: skip
    return proved(0.0, certifier=1, verdict=Verdict.REFUTED, evidence=evidence, epsilon_verified=False, **more)


def sentences(*rows: Certificate | AttackResult, value_range: tuple[float, float] | None = None) -> list[str]:
    model = Model.from_onnx(MODEL, value_range)
    found = contradictions(suspects(rows), {7: X}.__getitem__, model, SPEC, run_for(SPEC, model, 1).plan)
    return [one.problem().sentence() for one in found]


def test_a_counterexample_inside_a_ball_is_named_with_both_rows() -> None:
    [sentence] = sentences(proved(0.6), shown(-0.0625, 0.0))
    assert "certifier 0 (bounds, crown, real-arithmetic) certifies example 7 as class 0 to linf radius 0.599999" in sentence
    assert "the input found by certifier 1 (attack, apgd, linf) for example 7 is at linf distance 0.5625" in sentence
    assert "answered 1: its margin in float64 is -0.125" in sentence
    assert "report it" in sentence


@pytest.mark.parametrize(
    ("norm", "radius", "flagged"),
    [
        (Norm.LINF, 0.55, False),
        (Norm.LINF, 0.57, True),
        (Norm.L2, 0.63, False),  # sqrt(0.5625^2 + 0.3125^2) = 0.6435
        (Norm.L2, 0.65, True),
        (Norm.L1, 0.87, False),
        (Norm.L1, 0.88, True),
    ],
)
def test_the_distance_is_taken_in_the_norm_of_the_certificate(norm: Norm, radius: float, flagged: bool) -> None:
    assert bool(sentences(proved(radius, norm), shown(-0.0625, 0.3125))) is flagged


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize(("kind", "closed"), [("bounds", True), ("lipschitz", True), ("another", False)])
def test_at_the_very_surface_a_closed_ball_is_contradicted_and_an_open_one_is_not(norm: Norm, kind: str, closed: bool) -> None:
    assert bool(sentences(proved(0.75, norm, kind=kind), shown(-0.25, 0.0))) is closed
    assert sentences(proved(math.nextafter(0.75, 1.0), norm, kind=kind), shown(-0.25, 0.0))
    assert not sentences(proved(math.nextafter(0.75, 0.0), norm, kind=kind), shown(-0.25, 0.0))


@pytest.mark.parametrize("closed", [True, False])
def test_surfaces_are_exact_where_float64_is_not(closed: bool) -> None:
    """sqrt(2) times a step has no float64: both neighbours are decided rightly."""
    a, b = torch.tensor([0.1, 0.1]), torch.tensor([0.3, 0.3])
    below = math.sqrt(2 * (float(b[0]) - float(a[0])) ** 2)
    below = below if 2 * (float(b[0]) - float(a[0])) ** 2 > below**2 else math.nextafter(below, 0.0)
    assert not within(a, b, Norm.L2, math.nextafter(below, 0.0), closed=closed)
    assert within(a, b, Norm.L2, math.nextafter(below, 1.0), closed=closed)


def test_what_lies_outside_the_range_contradicts_no_clipped_claim() -> None:
    rows = (proved(0.6, clipped=True), shown(-0.0625, 0.0))
    assert not sentences(*rows, value_range=(0.0, 1.0))
    assert sentences(*rows, value_range=(-0.0625, 1.0))  # the end of a range belongs to it
    assert sentences(proved(0.6), shown(-0.0625, 0.0), value_range=(0.0, 1.0))


def test_a_margin_within_rounding_contradicts_nothing() -> None:
    near = shown(-1e-6, 0.0)  # a margin of -2e-6
    assert not sentences(proved(0.6, tau=1e-5), near)
    assert sentences(proved(0.6, tau=1e-7), near)


def test_an_input_that_is_answered_alike_contradicts_nothing() -> None:
    assert not sentences(proved(0.6), shown(0.25, 0.0))


def test_a_refuted_claim_shows_an_input_too() -> None:
    [sentence] = sentences(refuted(-0.0625, 0.0), proved(0.6))
    assert "the input that refutes the claim by certifier 1 (bounds, ibp, linf)" in sentence


@pytest.mark.parametrize(
    ("certificate", "other"),
    [
        (proved(0.6, example=8), shown(-0.0625, 0.0)),
        (proved(0.6, alpha=0.001), shown(-0.0625, 0.0)),
        (proved(0.6, statement="S0-fixed"), shown(-0.0625, 0.0)),
        (proved(0.0, verdict=Verdict.UNKNOWN), shown(-0.0625, 0.0)),
        (proved(0.6), shown(0, 0, found=False, counterexample=None, answer=None, distance_upper=None)),
    ],
)
def test_what_cannot_contradict_is_not_even_suspected(certificate: Certificate, other: AttackResult) -> None:
    assert suspects([certificate, other]) == []


def test_many_contradictions_are_counted_and_the_first_are_named() -> None:
    rows = [proved(0.6, certifier=i) for i in range(12)]
    model = Model.from_onnx(MODEL)
    found = contradictions(suspects([*rows, shown(-0.0625, 0.0)]), lambda _: X, model, SPEC, run_for(SPEC, model, 1).plan)
    told = problems(found)
    assert len(found) == 12
    assert len(told) < 12
    assert told[-1] == Problem(field="results", detail="7 more pairs of rows contradict each other", mend="report this too")
    assert problems([]) == ()


# -- a smoothed classifier that is known exactly --------------------------------------------------------------------------

STEPS = 200  # of 255: the example of the tests below
SPLITTING = parse_spec({"certifiers": [{"kind": "dssn", "sigma": 0.1}, {"kind": "attack", "norm": "l1", "max_radius": 2.0}]})


def splitting(model: Model, *levels: int) -> list[Any]:
    x = torch.tensor([[level / 255] for level in levels], dtype=torch.float32)
    examples = Examples(tuple(levels), x, torch.zeros(len(levels), dtype=torch.int64))
    return list(certify(model, examples, SPLITTING, run_for(SPLITTING, model, len(levels), certifiers=(0,))))


def test_a_smoothed_classifier_is_asked_itself_on_its_grid() -> None:
    """The network's own answer at an input says nothing; what all copies of the nearest grid input answer does."""
    model = Model.from_onnx(linear_model(np.array([[1.0], [-1.0]], np.float32), np.array([-0.6, 0.6], np.float32)))
    certificates = splitting(model, *range(256))
    one = certificates[STEPS]
    assert one.prediction == 0
    assert one.radius > 0
    flipped = max(level for level in range(STEPS) if certificates[level].prediction == 1)
    plan = run_for(SPLITTING, model, 1).plan

    def told(certificate: Certificate, z: float) -> list[str]:
        other = shown(z, example=STEPS, norm=Norm.L1)
        found = contradictions(suspects([certificate, other]), lambda _: torch.tensor([STEPS / 255]), model, SPLITTING, plan)
        return [contradiction.problem().sentence() for contradiction in found]

    # Sound: wherever the network answers otherwise, and however far one looks, the true certificate stands.
    assert not any(told(one, level / 255 + shift) for level in range(0, 256, 5) for shift in (0.0, 0.001))
    wrong = one.model_copy(update={"radius": (STEPS - flipped) / 255 + 1e-9})
    [sentence] = told(wrong, flipped / 255 + 0.0009)
    assert "certifier 0 (dssn, S0-exact-grid)" in sentence
    assert "moved to the 1/255 grid" in sentence
    assert "its lead in votes is -" in sentence
    assert not told(wrong, (flipped + 1) / 255)  # inside, and answered alike
    assert not told(wrong, (flipped - 1) / 255)  # answered otherwise, and outside
