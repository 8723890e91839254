"""The command line against the whole service: `assay up` with the in-process executor."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from api.cli.main import app
from api.sdk.client import Client
from storage.database import Database
from storage.tables import schedules
from tests.support.files import write_job


class Up:
    """`assay up` in a process of its own."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.environment = {**os.environ, "ASSAY_HOME": str(home), "ASSAY_EXECUTOR": "local", "ASSAY_URL": f"http://127.0.0.1:{port}"}
        self.log = home / "up.log"
        command = [sys.executable, "-m", "api.cli.main", "up", "--port", str(port)]
        self.process = subprocess.Popen(command, env=self.environment, stdout=self.log.open("w"), stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while "ready at" not in self.log.read_text():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        self.environment["ASSAY_KEY"] = next(word for word in self.log.read_text().split("=") if word.startswith("assay_")).split()[0]

    def assay(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "api.cli.main", *map(str, arguments)], env=self.environment, capture_output=True, text=True, timeout=120
        )


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    found = Up(tmp_path_factory.mktemp("up"))
    yield found
    found.process.send_signal(signal.SIGTERM)
    found.process.send_signal(signal.SIGTERM)  # two at once must not deadlock
    assert found.process.wait(timeout=30) == 0
    left = subprocess.run(["pgrep", "-f", str(found.environment["ASSAY_URL"]).split(":")[-1]], capture_output=True, text=True)
    assert left.stdout == ""


def _repeats_as_printed(up: Up, job: str, page: str, paths: dict[str, Path]) -> None:
    """The command lines of the report, as they stand there, in a folder with the files named as there."""
    commands = json.loads(up.assay("report", job, "--json").stdout)["repeat"]["commands"]
    assert all(command in page for command in commands)
    folder = paths["model"].parent / "auditor"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(paths["model"].read_bytes())
    (folder / "dataset").write_bytes(paths["data"].read_bytes())
    environment = {**up.environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (done.stdout, done.stderr)
        environment.pop("ASSAY_KEY", None)  # only the first one asks the service
    assert done.stdout.endswith("repeated: nothing differs\n")


def test_from_files_to_a_report(up: Up, tmp_path: Path) -> None:
    paths = write_job(tmp_path)
    added = up.assay("model", "add", paths["model"], "--name", "net", "--range", "0,1", "--json")
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["state"] == "ready"
    assert up.assay("dataset", "add", paths["data"], "--name", "points").returncode == 0
    done = up.assay("job", "submit", "--model", "net", "--dataset", "points", "--spec", paths["spec"], "--watch")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[-1]
    page = tmp_path / "report.html"
    assert up.assay("report", job, "--html", page).returncode == 0
    assert "<svg" in page.read_text()
    lines = up.assay("job", "results", job).stdout.splitlines()
    assert len(lines) == 16
    _repeats_as_printed(up, job, page.read_text(), paths)
    assert up.assay("job", "watch", job, "--require", "0.0@0.001").returncode == 0
    assert up.assay("job", "watch", job, "--require", "1.0@5").returncode == 1
    listed = json.loads(up.assay("job", "list", "--json").stdout)
    assert [j["id"] for j in listed] == [job]


def test_the_scheduler_runs_with_the_service(up: Up, tmp_path: Path) -> None:
    paths = write_job(tmp_path)
    assert up.assay("model", "add", paths["model"], "--name", "net", "--range", "0,1").returncode == 0
    assert up.assay("dataset", "add", paths["data"], "--name", "points").returncode == 0
    asked = ("--model", "net@latest", "--dataset", "points", "--spec", paths["spec"])
    assert up.assay("schedule", "add", "--name", "nightly", "--cron", "0 2 * * *", *asked).returncode == 0
    db = Database(f"sqlite:///{up.environment['ASSAY_HOME']}/assay.db")
    with db.begin() as connection:  # as if it were two o'clock
        connection.execute(sa.update(schedules).values(next_at=db.now(connection)))
    db.close()
    deadline = time.monotonic() + 30
    while not (told := json.loads(up.assay("schedule", "history", "nightly", "--json").stdout)):
        assert time.monotonic() < deadline
    assert [run["state"] for run in told] in (["submitted"], ["reused"])  # another test may have asked the same
    assert told[0]["job"] in [job["id"] for job in json.loads(up.assay("job", "list", "--json").stdout)]


def test_errors_are_one_sentence(up: Up, tmp_path: Path) -> None:
    paths = write_job(tmp_path)
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"\x80\x04K\x01.")
    for arguments, text in (
        (("model", "add", junk, "--name", "junk"), "pickle"),
        (("model", "add", tmp_path / "none.onnx", "--name", "none"), "cannot read"),
        (("job", "submit", "--model", "nobody", "--dataset", "points", "--spec", paths["spec"]), "no model named"),
        (("job", "show", "job_x"), "no job job_x"),
    ):
        found = up.assay(*arguments)
        assert found.returncode == 4
        assert text in found.stderr
        assert found.stderr.count("\n") == 1
        assert "Traceback" not in found.stderr


