"""A statement is a value: what there is, by which name, and that a row says no other one than follows from its evidence."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest

from certify.certificate import (
    BoundsEvidence,
    Certificate,
    CorrectedEvidence,
    DualPredictionEvidence,
    Evidence,
    InstanceEvidence,
    LatentEvidence,
    LipschitzEvidence,
    MemoryEvidence,
    MemoryPredictionEvidence,
    PredictionEvidence,
    SearchEvidence,
    SelectorEvidence,
    SmoothingEvidence,
    SplittingEvidence,
)
from certify.errors import InputError
from certify.findings import ATTACK, parse_finding
from certify.following import _BASES, _RULES, check_statement, following
from certify.norms import Norm
from certify.recompute import recompute
from certify.registry import CERTIFIERS
from certify.statement import Base, Statement, every_statement
from certify.verdict import Verdict
from tests.certify.test_recompute import PROVENANCE, stored

# Written down here, so that a name that changes is noticed: rows with these names are stored.
NAMES = {
    "S0-fixed", "S0-fixed-grid", "S0-fixed-from-l2", "S0-fixed-from-l1-exploratory", "S0-fixed-grid-from-l2", "S0-fixed-latent",
    "S0-fixed-latent-from-l2-exploratory", "S0-exact-grid", "S0-prediction", "S0-prediction-grid", "S0-prediction-latent", "S1-frozen",
    "S1-frozen-from-l2", "S1-frozen-prediction", "S2-memory", "S2-memory-prediction", "S3-corrected", "S3-corrected-exploratory", "S4-dual",
    "S4-dual-transductive-from-l2-exploratory", "S4-dual-prediction", "real-arithmetic", "float32-runtime", "real-arithmetic-clipped",
    "float32-runtime-clipped", "S0-fixed-bf16", "S0-fixed-grid-tf32-from-l2-exploratory", "S0-exact-grid-bf16",
}  # fmt: skip


def test_every_statement_reads_back_from_its_name_and_has_words() -> None:
    names = [str(statement) for statement in every_statement()]
    assert len(names) == len(set(names)) > 100
    assert set(names) >= NAMES
    for statement in every_statement():
        assert Statement.parse(str(statement)) == statement
        assert len(str(statement)) <= 60  # the column of the table
        assert len(statement.words) > 100
    assert len({statement.words for statement in every_statement()}) == len(names)
    assert {statement.base for statement in every_statement()} == set(Base)


@pytest.mark.parametrize(
    "name",
    [
        "", "S9", "S9-grid", "-grid", "S0-fixed-new", "S0-fixed-clipped", "S0-fixed-exploratory-exploratory", "S0-fixed-exploratory-grid",
        "S0-fixed-from-linf", "s0-fixed", "S0-fixed ", "real-arithmetic-grid", "float32-runtime-bf16", "S0-fixed-float32", "S0-exact",
    ],
)  # fmt: skip
def test_what_is_no_statement_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no statement"):
        Statement.parse(name)


def test_a_base_has_only_the_conditions_that_make_sense_for_it() -> None:
    with pytest.raises(ValueError, match="S0-fixed has no condition -clipped"):
        Statement(base=Base.FIXED, clipped=True)
    with pytest.raises(ValueError, match="float32-runtime has no condition -bf16"):
        Statement(base=Base.FLOAT32_RUNTIME, precision="bf16")


def test_float32_runtime_names_what_it_assumes() -> None:
    for assumed in ("no TF32", "no Winograd", "no FFT"):
        assert assumed in Statement.parse("float32-runtime").words


# -- what follows from which evidence ------------------------------------------------------------------------------------------

VOTES: dict[str, Any] = {
    "sigma": 0.5, "n0": 10, "n": 100, "looks": (100,), "shares": (1.0,), "look_counts": ((90, 10),), "counts_selection": (9, 1),
    "counts": (90, 10), "pA_lower": 0.8, "pB_upper": 0.2,
}  # fmt: skip
ASKED: dict[str, Any] = {"sigma": 0.5, "n": 100, "counts": (90, 10), "p_value": 1e-5}
BOUND: dict[str, Any] = {"method": "crown", "margin_lower": 1.0, "tau": 1e-9, "dtype": "float64"}
LATENT: dict[str, Any] = {"split": "t", "latent_radius": 0.5, "lipschitz_upper": 1.0, "value_error": 0.0}
SEARCH = SearchEvidence(samples=10, tried=())
SELECTOR: dict[str, Any] = {**VOTES, "sigmas": (0.25, 0.5), "index": 1, "selector_radius": 0.5, "classifier_radius": 0.4}
TOLD = MemoryEvidence(ledger=None, size=0, how="stored", region=1)

CASES: list[tuple[str, Evidence, Norm, str]] = [
    ("smoothing", SmoothingEvidence(**VOTES), Norm.L2, "S0-fixed"),
    ("smoothing", SmoothingEvidence(**VOTES), Norm.LINF, "S0-fixed-from-l2"),
    ("smoothing", SmoothingEvidence(**VOTES, noise="uniform"), Norm.L1, "S0-fixed"),
    ("smoothing", SmoothingEvidence(**VOTES, noise="uniform"), Norm.LINF, "S0-fixed-from-l1"),
    ("smoothing", SmoothingEvidence(**VOTES, noise="discrete-gaussian", exploratory=True), Norm.L2, "S0-fixed-grid-exploratory"),
    ("smoothing", SmoothingEvidence(**VOTES, precision="bf16"), Norm.L1, "S0-fixed-bf16-from-l2"),
    ("smoothing", CorrectedEvidence(**VOTES, semi_elasticity=0.1), Norm.L2, "S3-corrected"),
    ("latent-smoothing", LatentEvidence(**VOTES, **LATENT, precision="tf32"), Norm.L2, "S0-fixed-latent-tf32"),
    ("instance-smoothing", InstanceEvidence(**VOTES, search=SEARCH, selector=None), Norm.L1, "S1-frozen-from-l2"),
    ("instance-smoothing", InstanceEvidence(**VOTES, search=SEARCH, selector=None, memory=TOLD), Norm.L2, "S2-memory"),
    ("instance-smoothing", InstanceEvidence(**VOTES, search=None, selector=SelectorEvidence(**SELECTOR)), Norm.L2, "S4-dual"),
    (
        "instance-smoothing",
        InstanceEvidence(**VOTES, search=None, selector=SelectorEvidence(**SELECTOR, transductive=True)),
        Norm.LINF,
        "S4-dual-transductive-from-l2",
    ),
    ("instance-smoothing", CorrectedEvidence(**VOTES, semi_elasticity=None), Norm.L2, "S3-corrected"),
    ("predict", PredictionEvidence(**ASKED), Norm.L2, "S0-prediction"),
    ("predict", PredictionEvidence(**ASKED, noise="discrete-gaussian"), Norm.L2, "S0-prediction-grid"),
    ("predict", PredictionEvidence(**ASKED, split="t"), Norm.L2, "S0-prediction-latent"),
    (
        "dual-predict",
        DualPredictionEvidence(**ASKED, sigmas=(0.5,), selector_sigma=0.5, selector_counts=(9, 1), selector_p_value=0.0),
        Norm.L2,
        "S4-dual-prediction",
    ),
    ("memory-predict", MemoryPredictionEvidence(**ASKED, search=SEARCH), Norm.L2, "S1-frozen-prediction"),
    ("memory-predict", MemoryPredictionEvidence(**ASKED, search=SEARCH, memory=TOLD), Norm.L2, "S2-memory-prediction"),
    ("dssn", SplittingEvidence(sigma=0.5, levels=2, counts=(2, 0), template="0" * 64), Norm.L1, "S0-exact-grid"),
    ("bounds", BoundsEvidence(**BOUND), Norm.L2, "real-arithmetic"),
    ("bounds", BoundsEvidence(**BOUND, float32_error=1e-3), Norm.LINF, "float32-runtime"),
    ("bounds", BoundsEvidence(**BOUND, float32_error=2.0), Norm.LINF, "real-arithmetic"),
    ("bounds", BoundsEvidence(**BOUND, clipped=True, value_range=(0.0, 1.0)), Norm.LINF, "real-arithmetic-clipped"),
    (
        "bounds",
        BoundsEvidence(**BOUND, clipped=True, value_range=(0.0, 1.0), float32_error=0.0),
        Norm.LINF,
        "float32-runtime-clipped",
    ),
    (
        "lipschitz",
        LipschitzEvidence(margin_lower=1.0, rival=1, lipschitz_upper=1.0, encoder_upper=1.0, tau=0.0),
        Norm.L2,
        "real-arithmetic",
    ),
]


def row(kind: str, evidence: Evidence | None, norm: Norm, statement: str, **more: Any) -> Certificate:
    values = {
        "example": 0, "certifier": 0, "kind": kind, "statement": statement, "label": 0, "prediction": 0, "correct": True,
        "verdict": Verdict.CERTIFIED, "reason": "x.", "norm": norm, "radius": 0.0, "epsilon_verified": None, "alpha": None,
        "evidence": evidence, "provenance": PROVENANCE, "seconds": 0.0,
    }  # fmt: skip
    return Certificate(**{**values, **more})


@pytest.mark.parametrize(("kind", "evidence", "norm", "name"), CASES)
def test_a_row_says_what_follows_from_its_evidence_and_nothing_else(kind: str, evidence: Evidence, norm: Norm, name: str) -> None:
    assert str(following(kind, evidence, norm, Verdict.CERTIFIED)) == name
    written = row(kind, evidence, norm, name)
    check_statement(written)
    assert parse_finding(written.line()) == written
    for other in every_statement():
        if other != written.statement:
            with pytest.raises(InputError, match="statement"):
                check_statement(written.model_copy(update={"statement": other}))


def test_a_claim_that_was_not_proved_is_none_about_float32() -> None:
    evidence = BoundsEvidence(**BOUND, float32_error=0.0)
    assert str(following("bounds", evidence, Norm.LINF, Verdict.REFUTED)) == "real-arithmetic"


def test_every_kind_of_the_registry_and_every_evidence_has_a_rule() -> None:
    kinds = set(CERTIFIERS) - {ATTACK}
    assert set(_RULES) == set(_BASES) == kinds == {kind for kind, *_ in CASES}
    evidences = {evidence for rules in _RULES.values() for evidence in rules}
    assert evidences == set(get_args(Evidence)) == {type(evidence) for _, evidence, *_ in CASES}


def test_evidence_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="evidence: is not that of lipschitz"):
        following("lipschitz", BoundsEvidence(**BOUND), Norm.L2, Verdict.CERTIFIED)


def test_a_row_without_evidence_says_what_its_kind_can_say() -> None:
    nothing: dict[str, Any] = {"prediction": None, "correct": False, "verdict": Verdict.ERROR}
    check_statement(row("bounds", None, Norm.LINF, "real-arithmetic-clipped", **nothing))
    for name in ("float32-runtime", "S0-fixed"):
        with pytest.raises(InputError, match="which bounds never makes"):
            check_statement(row("bounds", None, Norm.LINF, name, **nothing))


# -- what version 1 wrote ------------------------------------------------------------------------------------------------------


def old(written: Certificate, *lost: str, selector: tuple[str, ...] = (), **changes: Any) -> str:
    """The line that version 1 wrote of the same: without the fields that its evidence did not have."""
    line = json.loads(written.line())
    for name in lost:
        del line["evidence"][name]
    for name in selector:
        del line["evidence"]["selector"][name]
    return json.dumps({**line, **changes})


@pytest.mark.parametrize("base", ["real-arithmetic", "float32-runtime"])
def test_an_old_row_of_a_clipped_ball_gets_the_condition_from_its_evidence(base: str) -> None:
    written = row("bounds", BoundsEvidence(**BOUND, clipped=True), Norm.LINF, f"{base}-clipped")
    read = parse_finding(old(written, "value_range", statement=base))
    assert isinstance(read, Certificate)
    assert str(read.statement) == f"{base}-clipped"
    whole = row("bounds", BoundsEvidence(**BOUND), Norm.LINF, base)
    assert parse_finding(old(whole, "value_range")) == whole


def test_the_condition_cannot_be_taken_from_a_row() -> None:
    written = row("bounds", BoundsEvidence(**BOUND, clipped=True, value_range=(0.0, 1.0)), Norm.LINF, "real-arithmetic-clipped")
    with pytest.raises(ValueError, match="statement must say whether the ball is clipped"):
        parse_finding(written.line().replace("-clipped", ""))
    with pytest.raises(ValueError, match="statement must say whether the ball is clipped"):
        parse_finding(written.line().replace('"clipped":true', '"clipped":false'))


def test_old_recomputed_and_transductive_rows_keep_their_conditions() -> None:
    chosen = recompute(stored(), alpha=0.01)
    assert parse_finding(old(chosen, "exploratory", "precision")) == chosen
    evidence = InstanceEvidence(**VOTES, search=None, selector=SelectorEvidence(**SELECTOR, transductive=True))
    written = row("instance-smoothing", evidence, Norm.L2, "S4-dual-transductive")
    assert parse_finding(old(written, "exploratory", selector=("transductive",))) == written


def test_a_condition_that_the_evidence_of_a_new_row_does_not_have_is_not_taken_over() -> None:
    edited = stored().model_copy(update={"statement": replace(stored().statement, exploratory=True)})
    read = parse_finding(edited.line())
    assert isinstance(read, Certificate)
    with pytest.raises(InputError, match="S0-fixed follows from the evidence"):
        check_statement(read)
