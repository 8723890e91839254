"""Commands that talk to a service: models, datasets, jobs, reports."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.console import err, out, sentences, show_json, show_table
from api.cli.facts import show_artifact
from api.cli.process import PASS_ON, become, run
from api.sdk.client import Client, ServiceError
from api.sdk.progress import shown
from certify.errors import ModelRejected, Problem
from certify.exit_codes import Exit, Requirement, check_gates, exit_code
from certify.findings import parse_finding
from certify.report import CertifierReport, Report
from certify.rounding import show_share
from certify.spec import parse_spec

model_app = typer.Typer(no_args_is_help=True, help="Models by name and version: ONNX files, or torch modules exported here.")
dataset_app = typer.Typer(
    no_args_is_help=True,
    help="Datasets by name and version: .npz, .npy, .safetensors or Parquet files; pack makes one from a folder of images.",
)
job_app = typer.Typer(no_args_is_help=True, help="Jobs: one model, one dataset, one spec.")

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Require = Annotated[
    list[str] | None, typer.Option("--require", metavar="SHARE@RADIUS", help="a gate on certified accuracy, such as 0.60@0.25")
]
_RADII = 7


def client() -> Client:
    key = os.environ.get("ASSAY_KEY", "")
    if not key:
        raise ServiceError.at("ASSAY_KEY", "is not set", "export the key that assay up printed, or make one with: assay key create")
    return Client(os.environ.get("ASSAY_URL", "http://127.0.0.1:8000"), key)


@model_app.command("add")
def add_model(
    source: Annotated[str, typer.Argument(metavar="M.onnx|PACKAGE.MODULE:FACTORY|ARCHITECTURE")],
    name: Annotated[str, typer.Option()],
    value_range: Annotated[str | None, typer.Option("--range", metavar="LOW,HIGH", help="range of raw input values")] = None,
    input_shape: Annotated[str | None, typer.Option(metavar="1,28,28", help="export a torch module first; see assay export")] = None,
    weights: Annotated[str | None, typer.Option(metavar="W.safetensors")] = None,
    classes: Annotated[str | None, typer.Option(help="number of classes of an architecture")] = None,
    mean: Annotated[str | None, typer.Option(help="put (x - mean) / std in front")] = None,
    std: Annotated[str | None, typer.Option()] = None,
    class_names: Annotated[str | None, typer.Option(metavar="cat,dog,...")] = None,
    opset: Annotated[str | None, typer.Option(help="version of the ONNX operators")] = None,
    arg: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="an argument of FACTORY")] = None,
    as_json: Json = False,
) -> None:
    """Upload a model and wait until a worker has inspected it: an ONNX file, or a torch module that is exported here first."""
    wanted = {"weights": weights, "classes": classes, "mean": mean, "std": std, "class-names": class_names, "opset": opset}
    given = [f"--{key}={value}" for key, value in wanted.items() if value is not None] + [f"--arg={pair}" for pair in arg or ()]
    with sentences(), tempfile.TemporaryDirectory() as folder, client() as service:
        if input_shape is not None:
            given += [f"--input-shape={input_shape}"] + ([f"--range={value_range}"] if value_range else [])
            file = _exported(source, given, Path(folder) / "model.onnx")
        else:
            file = _file(source, given)
        added = service.add_model(name, file, _range(value_range))
        _inspected(service, "models", added["id"], as_json)


def _exported(source: str, options: list[str], out_file: Path) -> Path:
    code = run("workers.export", source, f"--out={out_file}", *options)
    if code:
        raise typer.Exit(code)
    return out_file


def _file(source: str, options: list[str]) -> Path:
    """The ONNX file to send as it is; options of an export would change nothing in it, and are never passed over in silence."""
    path = Path(source)
    if options and path.exists():
        raise ServiceError.at(options[0].partition("=")[0], "is for torch modules; an ONNX file is sent as it is", "leave it out")
    if options or not (path.exists() or path.suffix == ".onnx"):
        detail = f"is needed to export {source}, which is no file"
        raise ServiceError.at("input-shape", detail, "give the shape of one input: --input-shape 3,32,32")
    return path


@dataset_app.command("add")
def add_dataset(file: Path, name: Annotated[str, typer.Option()], as_json: Json = False) -> None:
    """Upload a dataset and wait until a worker has inspected it."""
    with sentences(), client() as service:
        _inspected(service, "datasets", service.add_dataset(name, file)["id"], as_json)


@dataset_app.command("pack", context_settings=PASS_ON)
def pack_dataset(context: typer.Context) -> None:
    """Make an .npz of a folder of images, a Parquet file or two .npy files: FOLDER --out D.npz [--size H,W] [--grey] [--limit N]."""
    become("workers.pack", *context.args)


@model_app.command("list")
def list_models(as_json: Json = False) -> None:
    """Models, newest first."""
    _list("models", as_json)


@dataset_app.command("list")
def list_datasets(as_json: Json = False) -> None:
    """Datasets, newest first."""
    _list("datasets", as_json)


@model_app.command("show")
def show_model(model: str, as_json: Json = False) -> None:
    """A model's facts, by id or name."""
    with sentences(), client() as service:
        _show_artifact(service.get(f"/v1/models/{resolve(service, 'models', model)}"), as_json)


