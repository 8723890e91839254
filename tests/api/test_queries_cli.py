"""`assay certificates`, `assay compare` and the other shapes of `assay report`, as a person types them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.cli.main import app
from tests.support.onnx_models import small_cnn
from tests.support.server import Server
from tests.support.service import Service
from workers.executor import LocalExecutor

SPEC = {
    "certifiers": [{"kind": "bounds", "method": "ibp", "norm": "linf", "epsilon": 0.001}],
    "examples": {"stop": 6},
}


class Desk:
    """A service with two finished jobs, and a person at a keyboard."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, service, executor = server, Service(folder), LocalExecutor()
        dispatcher = service.dispatcher(executor)
        self.jobs = []
        for seed in (0, 1):
            model, data = service.upload(small_cnn(mean=0.5, seed=seed))
            service.inspected(dispatcher, model, data)
            job = service.submit(model, data, SPEC)
            while not service.job(job).state.ended:
                dispatcher.step()
            self.jobs.append(job.id)
        executor.close()

    def type(self, *arguments: str) -> Result:
        environment = {"ASSAY_URL": self.server.url, "ASSAY_KEY": self.server.key, "COLUMNS": "300"}
        return CliRunner().invoke(app, list(arguments), env=environment)

    def ok(self, *arguments: str) -> str:
        done = self.type(*arguments)
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    home = tmp_path_factory.mktemp("queries-cli")
    with Server(home) as server:
        yield Desk(server, home)


def test_certificates_are_shown_and_written(desk: Desk, tmp_path: Path) -> None:
    assert desk.ok("certificates").count("real-arithmetic") + desk.ok("certificates").count("float32-runtime") == 12
    rows = json.loads(desk.ok("certificates", "--model", "m", "--json"))
    assert {row["job"] for row in rows} == {desk.jobs[1]}, "a name means its newest version"
    lines, table, columns = tmp_path / "all.jsonl", tmp_path / "all.csv", tmp_path / "all.parquet"
    for path in (lines, table, columns):
        desk.ok("certificates", "--out", str(path))
    kept = [json.loads(line) for line in lines.read_text().splitlines()]
    with table.open(newline="") as file:
        assert [float(row["radius"]) for row in csv.DictReader(file)] == [row["certificate"]["radius"] for row in kept]
    parquet = pytest.importorskip("pyarrow.parquet")
    read = parquet.read_table(columns).to_pylist()
    assert [(row["job"], row["example"], row["radius"]) for row in read] == [
        (row["job"], row["certificate"]["example"], row["certificate"]["radius"]) for row in kept
    ]
    assert json.loads(read[0]["provenance"]) == kept[0]["certificate"]["provenance"]


def test_a_file_of_another_kind_is_refused(desk: Desk, tmp_path: Path) -> None:
    done = desk.type("certificates", "--out", str(tmp_path / "all.xlsx"))
    assert done.exit_code == 4
    assert "name it .jsonl, .csv or .parquet" in done.stderr


def test_two_jobs_side_by_side(desk: Desk) -> None:
    shown = desk.ok("compare", *desk.jobs)
    assert "lost" in shown
    assert "0.001" in shown
    (pair,) = json.loads(desk.ok("compare", *desk.jobs, "--radius", "0.0005", "--json"))["certifiers"]
    assert [point["radius"] for point in pair["points"]] == [0.0005]


def test_a_report_for_other_tools(desk: Desk) -> None:
    row = desk.ok("report", desk.jobs[0], "--format", "latex", "--radius", "0.001").splitlines()[-1]
    assert row.endswith(r"\\")
    assert json.loads(desk.ok("report", desk.jobs[0], "--format", "mlflow"))["metrics"]
    assert desk.type("report", desk.jobs[0], "--format", "word").exit_code == 4
