"""A row that claims what does not follow from its evidence is refused, for kinds whose radius is not derived from votes too."""

from __future__ import annotations

from typing import Any

import pytest

from certify.certificate import Certificate
from certify.consistency import check_row
from certify.errors import InputError
from certify.norms import Norm
from certify.recompute import recompute
from certify.statement import Statement
from certify.verdict import Verdict
from tests.certify.test_precision import KINDS, answers, asked
from tests.support.linear import LinearTruth

ROWS = 6
SPECS: dict[str, dict[str, Any]] = {
    **{name: {**entry, "precision": "bf16"} for entry, name in KINDS},
    "bounds": {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 1.0},
    "lipschitz": {"kind": "lipschitz"},
}


@pytest.fixture(scope="module")
def rows() -> dict[str, Certificate]:
    """One certified row of each kind."""
    truth = LinearTruth.random(6, 4, seed=7)
    x = (truth.examples(ROWS, seed=1).x * 255).round().clamp(0, 255) / 255
    found: dict[str, Certificate] = {}
    for name, entry in SPECS.items():
        made = answers(asked(**entry), truth.model(), x)
        for row in made:
            check_row(row)
        found[name] = next(row for row in made if row.verdict is Verdict.CERTIFIED)
    return found


@pytest.mark.parametrize("name", SPECS)
def test_an_edited_statement_norm_or_answer_is_refused(name: str, rows: dict[str, Certificate]) -> None:
    row = rows[name]
    edits: list[dict[str, Any]] = [{"statement": Statement.parse("S2-memory")}, {"kind": "lipschitz" if name == "bounds" else "bounds"}]
    if row.kind not in ("bounds", "lipschitz"):
        edits.append({"prediction": (row.prediction or 0) + 1})
        edits.append({"statement": Statement.parse(str(row.statement).replace("-bf16", ""))})
    if "smoothing" in row.kind:
        edits.append({"norm": Norm.L1})
    for edit in edits:
        edited = row.model_copy(update=edit)
        with pytest.raises(InputError, match="use the line as it was written"):
            recompute(edited, alpha=0.02)


@pytest.mark.parametrize("name", [name for name, entry in SPECS.items() if "predict" not in entry["kind"] and entry["kind"] != "bounds"])
def test_an_edited_radius_is_refused(name: str, rows: dict[str, Certificate]) -> None:
    row = rows[name]
    assert row.radius > 0
    with pytest.raises(InputError, match="does not follow"):
        recompute(row.model_copy(update={"radius": row.radius * 1.001}), alpha=0.02)


def test_a_margin_within_its_rounding_error_proves_nothing(rows: dict[str, Certificate]) -> None:
    row = rows["bounds"]
    assert row.evidence is not None
    for margin in (0.0, None):
        weak = row.evidence.model_copy(update={"margin_lower": margin, "float32_error": None})
        edited = row.model_copy(update={"evidence": weak, "statement": Statement.parse("real-arithmetic")})
        with pytest.raises(InputError, match="its margin is within its rounding error"):
            check_row(edited)


@pytest.mark.parametrize("p_value", [0.5, 0.0])
def test_a_p_value_that_is_not_that_of_the_votes_is_refused(p_value: float, rows: dict[str, Certificate]) -> None:
    row = rows["S0-prediction-bf16"]
    assert row.evidence is not None
    with pytest.raises(InputError, match="its p-value is not that of its votes, or is above alpha"):
        check_row(row.model_copy(update={"evidence": row.evidence.model_copy(update={"p_value": p_value})}))
