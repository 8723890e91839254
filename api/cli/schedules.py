"""Schedules: certify again and again, on the clock of a zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from api.cli.console import err, out, say, sentences, show_json, show_table
from api.cli.remote import Json, SpecText, client, read_spec
from api.sdk.client import Client, ServiceError
from api.sdk.progress import shown
from certify.errors import Problem
from certify.exit_codes import Exit
from storage.records_schedules import CatchUp, Overlap

app = typer.Typer(no_args_is_help=True, help="Schedules: certify every night, or whenever cron says, on the clock of a zone.")

Which = Annotated[str, typer.Argument(metavar="SCHEDULE", help="id or name")]
Cron = Annotated[str, typer.Option(help="five fields, such as '0 2 * * *', or @hourly, @daily, @weekly, @monthly, @yearly")]
Zone = Annotated[str, typer.Option(help="zone on whose clock it runs, such as Europe/Berlin")]
Asked = Annotated[
    str, typer.Option(metavar="NAME[@VERSION]|ID", help="NAME or NAME@latest follows the newest version, NAME@3 is version 3")
]
OverlapPolicy = Annotated[Overlap, typer.Option(help="what a tick does while the job before is at work")]
CatchUpPolicy = Annotated[CatchUp, typer.Option(help="which missed ticks are made up for")]
Deadline = Annotated[int | None, typer.Option(metavar="SECONDS", min=1, help="skip a tick that could not be started by then")]
Count = Annotated[int, typer.Option("-n", min=1, max=100, help="how many")]
_LATE = timedelta(minutes=1)


@app.command("add")
def add(
    name: Annotated[str, typer.Option()],
    cron: Cron,
    model: Asked,
    dataset: Asked,
    spec: SpecText,
    zone: Zone = "UTC",
    overlap: OverlapPolicy = Overlap.SKIP,
    catch_up: CatchUpPolicy = CatchUp.LATEST,
    deadline: Deadline = None,
    paused: Annotated[bool, typer.Option("--paused", help="make it without starting it")] = False,
    as_json: Json = False,
) -> None:
    """Make a schedule: --name nightly --cron "0 2 * * *" --zone Europe/Berlin --model mine@latest --dataset test --spec spec.json."""
    with sentences(), client() as service:
        template = {"model": _version("model", model), "dataset": _version("dataset", dataset), "spec": read_spec(spec)}
        policies = {"overlap": overlap, "catch_up": catch_up, "deadline_seconds": deadline, "paused": paused}
        made = service.post("/v1/schedules", {"name": name, "cron": cron, "zone": zone, "template": template, **policies})
        _say(made, as_json)


@app.command("set")
def set_(
    schedule: Which,
    name: Annotated[str | None, typer.Option()] = None,
    cron: Annotated[str | None, typer.Option()] = None,
    zone: Annotated[str | None, typer.Option()] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME[@VERSION]|ID")] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME[@VERSION]|ID")] = None,
    spec: Annotated[str | None, typer.Option(metavar="FILE|JSON")] = None,
    overlap: Annotated[Overlap | None, typer.Option()] = None,
    catch_up: Annotated[CatchUp | None, typer.Option()] = None,
    deadline: Annotated[int | None, typer.Option(metavar="SECONDS", min=0, help="0: no deadline")] = None,
    as_json: Json = False,
) -> None:
    """Change a schedule; what is left out stays."""
    with sentences(), client() as service:
        found = find(service, schedule)
        named = {"name": name, "cron": cron, "zone": zone, "overlap": overlap, "catch_up": catch_up}
        changes: dict[str, Any] = {field: value for field, value in named.items() if value is not None}
        if deadline is not None:
            changes["deadline_seconds"] = deadline or None
        asked: dict[str, Any] = {noun: _version(noun, text) for noun, text in (("model", model), ("dataset", dataset)) if text is not None}
        if spec is not None:
            asked["spec"] = read_spec(spec)
        if asked:
            changes["template"] = {**found["template"], **asked}
        _say(service.patch(f"/v1/schedules/{found['id']}", changes, revision=found["revision"]), as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Schedules, newest first."""
    with sentences(), client() as service:
        items = service.get("/v1/schedules", limit=100)["items"]
        if as_json:
            show_json(items)
            return
        rows = [(s["id"], s["name"], s["english"], s["zone"], _next(s), _named(s["template"]["model"])) for s in items]
        show_table(("id", "name", "when", "zone", "next", "model"), rows)
        _warn(items)


