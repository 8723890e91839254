"""`assay certificates`, `assay compare` and the other shapes of `assay report`, as a person types them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from api.cli.main import app
from storage.records import JobState, ShardState
from storage.tables import jobs, shards
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
        job = service.submit(model, data, {**SPEC, "certifiers": [{**SPEC["certifiers"][0], "epsilon": 0.002}]})
        while not service.job(job).state.ended:
            dispatcher.step()
        self.other, self.db = job.id, service.db
        executor.close()

    @contextmanager
    def cut_short(self, job: str) -> Iterator[None]:
        """The job as if it had been cancelled before its shards had ended."""
        self._set(job, JobState.CANCELLED, ShardState.CANCELLED)
        yield
        self._set(job, JobState.SUCCEEDED, ShardState.DONE)

    def _set(self, job: str, state: JobState, of_shards: ShardState) -> None:
        with self.db.begin() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.id == job).values(state=state))
            connection.execute(sa.update(shards).where(shards.c.job_id == job).values(state=of_shards))

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
    assert desk.ok("certificates").count("real-arithmetic") + desk.ok("certificates").count("float32-runtime") == 18
    rows = json.loads(desk.ok("certificates", "--model", "m", "--json"))
    assert {row["job"] for row in rows} == {desk.jobs[1], desk.other}, "a name means its newest version"
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


def test_comparing_nothing_is_no_success(desk: Desk) -> None:
    done = desk.type("compare", desk.jobs[0], desk.other)
    assert done.exit_code == 2
    assert "not compared" in done.output
    assert "nothing was compared" in done.stderr
    assert json.loads(desk.type("compare", desk.jobs[0], desk.other, "--json").stdout)["compared"] == 0
    assert json.loads(desk.ok("compare", *desk.jobs, "--json"))["compared"] == 1


PARTIAL = "PARTIAL: 0 of 6, cancelled"


def test_a_part_of_a_run_says_so_in_every_format(desk: Desk, tmp_path: Path) -> None:
    """The job that was stopped, as the database has it then: a report of the rows that there are, a shard that has not ended."""
    with desk.cut_short(desk.other):
        shown = desk.type("report", desk.other)
        assert (shown.exit_code, PARTIAL in shown.stderr) == (2, True)
        found = json.loads(desk.type("report", desk.other, "--json").stdout)
        assert (found["partial"], found["partial_words"]) == (True, PARTIAL)
        latex = desk.type("report", desk.other, "--format", "latex")
        assert (latex.exit_code, latex.stdout.count(PARTIAL)) == (2, 2), "in a comment, and in the row itself"
        mlflow = desk.type("report", desk.other, "--format", "mlflow")
        tags = {tag["key"]: tag["value"] for tag in json.loads(mlflow.stdout)["tags"]}
        assert (mlflow.exit_code, tags["assay.state"], tags["assay.partial"]) == (2, "cancelled", PARTIAL)
        page = tmp_path / "report.html"
        assert desk.type("report", desk.other, "--html", str(page)).exit_code == 2
        assert PARTIAL in page.read_text()
        table = tmp_path / "rows.csv"
        desk.ok("certificates", "--job", desk.other, "--out", str(table))
        with table.open(newline="") as file:
            assert {row["partial"] for row in csv.DictReader(file)} == {PARTIAL}
        assert PARTIAL in desk.ok("job", "show", desk.other)
        lines = desk.type("job", "results", desk.other)
        assert (lines.exit_code, PARTIAL in lines.stderr) == (2, True)
        watched = desk.type("job", "watch", desk.other)
        assert (watched.exit_code, PARTIAL in watched.stderr) == (2, True)
    assert desk.type("report", desk.other).exit_code == 0


def test_a_job_says_what_became_of_its_rows(desk: Desk) -> None:
    progress = json.loads(desk.ok("job", "show", desk.jobs[0], "--json"))["progress"]
    assert sum(progress["verdicts"].values()) == progress["certificates_done"] == 6
    assert "6 of 6 (" in desk.ok("job", "show", desk.jobs[0])


def test_a_report_for_other_tools(desk: Desk) -> None:
    row = desk.ok("report", desk.jobs[0], "--format", "latex", "--radius", "0.001").splitlines()[-1]
    assert row.endswith(r"\\")
    assert json.loads(desk.ok("report", desk.jobs[0], "--format", "mlflow"))["metrics"]
    assert desk.type("report", desk.jobs[0], "--format", "word").exit_code == 4