@dataset_app.command("show")
def show_dataset(dataset: str, as_json: Json = False) -> None:
    """A dataset's facts, by id or name."""
    with sentences(), client() as service:
        _show_artifact(service.get(f"/v1/datasets/{resolve(service, 'datasets', dataset)}"), as_json)


@job_app.command("submit")
def submit(
    model: Annotated[str, typer.Option(help="id or name")],
    dataset: Annotated[str, typer.Option(help="id or name")],
    spec: Annotated[Path, typer.Option(help="JSON file")],
    name: Annotated[str, typer.Option()] = "",
    watch: Annotated[bool, typer.Option("--watch", help="follow the job to its end")] = False,
    require: Require = None,
    as_json: Json = False,
) -> None:
    """Submit a job."""
    with sentences(), client() as service:
        gates = [Requirement.parse(text) for text in require or ()]
        wanted = read_spec(spec)
        job = service.submit(resolve(service, "models", model), resolve(service, "datasets", dataset), wanted, name)
        if job["reused"]:
            err.print(f"unchanged since {job['created_at']}: {job['id']} already answers this")
        if watch:
            raise typer.Exit(_watch(service, job["id"], gates))
        show_json(job) if as_json else typer.echo(job["id"])


@job_app.command("watch")
def watch(job_id: str, require: Require = None) -> None:
    """Follow a job to its end; the exit code says what became of it."""
    with sentences(), client() as service:
        raise typer.Exit(_watch(service, job_id, [Requirement.parse(text) for text in require or ()]))


@job_app.command("list")
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


@job_app.command("show")
def show_job(job_id: str) -> None:
    """Everything about a job."""
    with sentences(), client() as service:
        show_json(service.get(f"/v1/jobs/{job_id}"))


@job_app.command("cancel")
def cancel(job_id: str) -> None:
    """Ask a job to stop; what is finished is kept."""
    with sentences(), client() as service:
        typer.echo(service.post(f"/v1/jobs/{job_id}/cancel")["state"])


@job_app.command("results")
def results(job_id: str, out_file: Annotated[Path | None, typer.Option("--out", help="write to a file")] = None) -> None:
    """All certificates and attack results as JSON lines."""
    with sentences(), client() as service:
        lines = "".join(f"{line}\n" for line in service.results(job_id))
        if out_file is None:
            typer.echo(lines, nl=False)
        else:
            out_file.write_text(lines)