@app.command("show")
def show(schedule: Which, as_json: Json = False) -> None:
    """A schedule with its next ticks and its last runs."""
    with sentences(), client() as service:
        found = find(service, schedule)
        if as_json:
            show_json(found)
            return
        asked, deadline = found["template"], found["deadline_seconds"]
        rows = [("id", found["id"]), ("name", found["name"]), ("when", f"{found['english']} ({found['cron']}), {found['zone']}")]
        rows += [("next", _next(found)), ("model", _named(asked["model"])), ("dataset", _named(asked["dataset"]))]
        rows += [("overlap", found["overlap"]), ("catch-up", found["catch_up"]), ("deadline", f"{deadline} s" if deadline else "none")]
        show_table(("", ""), rows)
        _history(service, found, 5)
        _warn([found])


@app.command("pause")
def pause(schedule: Which, as_json: Json = False) -> None:
    """No more ticks until it is resumed."""
    with sentences(), client() as service:
        paused = service.post(f"/v1/schedules/{find(service, schedule)['id']}/pause")
        say(paused, f"{paused['name']} is paused", as_json)


@app.command("resume")
def resume(schedule: Which, as_json: Json = False) -> None:
    """Tick again from now on; what was missed meanwhile is not made up for."""
    with sentences(), client() as service:
        _say(service.post(f"/v1/schedules/{find(service, schedule)['id']}/resume"), as_json)


@app.command("run")
def run(
    schedule: Which, wait: Annotated[bool, typer.Option("--wait", help="until its job has ended")] = False, as_json: Json = False
) -> None:
    """Run it now, also while it is paused, and print its job."""
    with sentences(), client() as service:
        made = service.post(f"/v1/schedules/{find(service, schedule)['id']}/run")
        if wait:
            made = _waited(service, made)
        if as_json:
            show_json(made)
        else:
            err.print(f"{made['state']}: {made['reason']}", markup=False, highlight=False)
            if made["job"]:
                typer.echo(made["job"])
        if made["state"] in ("skipped", "failed"):
            raise typer.Exit(Exit.ERROR)


def _waited(service: Client, made: dict[str, Any]) -> dict[str, Any]:
    """The run, once its job has succeeded."""
    if made["state"] == "waiting":
        with err.status("waiting for the run to start"):
            made = service.last_run(made["schedule"]) or made
    if made["job"]:
        with shown(err) as tell:
            job = service.watch(made["job"], tell)
        if job["state"] != "succeeded":
            unsaid = Problem(field="job", detail=f"{job['id']} {job['state']}", mend="run it again")
            raise ServiceError(*([Problem(**problem) for problem in job["error"]] or [unsaid]))
    return made


@app.command("history")
def history(schedule: Which, n: Count = 20, as_json: Json = False) -> None:
    """What became of its ticks, and why, latest first."""
    with sentences(), client() as service:
        found = find(service, schedule)
        if as_json:
            show_json(service.get(f"/v1/schedules/{found['id']}/runs", limit=n)["items"])
        else:
            _history(service, found, n)


