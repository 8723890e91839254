"""Gates on schedules and jobs, for people and for CI: `assay gate check JOB` waits for the outcome and exits with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.console import err, out, say, sentences, show_json, show_table
from api.cli.remote import Json, Require, client
from api.cli.schedules import find as find_schedule
from api.sdk.client import Client, ServiceError
from certify.exit_codes import Requirement
from certify.gates import Judgement, exit_code

app = typer.Typer(no_args_is_help=True, help="Gates: what every run of a schedule, or one job, has to pass.")
_COLOURS = {Judgement.PASS: "green", Judgement.FAIL: "red", Judgement.INCONCLUSIVE: "yellow"}
Which = Annotated[str, typer.Argument(metavar="GATE", help="id or name")]
Certifier = Annotated[int | None, typer.Option(min=0, help="index of the certifier that is meant; all of them when left out")]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    schedule: Annotated[str | None, typer.Option(help="id or name: every run has to pass")] = None,
    job: Annotated[str | None, typer.Option(help="id")] = None,
    require: Require = None,
    no_drop: Annotated[list[float] | None, typer.Option(metavar="RADIUS", help="no significant drop of certified accuracy there")] = None,
    baseline: Annotated[str, typer.Option(help="what a drop is measured from: previous, pinned, or a job")] = "previous",
    level_per_night: Annotated[float | None, typer.Option(help="how often an unchanged night may be flagged; 0.01 by default")] = None,
    level_per_year: Annotated[float | None, typer.Option(help="how often a year of unchanged nights may have any flag")] = None,
    max_undecided: Annotated[float | None, typer.Option(metavar="SHARE", help="abstained, unknown, timed out or failed")] = None,
    certifier: Certifier = None,
    rules: Annotated[Path | None, typer.Option(help="JSON file with a list of rules; see docs/gates.md")] = None,
    as_json: Json = False,
) -> None:
    """Put a gate on a schedule or a job: --require 0.60@0.25 --no-drop 0.25 --max-undecided 0.1."""
    with sentences(), client() as service:
        drop = {"kind": "no-drop", "baseline": baseline, "level_per_night": level_per_night, "level_per_year": level_per_year}
        listed = [{"kind": "certified-accuracy", "radius": r.radius, "at_least": r.share} for r in map(Requirement.parse, require or ())]
        listed += [{**drop, "radius": radius} for radius in no_drop or ()]
        listed += [{"kind": "abstention", "at_most": max_undecided}] if max_undecided is not None else []
        wanted = [*({**rule, "certifier": certifier} for rule in listed), *(_read(rules) if rules else ())]
        if not wanted:
            raise ServiceError.at(
                "rules", "a gate needs a rule", "give --require 0.60@0.25, --no-drop 0.25, --max-undecided 0.1 or --rules FILE"
            )
        on = {"schedule": find_schedule(service, schedule)["id"] if schedule else None, "job": job}
        made = service.post("/v1/gates", {"name": name, "rules": wanted, **on})
        show_json(made) if as_json else typer.echo(made["id"])


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Gates, newest first."""
    with sentences(), client() as service:
        items = service.get("/v1/gates", limit=100)["items"]
        if as_json:
            show_json(items)
            return
        rows = [(g["id"], g["name"], g["schedule"] or g["job"], ", ".join(rule["kind"] for rule in g["rules"])) for g in items]
        show_table(("id", "name", "on", "rules"), rows)


@app.command("show")
def show(gate: Which, as_json: Json = False) -> None:
    """A gate with its last outcomes."""
    with sentences(), client() as service:
        found = _find(service, gate)
        outcomes = service.get(f"/v1/gates/{found['id']}/outcomes", limit=10)["items"]
        if as_json:
            show_json({**found, "outcomes": outcomes})
            return
        rows = [("id", found["id"]), ("name", found["name"]), ("on", found["schedule"] or found["job"])]
        rows += [("rule", _worded(rule)) for rule in found["rules"]]
        show_table(("", ""), rows)
        judged = [(one["created_at"], one["job"], Judgement(one["judgement"]).past, one["sentence"]) for one in outcomes]
        show_table(("judged", "job", "outcome", "why"), judged, "Outcomes, latest first")


