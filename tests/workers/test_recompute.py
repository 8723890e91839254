"""`python -m workers.recompute`: from lines to lines, whole or not at all, and a sentence for every bad line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from certify.certificate import Certificate, PredictionEvidence
from certify.findings import AttackResult
from certify.verdict import Verdict
from tests.certify.test_recompute import PLURAL, PROVENANCE, stored, without_votes
from workers.recompute import main

BROKEN = {"prediction": None, "correct": False, "radius": 0.0, "verdict": Verdict.ERROR, "evidence": None}


def job() -> list[Certificate]:
    """Ten examples under smoothing, of which the last two need their rival's own limit, and two under bounds."""
    rows = [stored(**PLURAL) if example > 7 else stored() for example in range(10)]
    smoothed = [row.model_copy(update={"example": example}) for example, row in enumerate(rows)]
    return smoothed + [without_votes(example=example) for example in range(2)]


def write(path: Path, rows: Sequence[Certificate]) -> Path:
    path.write_text("".join(row.line() + "\n" for row in rows))
    return path


def read(path: Path) -> list[Certificate]:
    return [Certificate.model_validate_json(line) for line in path.read_text().splitlines()]


def run(results: Path, *more: str) -> int:
    return int(main(["--results", str(results), "--out", str(results.with_name("new.jsonl")), *more]))


