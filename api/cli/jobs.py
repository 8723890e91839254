"""Jobs: submitted, watched, shown; their results and reports."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.console import err, out, say, sentences, show_json, show_table
from api.cli.remote import Json, Require, SpecText, client, read_spec, resolve
from api.sdk.client import Client, ServiceError
from api.sdk.progress import shown
from certify.errors import Problem
from certify.exit_codes import Exit, Requirement, check_gates, ended, exit_code, strongest
from certify.findings import parse_finding
from certify.report import AttackReport, CertifierReport, Report, partial_words
from certify.rounding import show_share, show_share_upper
from certify.spec import parse_spec
from certify.verdict import verdict_words

app = typer.Typer(no_args_is_help=True, help="Jobs: one model, one dataset, one spec.")
_RADII = 7


@app.command("submit")
def submit(
    model: Annotated[str, typer.Option(metavar="NAME[@VERSION]|ID", help="a name means its newest version")],
    dataset: Annotated[str, typer.Option(metavar="NAME[@VERSION]|ID")],
    spec: SpecText,
    name: Annotated[str, typer.Option(help="what to call it in lists")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="follow the job to its end")] = False,
    require: Require = None,
    as_json: Json = False,
) -> None:
    """Submit a job and print its id; with --watch, its report. An unchanged question is answered by the job that is there already."""
    with sentences(), client() as service:
        gates = [Requirement.parse(text) for text in require or ()]
        wanted = read_spec(spec)
        job = service.submit(resolve(service, "models", model), resolve(service, "datasets", dataset), wanted, name)
        if job["reused"]:
            err.print(f"unchanged since {job['created_at']}: {job['id']} already answers this")
        if watch:
            raise typer.Exit(_watch(service, job["id"], gates, as_json))
        show_json(job) if as_json else typer.echo(job["id"])


@app.command("watch")
def watch(job_id: str, require: Require = None, as_json: Json = False) -> None:
    """Follow a job to its end; the exit code says what became of it."""
    with sentences(), client() as service:
        raise typer.Exit(_watch(service, job_id, [Requirement.parse(text) for text in require or ()], as_json))


@app.command("list")
def list_jobs(as_json: Json = False) -> None:
    """Jobs, newest first."""
    with sentences(), client() as service:
        jobs = service.get("/v1/jobs", limit=100)["items"]
        if as_json:
            show_json(jobs)
            return
        rows = [
            (j["id"], j["name"], j["state"], f"{j['progress']['certificates_done']}/{j['progress']['certificates_total']}", j["created_at"])
            for j in jobs
        ]
        show_table(("id", "name", "state", "certificates", "created"), rows)


@app.command("show")
def show_job(job_id: str, as_json: Json = False) -> None:
    """What a job asks and how far it is; --json shows everything about it."""
    with sentences(), client() as service:
        found = service.get(f"/v1/jobs/{job_id}")
        show_json(found) if as_json else show_table(("", ""), _rows(found))


@app.command("cancel")
def cancel(job_id: str, as_json: Json = False) -> None:
    """Ask a job to stop; what is finished is kept."""
    with sentences(), client() as service:
        found = service.post(f"/v1/jobs/{job_id}/cancel")
        say(found, found["state"], as_json)


@app.command("results")
def results(job_id: str, out_file: Annotated[Path | None, typer.Option("--out", help="write to a file")] = None) -> None:
    """All certificates and attack results as JSON lines. Exit code as of `assay report` once the job has ended."""
    with sentences(), client() as service:
        job = service.get(f"/v1/jobs/{job_id}")
        lines = "".join(f"{line}\n" for line in service.results(job_id))
        if out_file is None:
            typer.echo(lines, nl=False)
        else:
            out_file.write_text(lines)
        if job["finished_at"] and job["state"] != "succeeded":
            err.print(f"{job_id} {_partial(job)}", highlight=False)
            raise typer.Exit(ended(job["state"]))


def _rows(job: dict[str, Any]) -> list[tuple[str, object]]:
    progress, asked = job["progress"], ", ".join(f"{c['kind']} ({c['norm']})" for c in job["spec"]["certifiers"])
    rows = [("id", job["id"]), ("name", job["name"]), ("state", job["state"]), ("model", job["model"]), ("dataset", job["dataset"])]
    done = f"{progress['certificates_done']} of {progress['certificates_total']}{verdict_words(progress['verdicts'])}"
    rows += [("certifiers", asked), ("answers", done)]
    rows += [(name, job[f"{name}_at"] or "not yet") for name in ("created", "started", "finished")]
    rows += [("waits for", job["condition"])] if job["condition"] else []
    rows += [("part", _partial(job))] if job["finished_at"] and job["state"] != "succeeded" else []
    return [*rows, *(("error", Problem(**problem).sentence()) for problem in job["error"])]


def report(
    job_id: str,
    html: Annotated[Path | None, typer.Option(help="write the page to a file")] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="write the report with all rows to a file, for assay replay")] = None,
    shape: Annotated[
        str, typer.Option("--format", metavar="table|latex|mlflow", help="rows of a LaTeX table, or metrics for MLflow")
    ] = "table",
    radius: Annotated[list[float] | None, typer.Option(min=0.0, help="where, for latex and mlflow")] = None,
    as_json: Json = False,
) -> None:
    """The certified-accuracy report of a job: a table, JSON, one HTML page, or what other tools read.

    Exit code 0 only for a job that succeeded: 2 for one that was cancelled, 4 for one that failed, whatever there is of it.
    """
    with sentences(), client() as service:
        found = service.get(f"/v1/jobs/{job_id}/report")
        code = ended(found["job"]["state"])
        if found["partial"]:
            err.print(f"{job_id} {found['partial_words']}", highlight=False)
        if shape != "table":
            for line in service.lines(f"/v1/jobs/{job_id}/report", format=shape, radius=radius or None):
                typer.echo(line)
            raise typer.Exit(code)
        if html is not None:
            html.write_text(service.report_html(job_id))
            err.print(f"wrote {html}")
        if out_file is not None:
            rows = [json.loads(line) for line in service.results(job_id)]
            out_file.write_text(json.dumps({**found, "results": rows}))
            err.print(f"wrote {out_file}")
        if as_json:
            show_json(found)
        else:
            _show_report(Report.model_validate(found["report"]))
        raise typer.Exit(code)


def _watch(service: Client, job_id: str, gates: list[Requirement], as_json: bool) -> int:
    with shown(err) as tell:
        job = service.watch(job_id, tell)
    return _ended(service, job, gates, as_json)


def _ended(service: Client, job: dict[str, Any], gates: list[Requirement], as_json: bool) -> int:
    if as_json:
        show_json(job)
    for problem in job["error"]:
        err.print(f"assay: {Problem(**problem).sentence()}", markup=False, highlight=False)
    if job["state"] != "succeeded":
        return _unfinished(service, job, as_json)
    findings = [parse_finding(line) for line in service.results(job["id"])]
    if not as_json:
        _show_report(Report.model_validate(service.get(f"/v1/jobs/{job['id']}/report")["report"]))
        typer.echo(job["id"])
    code, checked = exit_code(parse_spec(job["spec"]), findings), check_gates(gates, findings)
    for gate in checked:
        err.print(gate.sentence, highlight=False)
    if gates and code is not Exit.ERROR:
        return strongest(gate.code for gate in checked)
    return code


def _unfinished(service: Client, job: dict[str, Any], as_json: bool) -> int:
    """What there is of a job that did not succeed, named as a part; never the exit code of a success."""
    err.print(f"{job['id']} {_partial(job)}", highlight=False)
    done = job["progress"]["certificates_done"]
    if done and not as_json:
        with suppress(ServiceError):  # one that failed early has no report
            _show_report(Report.model_validate(service.get(f"/v1/jobs/{job['id']}/report")["report"]))
    return ended(job["state"])


def _partial(job: dict[str, Any]) -> str:
    progress = job["progress"]
    return partial_words(progress["certificates_done"], progress["certificates_total"], job["state"])


def _show_report(found: Report) -> None:
    for sentence in found.runtime:
        out.print(f"{sentence}\n", markup=False, highlight=False)
    for certifier in found.certifiers:
        title = f"{certifier.title}, statement {certifier.statement}: {certifier.basis.removeprefix('all ')}"
        if certifier.reaches:
            _show_curve(certifier, title)
        else:
            out.print(f"{title}\n{certifier.note}", markup=False, highlight=False)
        out.print(f"answered correctly {certifier.correct_words}; " + ", ".join(f"{v}: {n}" for v, n in certifier.verdicts.items()) + "\n")
    for attack in found.attacks:
        _show_attack(attack)


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{show_share(low)} to {show_share_upper(high)}"


def _show_attack(attack: AttackReport) -> None:
    radii, shares = zip(*attack.shown(_RADII), strict=True)
    title = f"{attack.title}, not a certificate: {attack.basis.removeprefix('all ')}"
    show_table(("radius", *radii), [("correct, no attack found", *map(show_share_upper, shares))], title)
    out.print(f"answered correctly {attack.correct_words}; counterexamples found: {attack.found}\n", highlight=False)


def _show_curve(certifier: CertifierReport, title: str) -> None:
    radii, points = zip(*certifier.shown(_RADII), strict=True)
    rows = [("certified accuracy", *(show_share(p.certified_accuracy) for p in points))]
    rows.append(("95 % pointwise", *(_ends(p.low, p.high) for p in points)))
    rows.append(("95 % simultaneous", *(_ends(p.low_simultaneous, p.high_simultaneous) for p in points)))
    show_table(("radius", *radii), rows, title)
    if certifier.note:
        out.print(certifier.note, markup=False, highlight=False)