@app.command("remove")
def remove(gate: Which, as_json: Json = False) -> None:
    """Remove a gate and its outcomes."""
    with sentences(), client() as service:
        found = _find(service, gate)
        service.delete(f"/v1/gates/{found['id']}")
        say({"id": found["id"], "removed": True}, f"{found['name']} is removed", as_json)


@app.command("pin")
def pin(gate: Which, job: Annotated[str, typer.Argument(metavar="JOB")], as_json: Json = False) -> None:
    """Choose the job that the baseline `pinned` of a gate stands for."""
    with sentences(), client() as service:
        found = service.put(f"/v1/gates/{_find(service, gate)['id']}/pin", {"job": job})
        say(found, found["pinned_job"], as_json)


@app.command("check")
def check(
    subject: Annotated[str, typer.Argument(metavar="JOB|SCHEDULE", help="a job, or the last run of a schedule by id or name")],
    junit: Annotated[Path | None, typer.Option(metavar="FILE.xml", help="write JUnit XML for a CI")] = None,
    as_json: Json = False,
) -> None:
    """Wait until every gate has judged; exit code 0 passed, 1 failed, 2 inconclusive, 4 error."""
    with sentences(), client() as service:
        job_id = subject if subject.startswith("job_") else _last_job(service, find_schedule(service, subject))
        with err.status(f"waiting for the gates of {job_id}"):
            found = service.judged(job_id)
        if found["judgement"] is None:
            raise ServiceError.at("gate", f"no gate judges {job_id}", "put one on it, or on its schedule, with: assay gate add")
        if junit is not None:
            junit.write_text(service.junit(job_id), encoding="utf-8")
            err.print(f"wrote {junit}", highlight=False)
        show_json(found) if as_json else _say(found["outcomes"])
        raise typer.Exit(exit_code([Judgement(found["judgement"])]))


def _say(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes:
        judgement = Judgement(outcome["judgement"])
        out.print(f"{outcome['gate_name']}: {judgement.past}", style=_COLOURS[judgement], markup=False, highlight=False)
        for one in outcome["checks"] or [outcome]:
            out.print(f"  {Judgement(one['judgement']).past}: {one['sentence']}", markup=False, highlight=False)


def _find(service: Client, text: str) -> dict[str, Any]:
    """A gate by id or name."""
    if text.startswith("gat_"):
        return service.get(f"/v1/gates/{text}")
    found: list[dict[str, Any]] = [gate for gate in service.get("/v1/gates", limit=1000)["items"] if gate["name"] == text]
    if not found:
        raise ServiceError.at("gate", f"there is no gate named {text!r}", "list them with: assay gate list")
    if len(found) > 1:
        raise ServiceError.at("gate", f"{len(found)} gates are named {text!r}", f"say which by its id: {', '.join(g['id'] for g in found)}")
    return found[0]


def _worded(rule: dict[str, Any]) -> str:
    said = ", ".join(f"{name} {value}" for name, value in rule.items() if name != "kind" and value is not None)
    return f"{rule['kind']}: {said}"


def _last_job(service: Client, schedule: dict[str, Any]) -> str:
    """The job of the last run; a run that made none is no reason to praise the one before."""
    with err.status("waiting for the run to start"):
        last = service.last_run(schedule["id"])
    if last is None:
        raise ServiceError.at("schedule", f"{schedule['name']} has not run yet", f"run it now with: assay schedule run {schedule['name']}")
    if last["job"] is None:
        raise ServiceError.at("schedule", f"the run of {last['scheduled_for']} was {last['state']}: {last['reason']}")
    return str(last["job"])


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ServiceError.at("rules", f"cannot read {path}: {error.strerror}", "check the path") from None
    except ValueError as error:
        raise ServiceError.at("rules", f"{path} is not JSON ({error})", "write a list of rules") from None
    listed: list[dict[str, Any]] = found["rules"] if isinstance(found, dict) and "rules" in found else found
    return listed
