"""`assay recompute` as a command, and on what `assay job results` prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli import jobs, main
from api.sdk.client import Client
from certify.certificate import Certificate
from tests.api.conftest import Api
from tests.workers.test_recompute import job, read, write
from workers.recompute import main as recompute


def assay(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_passes_its_options_on(tmp_path: Path) -> None:
    results = write(tmp_path / "old.jsonl", job())
    found = assay("recompute", "--results", results, "--out", tmp_path / "new.jsonl", "--alpha", "0.01", "--require", "0.9@0.1")
    assert found.returncode == 1, found.stderr
    assert "certifier 0 (smoothing, l2, exploratory) misses the gate" in found.stderr
    assert len(read(tmp_path / "new.jsonl")) == 12
    found = assay("recompute", "--results", results, "--out", results, "--alpha", "0.01")
    assert found.returncode == 4
    assert found.stderr == "assay: out: is the file of the results, which would be lost; write to another file\n"


def test_results_of_a_service_job_are_recomputed(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_id, dataset_id = api.ready()
    spec = {
        "examples": {"stop": 3},
        "certifiers": [{"kind": "smoothing", "sigma": 0.2, "n": 200}, {"kind": "predict", "sigma": 0.2, "n": 50}],
    }
    job_id = api.client.post("/v1/jobs", json={"model": model_id, "dataset": dataset_id, "spec": spec}).json()["id"]
    api.finish(job_id)
    service = Client("http://testserver", "")
    service._connection.http = api.client
    monkeypatch.setattr(jobs, "client", lambda: service)
    printed = CliRunner().invoke(main.app, ["job", "results", job_id])
    assert printed.exit_code == 0, printed.output
    (tmp_path / "old.jsonl").write_text(printed.stdout)
    options = ["--alpha", "0.3", "--error-rate", "per-example", "--bound", "top-two"]
    assert recompute(["--results", str(tmp_path / "old.jsonl"), "--out", str(tmp_path / "new.jsonl"), *options]) == 0
    before = [Certificate.model_validate_json(line) for line in printed.stdout.splitlines()]
    after = read(tmp_path / "new.jsonl")
    assert [str(c.statement) for c in after] == ["S0-fixed-exploratory"] * 3 + ["S0-prediction"] * 3
    assert all(new.radius >= old.radius for old, new in zip(before, after, strict=True))
    assert [c.provenance for c in after] == [c.provenance for c in before]