def report(
    job_id: str,
    html: Annotated[Path | None, typer.Option(help="write the page to a file")] = None,
    shape: Annotated[
        str, typer.Option("--format", metavar="table|latex|mlflow", help="rows of a LaTeX table, or metrics for MLflow")
    ] = "table",
    radius: Annotated[list[float] | None, typer.Option(min=0.0, help="where, for latex and mlflow")] = None,
    as_json: Json = False,
) -> None:
    """The certified-accuracy report of a job: a table, JSON, one HTML page, or what other tools read."""
    with sentences(), client() as service:
        if shape != "table":
            for line in service.lines(f"/v1/jobs/{job_id}/report", format=shape, radius=radius or None):
                typer.echo(line)
            return
        found = service.get(f"/v1/jobs/{job_id}/report")
        if html is not None:
            html.write_text(service.report_html(job_id))
            err.print(f"wrote {html}")
        if as_json:
            show_json(found)
        else:
            _show_report(Report.model_validate(found["report"]))


def _inspected(service: Client, noun: str, artifact_id: str, as_json: bool) -> None:
    with err.status("waiting for a worker to inspect it"):
        found = service.inspected(noun, artifact_id)
    if found["state"] == "rejected":
        raise ModelRejected(*(Problem(**problem) for problem in found["rejection"]))
    _show_artifact(found, as_json)


def _show_artifact(found: dict[str, Any], as_json: bool) -> None:
    show_json(found) if as_json else show_artifact(found)


def _list(noun: str, as_json: bool) -> None:
    with sentences(), client() as service:
        items = service.get(f"/v1/{noun}", limit=100)["items"]
        if as_json:
            show_json(items)
        else:
            show_table(
                ("id", "name", "version", "state", "created"),
                [(i["id"], i["name"], i["version"], i["state"], i["created_at"]) for i in items],
            )


def resolve(service: Client, noun: str, text: str) -> str:
    """An id as it is; a name as its newest version."""
    if text.startswith(("mdl_", "dat_")):
        return text
    items = service.get(f"/v1/{noun}", name=text, limit=1)["items"]
    if not items:
        raise ServiceError.at(noun[:-1], f"there is no {noun[:-1]} named {text!r}", f"list them with: assay {noun[:-1]} list")
    return str(items[0]["id"])


def _watch(service: Client, job_id: str, gates: list[Requirement]) -> int:
    with shown(err) as tell:
        job = service.watch(job_id, tell)
    return _ended(service, job, gates)


def _ended(service: Client, job: dict[str, Any], gates: list[Requirement]) -> int:
    for problem in job["error"]:
        err.print(f"assay: {Problem(**problem).sentence()}", markup=False, highlight=False)
    if job["state"] != "succeeded":
        err.print(f"{job['id']} {job['state']}")
        return Exit.ERROR
    findings = [parse_finding(line) for line in service.results(job["id"])]
    _show_report(Report.model_validate(service.get(f"/v1/jobs/{job['id']}/report")["report"]))
    typer.echo(job["id"])
    code, checked = exit_code(parse_spec(job["spec"]), findings), check_gates(gates, findings)
    for gate in checked:
        err.print(gate.sentence, highlight=False)
    if gates and code is not Exit.ERROR:
        return Exit.DONE if all(gate.passed for gate in checked) else Exit.REFUTED
    return code


def _show_report(found: Report) -> None:
    for certifier in found.certifiers:
        title = f"{certifier.title}, statement {certifier.statement}: {certifier.examples} examples"
        if certifier.reaches:
            _show_curve(certifier, title)
        else:
            out.print(f"{title}\n{certifier.note}", markup=False, highlight=False)
        out.print(
            f"answered correctly {show_share(certifier.clean_accuracy)}; "
            + ", ".join(f"{v}: {n}" for v, n in certifier.verdicts.items())
            + "\n"
        )


def _show_curve(certifier: CertifierReport, title: str) -> None:
    radii, points = zip(*certifier.shown(_RADII), strict=True)
    show_table(("radius", *radii), [("certified accuracy", *(show_share(p.certified_accuracy) for p in points))], title)
    if certifier.note:
        out.print(certifier.note, markup=False, highlight=False)


def read_spec(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise ServiceError.at("spec", f"cannot read {path}: {error.strerror}", "check the path") from None
    parse_spec(text)
    found: dict[str, Any] = json.loads(text)
    return found


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ServiceError.at("range", f"{text!r} is not LOW,HIGH", "write for example --range 0,1") from None
    return low, high
