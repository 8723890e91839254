"""A wrong proof is shouted: the job fails, the rows are named, and they stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from certify import Model
from certify.bounds.engine import LirpaEngine, MarginBound
from certify.certificate import Certificate
from certify.findings import AttackResult, parse_finding
from certify.lipschitz.bound import Bounds
from storage import results
from storage.records import Job, JobState
from tests.support.files import npz, write_job
from tests.support.onnx_models import small_cnn
from tests.support.service import Service, drive
from workers.executor import LocalExecutor
from workers.local import main

EPSILON = 0.2
SPEC: dict[str, Any] = {
    "certifiers": [
        {"kind": "bounds", "method": "crown", "norm": "linf", "epsilon": EPSILON},
        {"kind": "attack", "norm": "linf", "max_radius": 0.5, "steps": 20, "restarts": 3},
        {"kind": "attack", "norm": "l2", "max_radius": 5.0, "steps": 20, "restarts": 3},
    ],
}


def model() -> bytes:
    return small_cnn(mean=0.5)


def data() -> bytes:
    """Three inputs, labelled as the model answers them."""
    x = np.random.default_rng(0).uniform(0.1, 0.9, (3, 1, 8, 8)).astype(np.float32)
    return npz(x, Model.from_onnx(model()).module()(torch.from_numpy(x)).argmax(1).numpy())


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose margins are too large by a hundred."""
    true = LirpaEngine.margin

    def margin(self: LirpaEngine, x: Tensor, label: int, radius: float, method: str) -> MarginBound:
        bound = true(self, x, label, radius, method)
        return replace(bound, lower=bound.lower + 100.0)

    monkeypatch.setattr(LirpaEngine, "margin", margin)


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No input is tried before a radius is released."""
    monkeypatch.setattr("certify.bounds.certifier.smallest_margin", lambda *_, **__: float("inf"))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Service, Callable[[dict[str, Any]], Job]]]:
    executor = LocalExecutor()
    found = Service(tmp_path)
    dispatcher = found.dispatcher(executor)
    ids = found.upload(model(), data())
    found.inspected(dispatcher, *ids)

    def ended(spec: dict[str, Any]) -> Job:
        job = found.submit(*ids, spec)
        drive(dispatcher, lambda: found.job(job).state.ended)
        return found.job(job)

    yield found, ended
    executor.close()


@pytest.mark.usefixtures("wrong", "unwatched")
def test_a_wrong_engine_fails_the_job_and_names_both_rows(service: tuple[Service, Any]) -> None:
    place, ended = service
    job = ended(SPEC)
    assert job.state is JobState.FAILED
    first = job.error[0].sentence()
    assert "certifier 0 (bounds, crown, " in first
    assert "certifies example 0 as class" in first
    assert "to linf radius 0.2" in first
    assert "certifier 1 (attack, apgd, linf) for example 0 is at linf distance" in first
    assert "defect of the service" in first
    # The attack in another norm is held against the same ball, by its own distance in that ball's norm.
    assert any("certifier 2 (attack, apgd, l2) for example 0 is at linf distance" in problem.sentence() for problem in job.error)
    assert job.report is not None
    rows = list(results.iter_findings(place.db, place.tenant, job.id))
    assert [(row.certifier, row.example) for row in rows] == [(c, i) for c in range(3) for i in range(3)]
    assert all(row.radius > 0.19 for row in rows[:3])


@pytest.mark.usefixtures("wrong")
def test_a_wrong_engine_is_caught_before_anything_is_certified(service: tuple[Service, Any]) -> None:
    place, ended = service
    job = ended(SPEC)
    assert job.state is JobState.FAILED
    sentence = job.error[0].sentence()
    assert "certifier 0 (bounds, crown) proved a margin of" in sentence
    assert "for example 0 to linf radius" in sentence
    rows = list(results.iter_findings(place.db, place.tenant, job.id))
    assert [row.certifier for row in rows] == [1] * 3 + [2] * 3  # nothing of the certifier; nobody tried it a second time
    with place.db.read() as connection:
        shards = connection.exec_driver_sql("SELECT certifier, attempts, state FROM shards ORDER BY ix").all()
    assert [tuple(row) for row in shards if row[0] == 0] == [(0, 1, "failed")]


def test_wrong_lipschitz_bounds_fail_the_job_and_name_both_rows(service: tuple[Service, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, ended = service
    lipschitz = {"kind": "lipschitz", "norm": "l2"}
    assert ended({"certifiers": [lipschitz, SPEC["certifiers"][2]]}).state is JobState.SUCCEEDED
    true = Bounds.pairwise
    monkeypatch.setattr(Bounds, "pairwise", lambda self, label: [bound / 1000 for bound in true(self, label)])
    monkeypatch.setattr("certify.lipschitz.certifier.smallest_margin", lambda *_, **__: float("inf"))
    job = ended({"certifiers": [lipschitz, SPEC["certifiers"][2]], "seed": 1})
    assert job.state is JobState.FAILED
    sentence = job.error[0].sentence()
    assert "certifier 0 (lipschitz, real-arithmetic) certifies example 0 as class" in sentence
    assert "certifier 1 (attack, apgd, l2) for example 0 is at l2 distance" in sentence


def test_sound_runs_are_not_flagged(service: tuple[Service, Any]) -> None:
    place, ended = service
    searched = {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 0.5, "tolerance": 0.01}
    job = ended({"certifiers": [searched, *SPEC["certifiers"]]})
    assert job.state is JobState.SUCCEEDED, job.error
    rows = list(results.iter_findings(place.db, place.tenant, job.id))
    proved = [row for row in rows if isinstance(row, Certificate) and row.radius > 0]
    attacked = {row.example: row for row in rows if isinstance(row, AttackResult) and row.certifier == 2}
    assert len(proved) >= 3
    assert len(attacked) == 3
    for certificate in proved:
        distance = attacked[certificate.example].distance_upper
        assert distance is not None
        assert certificate.radius < distance


def certify(folder: Path) -> tuple[int, Path]:
    paths = write_job(folder, SPEC)
    paths["model"].write_bytes(model())
    paths["data"].write_bytes(data())
    arguments = ["certify", "--model", str(paths["model"]), "--data", str(paths["data"]), "--spec", str(paths["spec"])]
    return int(main([*arguments, "--out", str(paths["out"]), "--range", "0,1"])), paths["out"]


@pytest.mark.usefixtures("wrong", "unwatched")
def test_assay_certify_says_so_with_exit_code_4_and_writes_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = certify(tmp_path)
    assert code == 4
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("assay:")]
    assert len(said) == 1
    assert "certifier 0 (bounds, crown, " in said[0]
    assert "certifier 1 (attack, apgd, linf) for example 0" in said[0]
    rows = [parse_finding(line) for line in out.read_text().splitlines()]
    assert [row.kind for row in rows] == ["bounds"] * 3 + ["attack"] * 6


@pytest.mark.usefixtures("wrong")
def test_assay_certify_names_the_example_that_tripped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert certify(tmp_path)[0] == 4
    assert "proved a margin of" in capsys.readouterr().err


def test_assay_certify_writes_both_kinds_of_rows(tmp_path: Path) -> None:
    code, out = certify(tmp_path)
    assert code == 1  # epsilon is refuted
    assert [parse_finding(line).kind for line in out.read_text().splitlines()] == ["bounds"] * 3 + ["attack"] * 6