def refusal(results: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert run(results, *(more or ("--alpha", "0.01"))) == 4
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "Traceback" not in text
    assert not results.with_name("new.jsonl").exists()
    assert not list(results.parent.glob(".*.part"))
    return text


def test_from_lines_to_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write(tmp_path / "old.jsonl", job())
    before = results.read_bytes()
    assert run(results, "--bound", "top-two") == 0
    after = read(tmp_path / "new.jsonl")
    assert results.read_bytes() == before
    assert [(c.certifier, c.example) for c in after] == [(c.certifier, c.example) for c in job()]
    assert {str(c.statement) for c in after if c.kind == "smoothing"} == {"S0-fixed-exploratory"}
    assert after[10:] == job()[10:]
    assert all(c.verdict is Verdict.CERTIFIED for c in after)
    said = capsys.readouterr().err
    assert "certifier 0, smoothing (l2): 10 certificates recomputed; exploratory, statement S0-fixed-exploratory" in said
    assert "alpha of each 0.0001 -> 0.0001, bound one-sided -> top-two" in said
    assert "certifier 1, bounds (linf): nothing to recompute, 2 certificates kept as they are" in said
    old, new = (next(line.split() for line in said.splitlines() if line.startswith(f"  {name}")) for name in ("before", "recomputed"))
    assert old[1:3] == ["80.0", "%"]
    assert new[2:4] == ["100.0", "%"]


def test_the_real_process_loads_no_service(tmp_path: Path) -> None:
    results = write(tmp_path / "old.jsonl", job())
    code = (
        "import sys; from workers.recompute import main; code = main(sys.argv[1:]);"
        "print(code, sorted({'ray', 'sqlalchemy', 'fastapi', 'onnxruntime'} & set(sys.modules)))"
    )
    arguments = ["--results", str(results), "--out", str(tmp_path / "new.jsonl"), "--alpha", "0.01", "--error-rate", "per-example"]
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0 []", found.stderr
    smoothed = [c for c in read(tmp_path / "new.jsonl") if c.kind == "smoothing"]
    assert {c.evidence.family for c in smoothed} == {1}
    assert all(0.0099999 < c.alpha <= 0.01 for c in smoothed)


def test_family_wise_counts_all_stochastic_lines(tmp_path: Path) -> None:
    votes = PredictionEvidence(sigma=0.5, n=100, counts=(10, 90), p_value=1e-5)
    each = [stored(family=1).model_copy(update={"example": example}) for example in range(4)]
    broken = [Certificate.model_validate({**dict(each[0]), **BROKEN, "example": 9})]
    predicted = [without_votes(kind="predict", statement="S0-prediction", evidence=votes, alpha=0.01, radius=0.0, certifier=2)]
    results = write(tmp_path / "old.jsonl", [*each, *broken, *predicted, without_votes()])
    assert run(results, "--alpha", "0.06", "--error-rate", "family-wise") == 4  # as before, an error is an error
    after = read(tmp_path / "new.jsonl")
    assert {c.evidence.family for c in after[:4]} == {6}
    assert all(0.0099999 < c.alpha <= 0.01 for c in after[:4])
    assert after[4:] == [*broken, *predicted, without_votes()]


@pytest.mark.parametrize(
    ("more", "expected", "marked"),
    [
        (("--require", "0.8@0.1"), 1, 1),  # bounds holds at 0.25 everywhere, smoothing for 8 of 10 at a stricter alpha
        (("--require", "0.8@0.1", "--bound", "top-two"), 0, 1),
        (("--require", "0.8@0.1", "--require", "1.0@3"), 1, 2),
        (("--require", "0@0"), 0, 1),
        ((), 0, 0),
    ],
)
def test_gates_speak_of_recomputed_radii(
    more: tuple[str, ...], expected: int, marked: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = [stored(**PLURAL).model_copy(update={"example": 20 + i}) for i in range(3)]
    results = write(tmp_path / "old.jsonl", [*job(), *weak])
    assert run(results, "--alpha", "0.01", *more) == expected
    lines = [line for line in capsys.readouterr().err.splitlines() if " the gate: " in line]
    assert sum(line.startswith("certifier 0 (smoothing, l2, exploratory) ") for line in lines) == marked
    assert sum(line.startswith("certifier 1 ") for line in lines) == marked


def attack(example: int) -> AttackResult:
    """As it stands beside certificates of the same job."""
    values = {"example": example, "certifier": 2, "method": "apgd", "label": 1, "prediction": 1, "correct": True, "found": False}
    nothing = {"answer": None, "distance_upper": None, "counterexample": None}
    claim = {"norm": "l2", "max_radius": 1.0, "clipped": False, "reason": "None was found.", "seconds": 0.0}
    return AttackResult.model_validate({**values, **nothing, **claim, "provenance": PROVENANCE})


def test_results_of_attacks_stay_where_and_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "old.jsonl"
    results.write_text("".join(row.line() + "\n" for row in (attack(0), *job(), attack(1))))
    assert run(results, "--bound", "top-two") == 0
    first, *rows, last = (tmp_path / "new.jsonl").read_text().splitlines()
    assert (first, last) == (attack(0).line(), attack(1).line())
    assert len(rows) == len(job())
    assert "certifier 2" not in capsys.readouterr().err
    alone = tmp_path / "attacks.jsonl"
    alone.write_text(attack(0).line() + "\n")
    (tmp_path / "new.jsonl").unlink()
    assert "the file has no certificate" in refusal(alone, capsys)


@pytest.mark.parametrize(("verdict", "more", "expected"), [("error", (), 4), ("timeout", (), 3), ("error", ("--require", "0@0"), 4)])
def test_what_ended_badly_stays_so(verdict: str, more: tuple[str, ...], expected: int, tmp_path: Path) -> None:
    broken = Certificate.model_validate({**dict(stored()), **BROKEN, "verdict": verdict, "example": 99})
    results = write(tmp_path / "old.jsonl", [*job(), broken])
    assert run(results, "--alpha", "0.01", *more) == expected
    assert read(tmp_path / "new.jsonl")[-1] == broken


def line(**changes: Any) -> str:
    return json.dumps({**json.loads(stored().line()), **changes})


BAD = {
    "empty": ("", "the file has no certificate"),
    "blank": ("\n \n", "the file has no certificate"),
    "not json": (line(example=1) + "\n\n{", "line 3 is no certificate (invalid JSON"),
    "not utf-8": ("\udcff", "line 1 is no certificate"),
    "cut": (line()[:-20], "line 1 is no certificate"),
    "another object": ('{"example": 1}', "line 1 is no certificate (certifier: is required)"),
    "unknown field": (line(more=1), "line 1 is no certificate (more: unknown field)"),
    "radius without proof": (line(verdict="abstained"), "line 1 is no certificate (a radius needs the verdict certified"),
    "twice": (line() + "\n" + line(), "line 2 repeats certifier 0, example 7 of line 1; give one job at a time"),
    "two jobs": (
        line() + "\n" + line(example=8, provenance={**PROVENANCE.model_dump(), "spec": "3" * 64}),
        "line 2 is of another model, dataset or spec than line 1",
    ),
    "another radius": (line(example=1) + "\n" + line(radius=2.0), "line 2: evidence: the stored radius does not follow from the stored"),
    "another norm": (line(norm="linf"), "line 1: statement: is S0-fixed, and S0-fixed-from-l2 follows from the evidence"),
    "another statement": (line(statement="S0-fixed-grid"), "line 1: statement: is S0-fixed-grid, and S0-fixed follows from the evidence"),
    "no statement": (line(statement="S9"), "line 1 is no certificate (statement: 'S9' is no statement"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, sentence = BAD[name]
    results = tmp_path / "old.jsonl"
    results.write_bytes(text.encode("utf-8", "surrogateescape"))
    said = refusal(results, capsys)
    assert f"assay: results: {sentence}" in said
    assert ";" in said  # the mend


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--require", "0@0"), "alpha: nothing to change was given; give --alpha, --bound, --error-rate or --semi-elasticity"),
        (("--alpha", "0.5"), "alpha: input should be less than 0.5, got 0.5"),
        (("--alpha", "1e-11"), "alpha: input should be greater than or equal to"),
        (("--alpha", "nan"), "alpha: input should be"),
        (("--alpha", "0.1", "--require", "much"), "require: 'much' is not SHARE@RADIUS"),
    ],
)
def test_a_bad_option_is_one_sentence(more: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refusal(write(tmp_path / "old.jsonl", job()), capsys, *more)


@pytest.mark.parametrize("more", [("--alpha", "few"), ("--bound", "both"), ("--error-rate", "none"), ("--sigma", "1"), ("--alpha",)])
def test_an_unknown_option_is_one_sentence(more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(write(tmp_path / "old.jsonl", job()), *more)
    assert ended.value.code == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_the_results_themselves_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write(tmp_path / "old.jsonl", job())
    before = results.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(results)
    for out in (results, tmp_path / "." / "old.jsonl", tmp_path / "link.jsonl"):
        assert main(["--results", str(results), "--out", str(out), "--alpha", "0.1"]) == 4
        assert "out: is the file of the results" in capsys.readouterr().err
    assert results.read_bytes() == before


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "results: cannot read" in refusal(tmp_path / "none.jsonl", capsys)
    results = write(tmp_path / "old.jsonl", job())
    assert main(["--results", str(results), "--out", str(tmp_path / "none" / "new.jsonl"), "--alpha", "0.1"]) == 4
    assert "out: cannot write" in capsys.readouterr().err


def test_a_semi_elasticity_alone_makes_another_claim_and_is_not_exploratory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write(tmp_path / "old.jsonl", job())
    assert run(results, "--semi-elasticity", "0.01") == 0
    after = read(tmp_path / "new.jsonl")
    assert {str(c.statement) for c in after if c.kind == "smoothing"} == {"S3-corrected"}
    assert all(new.radius <= old.radius for old, new in zip(job(), after, strict=True))
    assert any(0 < new.radius < old.radius for old, new in zip(job(), after, strict=True))
    assert after[10:] == job()[10:]
    said = capsys.readouterr().err
    assert "10 certificates recomputed; statement S3-corrected" in said
    assert "exploratory" not in said
    assert run(results, "--semi-elasticity", "0.01", "--alpha", "0.01") == 0
    assert {str(c.statement) for c in read(tmp_path / "new.jsonl") if c.kind == "smoothing"} == {"S3-corrected-exploratory"}
    assert "recomputed; exploratory, statement S3-corrected-exploratory" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_semi_elasticity_that_bounds_nothing_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    results = write(tmp_path / "old.jsonl", job())
    assert "semi_elasticity: must lie between 0 and 1e6" in refusal(results, capsys, f"--semi-elasticity={value}")
