"""The command line `assay`. It parses and talks REST; what computes is a process it starts."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Annotated

import typer

from api.cli import gates, keys, queries, remote, schedules, tenants, webhooks
from api.cli.console import sentences
from api.cli.process import GRACE, PASS_ON, become

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=True, help="Certified robustness as a service.")
app.add_typer(remote.model_app, name="model")
app.add_typer(remote.dataset_app, name="dataset")
app.add_typer(remote.job_app, name="job")
app.add_typer(schedules.app, name="schedule")
app.add_typer(gates.app, name="gate")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(keys.app, name="key")
app.add_typer(tenants.app, name="tenant")
app.command("report")(remote.report)
app.command("certificates")(queries.certificates)
app.command("compare")(queries.compare)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"assay {metadata.version('assay')}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Certified robustness as a service."""


@app.command("certify", context_settings=PASS_ON)
def certify(context: typer.Context) -> None:
    """Certify a model in one process: --model M.onnx --data D.npz --spec spec.json --out results.jsonl."""
    become("workers.local", "certify", *context.args)


@app.command("predict", context_settings=PASS_ON)
def predict(context: typer.Context) -> None:
    """What the smoothed classifier answers, without a radius: --model M.onnx --data D.npz --sigma 0.25 --out predictions.jsonl."""
    become("workers.predict", *context.args)


@app.command("recompute", context_settings=PASS_ON)
def recompute(context: typer.Context) -> None:
    """Radii again from stored votes, exploratory: --results results.jsonl --out new.jsonl [--alpha A] [--bound B] [--error-rate E]."""
    become("workers.recompute", *context.args)


@app.command("export", context_settings=PASS_ON)
def export(context: typer.Context) -> None:
    """Write a trained torch module as ONNX, checked: PACKAGE.MODULE:FACTORY --weights W.safetensors --input-shape 1,28,28 --out M.onnx."""
    become("workers.export", *context.args)


@app.command("up")
def up(
    home: Annotated[str | None, typer.Option(help="folder for the database and the files")] = None,
    host: Annotated[str | None, typer.Option()] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535)] = None,
) -> None:
    """Run the whole service here: API, scheduler and workers, SQLite and a local Ray."""
    for name, value in (("ASSAY_HOME", home), ("ASSAY_HOST", host), ("ASSAY_PORT", port)):
        if value is not None:
            os.environ[name] = str(value)
    from api.cli.up import run

    with sentences():
        raise typer.Exit(run())


@app.command("api")
def api() -> None:
    """Run the API alone."""
    from storage.settings import Settings

    with sentences():
        settings = Settings.load()
    become("uvicorn", "api.app:app", "--host", settings.host, "--port", str(settings.port), "--no-access-log", *GRACE)


@app.command("worker")
def worker() -> None:
    """Run the dispatcher and its workers alone."""
    become("workers.dispatcher")


@app.command("scheduler")
def scheduler() -> None:
    """Run the scheduler alone. Several may run: each tick is fired once."""
    become("workers.scheduler")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
