"""A wrong proof is shouted: the job fails, both rows are named, and the rows stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from certify.bounds.engine import LirpaEngine, MarginBound
from certify.certificate import Certificate
from certify.findings import AttackResult, parse_finding
from storage import results
from storage.records import JobState
from tests.support.files import write_job
from tests.support.service import Service, drive
from workers.executor import LocalExecutor
from workers.local import main

SPEC: dict[str, Any] = {
    "examples": {"stop": 3},
    "certifiers": [
        {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 0.5, "tolerance": 0.01},
        {"kind": "attack", "norm": "linf", "max_radius": 0.5},
    ],
}


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose margins are too large by one."""
    true = LirpaEngine.margin

    def margin(self: LirpaEngine, x: Tensor, label: int, radius: float, method: str) -> MarginBound:
        bound = true(self, x, label, radius, method)
        return replace(bound, lower=bound.lower + 1.0)

    monkeypatch.setattr(LirpaEngine, "margin", margin)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Service, Any]]:
    executor = LocalExecutor()
    found = Service(tmp_path)
    dispatcher = found.dispatcher(executor)
    ids = found.upload()
    found.inspected(dispatcher, *ids)

    def ended(spec: dict[str, Any]) -> Any:
        job = found.submit(*ids, spec)
        drive(dispatcher, lambda: found.job(job).state.ended)
        return found.job(job)

    yield found, ended
    executor.close()


@pytest.mark.usefixtures("wrong")
def test_a_wrong_engine_fails_the_job_and_names_both_rows(service: tuple[Service, Any]) -> None:
    place, ended = service
    job = ended(SPEC)
    assert job.state is JobState.FAILED
    sentence = job.error[0].sentence()
    for words in (
        "certifier 0 (bounds, crown, ",
        "certifier 1 (attack, apgd, linf)",
        "for example ",
        "defect of the service",
    ):
        assert words in sentence, sentence
    assert job.report is not None
    rows = list(results.iter_findings(place.db, place.tenant, job.id))
    assert [(row.certifier, row.example) for row in rows] == [(c, i) for c in range(2) for i in range(3)]


def test_sound_runs_are_not_flagged(service: tuple[Service, Any]) -> None:
    place, ended = service
    job = ended(SPEC)
    assert job.state is JobState.SUCCEEDED, job.error
    rows = list(results.iter_findings(place.db, place.tenant, job.id))
    proved = [row for row in rows if isinstance(row, Certificate)]
    attacked = [row for row in rows if isinstance(row, AttackResult)]
    assert len(proved) == len(attacked) == 3
    for certificate, attack in zip(proved, attacked, strict=True):
        assert attack.found
        assert attack.distance_upper is not None
        assert 0 < certificate.radius < attack.distance_upper


def certify(paths: dict[str, Path]) -> int:
    arguments = ["certify", "--model", str(paths["model"]), "--data", str(paths["data"]), "--spec", str(paths["spec"])]
    return int(main([*arguments, "--out", str(paths["out"]), "--range", "0,1"]))


@pytest.mark.usefixtures("wrong")
def test_assay_certify_says_so_with_exit_code_4_and_writes_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_job(tmp_path, SPEC)
    assert certify(paths) == 4
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("assay:")]
    assert len(said) == 1
    assert "certifier 0 (bounds, crown, " in said[0]
    assert "certifier 1 (attack, apgd, linf)" in said[0]
    rows = [parse_finding(line) for line in paths["out"].read_text().splitlines()]
    assert [row.kind for row in rows] == ["bounds"] * 3 + ["attack"] * 3


def test_assay_certify_writes_certificates_and_attack_results(tmp_path: Path) -> None:
    paths = write_job(tmp_path, SPEC)
    assert certify(paths) == 0
    first = paths["out"].read_text()
    assert [parse_finding(line).kind for line in first.splitlines()] == ["bounds"] * 3 + ["attack"] * 3
