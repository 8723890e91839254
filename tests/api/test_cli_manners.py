"""Every command speaks JSON, helps, and refuses in one sentence with exit code 4."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from api.cli.main import app
from tests.support.gated import answered
from tests.support.pairs import changed
from tests.support.server import Server
from tests.support.shop import BOUNDS, Shop

OTHER_OUTPUT = {
    "up": "runs until it is stopped",
    "api": "runs until it is stopped",
    "worker": "runs until it is stopped",
    "scheduler": "runs until it is stopped",
    "certify": "writes JSON lines to --out",
    "predict": "writes JSON lines to --out",
    "recompute": "writes JSON lines to --out",
    "calibrate": "writes a spec to --out",
    "replay": "prints sentences; its exit code is the answer",
    "export": "writes a file",
    "dataset pack": "writes a file",
    "job results": "prints JSON lines always",
}


def commands(found: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    found = found or get_command(app)
    if hasattr(found, "commands"):
        for name, inner in found.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield " ".join(path), found


def assay(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "300", **environment})


def test_every_command_speaks_json() -> None:
    names = dict(commands())
    assert len(names) > 40
    without = {name for name, command in names.items() if not any("--json" in parameter.opts for parameter in command.params)}
    assert without == set(OTHER_OUTPUT)


def test_every_command_and_group_explains_itself() -> None:
    for name, command in commands():
        assert (command.help or "").strip().endswith("."), name
        if name not in (
            "certify",
            "predict",
            "recompute",
            "replay",
            "calibrate",
            "export",
            "dataset pack",
        ):  # these start a process that helps
            assert "Usage: " in assay(*name.split(), "--help").stdout, name


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gate check", "missing argument"),
        ("nonsense", "no such command 'nonsense'"),
        ("job list --nonsense", "no such option"),
        ("schedule history nightly -n 0", "invalid value for '-n'"),
        ("job list", "ASSAY_KEY: is not set"),
        ("job submit --model m --dataset d --spec {", "spec"),
    ],
)
def test_a_wrong_line_is_one_sentence_and_never_an_inconclusive_gate(line: str, said: str) -> None:
    done = assay(*line.split(), ASSAY_KEY="assay_a_b" if "spec" in line else "", ASSAY_URL="http://127.0.0.1:9")
    assert done.exit_code == 4
    assert done.stderr.startswith("assay: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_completion_script_is_made_for_each_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    for shell in ("bash", "zsh", "fish"):
        script = CliRunner().invoke(app, ["--show-completion", shell], prog_name="assay")
        assert script.exit_code == 0
        assert "_ASSAY_COMPLETE=complete_" + shell in script.stdout
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CliRunner().invoke(app, ["--install-completion", "bash"], prog_name="assay").exit_code == 0
    assert "assay" in (tmp_path / ".bashrc").read_text()
    monkeypatch.setenv("_ASSAY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "assay gate ch")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert CliRunner().invoke(app, [], prog_name="assay").stdout.split() == ["check"]


class Desk:
    """A service with one answered job, one schedule and one gate, and a person at a keyboard."""

    def __init__(self, server: Server) -> None:
        self.environment = {"ASSAY_URL": server.url, "ASSAY_KEY": server.key}
        shop = Shop.open(server.db, "default", count=500)
        self.job = answered(shop, shop.submit(seed=1), changed(20, 5, kept=285, never=190)[0]).id

    def json(self, *arguments: str) -> Any:
        done = assay(*arguments, "--json", **self.environment)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def shown(self, *arguments: str) -> str:
        done = assay(*arguments, **self.environment)
        assert done.exit_code == 0, done.output
        assert not done.stdout.startswith("{")
        return done.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with Server(tmp_path_factory.mktemp("manners")) as server:
        yield Desk(server)


def test_a_job_as_a_table_and_as_json(desk: Desk) -> None:
    assert desk.json("job", "show", desk.job)["state"] == "succeeded"
    table = desk.shown("job", "show", desk.job)
    assert "certifiers" in table
    assert "succeeded" in table
    watched = assay("job", "watch", desk.job, "--json", **desk.environment)
    assert watched.exit_code == 2, "some examples are unknown, in JSON too"
    assert json.loads(watched.stdout)["id"] == desk.job
    refused = assay("job", "cancel", "job_x", "--json", **desk.environment)
    assert refused.exit_code == 4


def test_schedules_gates_and_keys_go_by_their_names(desk: Desk, tmp_path: Path) -> None:
    spec = json.dumps({"certifiers": [BOUNDS]})  # written out on the command line
    asked = ("--cron", "0 2 * * *", "--model", "cnn@latest", "--dataset", "digits", "--spec", spec)
    assert desk.json("schedule", "add", "--name", "nightly", *asked)["name"] == "nightly"
    assert desk.json("schedule", "pause", "nightly")["paused"]
    assert not desk.json("schedule", "resume", "nightly")["paused"]
    gate = desk.json("gate", "add", "release", "--schedule", "nightly", "--max-undecided", "0.5")
    assert desk.json("gate", "show", "release")["outcomes"] == []
    assert "abstention: at_most 0.5" in desk.shown("gate", "show", "release")
    assert "there is no gate named 'x'" in assay("gate", "show", "x", **desk.environment).stderr
    assert desk.json("gate", "remove", "release") == {"id": gate["id"], "removed": True}
    assert desk.json("schedule", "remove", "nightly")["removed"]
    key = desk.json("key", "create", "ann", "--scope", "read,jobs:write", "--scope", "gates:write")
    assert key["scopes"] == ["read", "jobs:write", "gates:write"]
    assert desk.json("key", "revoke", key["id"]) == {"id": key["id"], "revoked": True}
    assert (
        "no model named 'cnn@7'"
        in assay("job", "submit", "--model", "cnn@7", "--dataset", "digits", "--spec", spec, **desk.environment).stderr
    )
    nowhere = assay("report", desk.job, "--html", str(tmp_path / "no" / "r.html"), **desk.environment)
    assert (nowhere.exit_code, "No such file or directory" in nowhere.stderr) == (4, True)
