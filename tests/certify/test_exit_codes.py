"""What a run's exit code says, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from certify.certificate import BoundsEvidence, Certificate, Provenance, Versions
from certify.errors import SpecError
from certify.exit_codes import Exit, Requirement, check_gates, exit_code
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict

SEARCH = {"kind": "bounds", "method": "ibp", "norm": "linf", "max_radius": 1.0}
EPSILON = {"kind": "bounds", "method": "ibp", "norm": "linf", "epsilon": 0.1}
LARGEST = {"kind": "smoothing", "sigma": 0.5}
RADII = {"kind": "smoothing", "sigma": 0.5, "radii": [0.25, 0.5]}

C, A, R, U, T, E = (Verdict(v) for v in ("certified", "abstained", "refuted", "unknown", "timeout", "error"))


def certificate(verdict: Verdict, *, radius: float = 0.0, correct: bool = True, certifier: int = 0) -> Certificate:
    where = Provenance(
        model="0" * 64, dataset="0" * 64, spec="0" * 64, noise_key=None, seed=0, device="cpu", dtype="float64", batch_size=None,
        versions=Versions(assay="0", torch="0", numpy="0"),
    )  # fmt: skip
    return Certificate(
        example=0, certifier=certifier, kind="bounds", statement="real-arithmetic",
        label=1, prediction=1 if correct else 0, correct=correct,
        verdict=verdict, reason="r", norm=Norm.LINF, radius=radius, epsilon_verified=None, alpha=None,
        evidence=BoundsEvidence(method="ibp", margin_lower=1.0, tau=0.0, dtype="float64"), provenance=where, seconds=0.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("certifier", "rows", "code"),
    [
        (SEARCH, [(C, 0.3, True), (U, 0.0, True)], 0),  # a search is done when every example has an answer
        (LARGEST, [(A, 0.0, False)], 0),
        (LARGEST, [(A, 0.0, False), (E, 0.0, False)], 4),
        (EPSILON, [(C, 0.1, True)], 0),
        (EPSILON, [(C, 0.1, True), (U, 0.0, True)], 2),
        (EPSILON, [(U, 0.0, True), (R, 0.0, True)], 1),
        (EPSILON, [(R, 0.0, False)], 0),  # the model's error, not a lack of robustness
        (EPSILON, [(R, 0.0, True), (T, 0.0, True)], 3),
        (EPSILON, [(T, 0.0, True), (E, 0.0, False)], 4),
        (RADII, [(C, 0.5, True)], 0),
        (RADII, [(C, 0.4999, True)], 2),
        (RADII, [(C, 0.1, False)], 0),
        (RADII, [(A, 0.0, False)], 2),
    ],
)
def test_the_strongest_code_wins(certifier: dict[str, Any], rows: list[tuple[Verdict, float, bool]], code: int) -> None:
    spec = parse_spec({"certifiers": [certifier]})
    found = [certificate(verdict, radius=radius, correct=correct) for verdict, radius, correct in rows]
    assert exit_code(spec, found) == exit_code(spec, found[::-1]) == Exit(code)


def test_a_gate_counts_correct_certificates_of_each_certifier() -> None:
    rows = [
        certificate(C, radius=0.25),
        certificate(C, radius=0.25, correct=False),
        certificate(C, radius=0.2),
        certificate(A, correct=False),
    ]
    rows += [certificate(C, radius=0.5, certifier=1)]
    quarter, half = check_gates([Requirement.parse("0.25@0.25")], rows)
    assert (quarter.passed, half.passed) == (True, True)
    assert [gate.passed for gate in check_gates([Requirement.parse("0.26@0.25")], rows)] == [False, True]


@pytest.mark.parametrize("text", ["0.6", "0.6@", "1.1@0.2", "-0.1@0.2", "0.5@-1", "nan@1", "0.5@inf", "a@b"])
def test_a_gate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="SHARE@RADIUS"):
        Requirement.parse(text)


def test_a_gate_that_nothing_speaks_of_is_not_met() -> None:
    [gate] = check_gates([Requirement.parse("0.1@0.2")], [])
    assert not gate.passed
    assert "no certifier of this run claims a radius" in gate.sentence


def test_a_gate_names_the_conditions_of_all_rows_whatever_the_first_one_lacks() -> None:
    first = certificate(E)
    cut = BoundsEvidence(method="ibp", margin_lower=1.0, tau=0.0, dtype="float64", clipped=True, value_range=(0.0, 1.0))
    clipped = {**dict(certificate(C, radius=0.5)), "statement": "real-arithmetic-clipped", "evidence": cut}
    [gate] = check_gates([Requirement(0.5, 0.5)], [first, Certificate.model_validate(clipped)])
    assert "certifier 0 (bounds, linf, clipped)" in gate.sentence