def test_without_a_service_it_says_how_to_start_one(tmp_path: Path) -> None:
    environment = {**os.environ, "ASSAY_URL": "http://127.0.0.1:9", "ASSAY_KEY": "assay_a_b"}
    found = subprocess.run([sys.executable, "-m", "api.cli.main", "job", "list"], env=environment, capture_output=True, text=True)
    assert found.returncode == 4
    assert "start one with: assay up" in found.stderr


def test_certify_passes_its_options_on(tmp_path: Path) -> None:
    paths = write_job(tmp_path)
    command = [
        "certify",
        "--model",
        paths["model"],
        "--data",
        paths["data"],
        "--spec",
        paths["spec"],
        "--out",
        paths["out"],
        "--require",
        "1.0@5",
    ]
    found = subprocess.run([sys.executable, "-m", "api.cli.main", *map(str, command)], capture_output=True, text=True)
    assert found.returncode == 1, found.stderr
    assert len(paths["out"].read_text().splitlines()) == 16


def test_gates_hold_a_ci_and_a_schedule(up: Up, tmp_path: Path) -> None:
    spec = {"noise_key": "public-seed", "certifiers": [{"kind": "smoothing", "sigma": 0.2, "n": 400, "alpha": 0.01}]}
    paths = write_job(tmp_path, spec=spec)

    def gate(*arguments: str | Path) -> Result:  # in this process: a new one costs a second each
        return CliRunner().invoke(app, ["gate", *map(str, arguments)], env=up.environment)

    with Client(str(up.environment["ASSAY_URL"]), str(up.environment["ASSAY_KEY"])) as service:
        model, data = service.add_model("gated", paths["model"], (0.0, 1.0)), service.add_dataset("gated", paths["data"])
        service.inspected("models", model["id"]), service.inspected("datasets", data["id"])
        job = service.submit(model["id"], data["id"], spec)["id"]
        assert gate("check", job).exit_code == 4  # no gate yet: nothing that could pass
        assert gate("add", "easy", "--job", job, "--require", "0.0@0.001", "--max-undecided", "1.0").exit_code == 0
        passed = up.assay("gate", "check", job)  # waits for the job and for the judgement
        assert passed.returncode == 0, passed.stderr
        assert "easy: passed" in passed.stdout

        hard, report = gate("add", "hard", "--job", job, "--require", "1.0@0.3").stdout.strip(), tmp_path / "junit.xml"
        failed = up.assay("gate", "check", job, "--junit", report)
        assert failed.returncode == 1, failed.stderr
        assert "misses the gate: certified accuracy" in failed.stdout
        assert ET.parse(report).getroot().attrib["failures"] == "1"
        assert gate("remove", hard).exit_code == 0
        assert gate("check", job).exit_code == 0
        assert "never certifies radius 9" in gate("add", "wrong", "--job", job, "--require", "0.5@9").stderr

        template = {"model": {"name": "gated"}, "dataset": {"name": "gated"}, "spec": spec}
        made = service.post("/v1/schedules", {"name": "guarded", "cron": "0 2 1 1 *", "template": template})
        assert gate("add", "steady", "--schedule", "guarded", "--no-drop", "0.1", "--level-per-year", "0.05").exit_code == 0
        assert gate("check", "guarded").exit_code == 4  # it has not run yet
        for code, text in ((2, "steady: inconclusive"), (0, "steady: passed")):  # nothing to compare with, then the same answer again
            service.post(f"/v1/schedules/{made['id']}/run")
            checked = gate("check", "guarded")
            assert (checked.exit_code, text in checked.stdout) == (code, True), checked.output
