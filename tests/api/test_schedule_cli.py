"""`assay schedule`: what a person types, against the API in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from api.cli.main import app
from storage.tables import schedules
from storage.tenants import ensure_tenant
from tests.support.server import Server
from tests.support.shop import BOUNDS, Shop, digest, ready_model


class Desk:
    """A person at a keyboard, with a key and a spec."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.spec = server, folder / "spec.json"
        self.spec.write_text(json.dumps({"certifiers": [BOUNDS]}))
        self.shop = Shop.open(server.db, "default")

    def type(self, *arguments: str) -> Result:
        environment = {"ASSAY_URL": self.server.url, "ASSAY_KEY": self.server.key, "COLUMNS": "300"}
        return CliRunner().invoke(app, ["schedule", *arguments], env=environment)

    def ok(self, *arguments: str) -> str:
        done = self.type(*arguments)
        assert done.exit_code == 0, done.output
        return done.stdout.strip()

    def add(self, name: str, *more: str) -> str:
        asked = ["--model", "cnn@latest", "--dataset", "digits", "--spec", str(self.spec)]
        return self.ok("add", "--name", name, "--cron", "0 2 * * *", "--zone", "Europe/Berlin", *asked, *more)

    def shown(self, name: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.ok("show", name, "--json"))
        return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    home = tmp_path_factory.mktemp("schedule-cli")
    with Server(home) as server:
        yield Desk(server, home)


def test_a_schedule_is_added_shown_and_listed(desk: Desk) -> None:
    done = desk.type("add", "--name", "nightly", "--cron", "0 2 * * *", "--zone", "Europe/Berlin", "--model", "cnn@latest",
                     "--dataset", "digits@1", "--spec", str(desk.spec), "--deadline", "3600")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("sch_")
    assert "At 02:00 every day, Europe/Berlin; next: " in done.stderr
    assert " 02:00 CE" in done.stderr
    shown = desk.ok("show", "nightly")
    for part in ("At 02:00 every day (0 2 * * *), Europe/Berlin", "cnn@latest", "digits@1", "3600 s", "skip", "latest"):
        assert part in shown
    assert done.stdout.strip() in desk.ok("list")
    assert [found["name"] for found in json.loads(desk.ok("list", "--json"))] == ["nightly"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--cron", "0 25 * * *"], "cron: '0 25 * * *' cannot be read (look at the field hour); write minute"),
        (["--zone", "Berlin"], "zone: 'Berlin' is not a time zone; use an IANA name such as Europe/Berlin"),
        (["--model", "cnn@newest"], "model: 'cnn@newest' names no version; write cnn@latest or, for one version, cnn@3"),
        (["--model", "nobody"], "template.model: there is no model named 'nobody'"),
        (["--dataset", "digits@9"], "template.dataset: there is no dataset named 'digits' with version 9"),
        (["--spec", "/no/such/spec.json"], "spec: cannot read /no/such/spec.json"),
    ],
)
def test_what_is_wrong_is_one_sentence(desk: Desk, changes: list[str], said: str) -> None:
    options = {"--name": "wrong", "--cron": "@daily", "--model": "cnn", "--dataset": "digits", "--spec": str(desk.spec)}
    options |= dict(zip(changes[::2], changes[1::2], strict=True))
    done = desk.type("add", *(part for pair in options.items() for part in pair))
    assert done.exit_code == 4
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_run_now_prints_its_job_and_history_tells_why(desk: Desk) -> None:
    desk.add("by hand")
    first = desk.type("run", "by hand")
    assert first.exit_code == 0
    assert first.stdout.startswith("job_")
    assert "submitted: cnn version 1 on digits version 1" in first.stderr
    again = desk.type("run", "by hand")
    assert (again.exit_code, again.stdout) == (4, "")
    assert "skipped: " in again.stderr
    assert "the overlap policy is skip" in again.stderr
    told = desk.ok("history", "by hand")
    assert told.count("by hand") == 2
    assert told.index("skipped") < told.index("submitted")
    assert [run["state"] for run in json.loads(desk.ok("history", "by hand", "--json", "-n", "1"))] == ["skipped"]


def test_a_change_names_only_what_changes(desk: Desk) -> None:
    desk.add("moved")
    before = desk.shown("moved")
    desk.ok("set", "moved", "--cron", "30 4 * * 1-5", "--overlap", "queue", "--deadline", "600")
    after = desk.shown("moved")
    same = set(before) - {"cron", "english", "overlap", "deadline_seconds", "next_at", "revision", "updated_at"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert (after["cron"], after["overlap"], after["deadline_seconds"], after["revision"]) == ("30 4 * * 1-5", "queue", 600, 2)
    ready_model(desk.server.db, ensure_tenant(desk.server.db, "default").id, blob=digest("second"))
    desk.ok("set", "moved", "--model", "cnn@2", "--deadline", "0")
    final = desk.shown("moved")
    assert final["template"] == {**before["template"], "model": {"id": None, "name": "cnn", "version": 2}}  # type: ignore[dict-item]
    assert final["deadline_seconds"] is None


def test_pause_resume_and_remove(desk: Desk) -> None:
    desk.add("short-lived")
    assert desk.ok("pause", "short-lived") == "short-lived is paused"
    assert "paused" in desk.ok("show", "short-lived")
    assert desk.ok("resume", "short-lived").startswith("sch_")
    assert desk.ok("remove", "short-lived") == "short-lived is removed"
    gone = desk.type("show", "short-lived")
    assert (gone.exit_code, gone.stderr) == (
        4,
        "assay: schedule: there is no schedule named 'short-lived'; list them with: assay schedule list\n",
    )


def test_a_preview_needs_no_schedule(desk: Desk) -> None:
    told = desk.ok("preview", "--cron", "30 2 * * *", "--zone", "Europe/Berlin", "-n", "2", "--after", "2027-03-27T12:00:00Z")
    for part in ("At 02:30 every day, Europe/Berlin", "2027-03-28T03:00:00+02:00", "2027-03-28T01:00:00Z", "2027-03-29T02:30:00+02:00"):
        assert part in told
    desk.add("previewed")
    assert len(json.loads(desk.ok("preview", "previewed", "--json", "-n", "3"))["ticks"]) == 3
    assert desk.type("preview").exit_code == 4


def test_a_schedule_that_nobody_fires_is_noticed(desk: Desk) -> None:
    desk.add("forgotten")
    with desk.server.db.begin() as connection:
        late = sa.update(schedules).where(schedules.c.name == "forgotten").values(next_at=sa.text("datetime('now', '-1 hour')"))
        connection.execute(late)
    assert "forgotten should have run; is a scheduler at work?" in desk.type("list").stderr