@app.command("preview")
def preview(
    schedule: Annotated[str | None, typer.Argument(metavar="[SCHEDULE]", help="id or name; or give --cron")] = None,
    cron: Annotated[str | None, typer.Option()] = None,
    zone: Annotated[str, typer.Option()] = "UTC",
    n: Count = 10,
    after: Annotated[str | None, typer.Option(metavar="2027-03-27T00:00:00Z", help="ticks after this moment; now when left out")] = None,
    as_json: Json = False,
) -> None:
    """When a schedule will run, or when one would: --cron "30 2 * * *" --zone Europe/Berlin."""
    with sentences(), client() as service:
        if schedule is not None:
            found = service.get(f"/v1/schedules/{find(service, schedule)['id']}/preview", n=n, after=after)
        elif cron is not None:
            found = service.get("/v1/schedules/preview", cron=cron, zone=zone, n=n, after=after)
        else:
            raise ServiceError.at("schedule", "is missing", "name a schedule, or give --cron and --zone")
        if as_json:
            show_json(found)
            return
        out.print(f"{found['english']}, {found['zone']}", markup=False, highlight=False)
        show_table(("on the clock there", "UTC"), [(tick["local"], tick["at"]) for tick in found["ticks"]])


@app.command("remove")
def remove(schedule: Which, as_json: Json = False) -> None:
    """Remove a schedule with its history and its gates; its jobs stay."""
    with sentences(), client() as service:
        found = find(service, schedule)
        service.delete(f"/v1/schedules/{found['id']}")
        say({"id": found["id"], "removed": True}, f"{found['name']} is removed", as_json)


def find(service: Client, text: str) -> dict[str, Any]:
    """A schedule by id or name."""
    if text.startswith("sch_"):
        return service.get(f"/v1/schedules/{text}")
    items = service.get("/v1/schedules", name=text, limit=1)["items"]
    if not items:
        raise ServiceError.at("schedule", f"there is no schedule named {text!r}", "list them with: assay schedule list")
    found: dict[str, Any] = items[0]
    return found


def _version(noun: str, text: str) -> dict[str, Any]:
    """`mine`, `mine@latest`, `mine@3` or an id, as the service reads it."""
    if text.startswith(("mdl_", "dat_")):
        return {"id": text}
    name, _, version = text.partition("@")
    if version in ("", "latest"):
        return {"name": name, "version": "latest"}
    if not (version.isascii() and version.isdigit()):
        raise ServiceError.at(noun, f"{text!r} names no version", f"write {name}@latest or, for one version, {name}@3")
    return {"name": name, "version": int(version)}


def _named(version: dict[str, Any]) -> str:
    return version["id"] or f"{version['name']}@{version['version']}"


def _say(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(made)
        return
    err.print(f"{made['english']}, {made['zone']}; next: {_next(made)}", markup=False, highlight=False)
    typer.echo(made["id"])


def _next(schedule: dict[str, Any]) -> str:
    if schedule["next_at"] is None:
        return "paused" if schedule["paused"] else "never"
    return _local(schedule["next_at"], schedule["zone"])


def _local(moment: str, zone: str) -> str:
    try:
        return f"{datetime.fromisoformat(moment).astimezone(ZoneInfo(zone)):%a %Y-%m-%d %H:%M %Z}"
    except (ZoneInfoNotFoundError, ValueError):  # this machine may not know the zone
        return f"{moment} UTC"


def _history(service: Client, schedule: dict[str, Any], n: int) -> None:
    runs = service.get(f"/v1/schedules/{schedule['id']}/runs", limit=n)["items"]
    rows = [
        (_local(r["scheduled_for"], schedule["zone"]) + (", by hand" if r["manual"] else ""), r["state"], r["job"] or "", r["reason"])
        for r in runs
    ]
    show_table(("tick", "state", "job", "reason"), rows, "Runs, latest first")


def _warn(schedules: list[dict[str, Any]]) -> None:
    late = [s["name"] for s in schedules if s["next_at"] and datetime.now(UTC) - datetime.fromisoformat(s["next_at"]) > _LATE]
    if late:
        err.print(f"assay: {', '.join(late)} should have run; is a scheduler at work? start one with: assay scheduler", markup=False)
