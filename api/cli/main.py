"""The command line `assay`. It parses and talks REST; what computes is a process it starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from api.cli import gates, jobs, keys, ledgers, queries, remote, schedules, tenants, webhooks
from api.cli.console import err, sentences
from api.cli.process import GRACE, PASS_ON, become
from certify.exit_codes import Exit

SERVICE, NIGHTLY, ALONE, RUN = "On a service", "Night after night", "In one process, without a service", "Run a service"


class _Sentences(TyperGroup):
    """A wrong command line is an error like any other: one sentence, exit code 4. Click's own 2 would say that a gate was inconclusive."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except TyperException as error:
            _explain(error)
            code = int(Exit.ERROR)
        except typer.Abort:
            err.print("assay: interrupted")
            code = int(Exit.ERROR)
        if standalone_mode:
            sys.exit(code)
        return code


def _explain(error: TyperException) -> None:
    context, said = getattr(error, "ctx", None), error.format_message()
    if "\n" in said or not said.strip():  # a group without a command: its help was printed or is the message
        err.print(said, markup=False, highlight=False)
        return
    mend = f"; see: {context.command_path} --help" if context else ""
    err.print(f"assay: {said[0].lower()}{said[1:].rstrip('.')}{mend}", markup=False, highlight=False)


app = typer.Typer(
    cls=_Sentences,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    help="Certified robustness as a service. Commands on a service read ASSAY_KEY and ASSAY_URL; most print tables, or JSON with --json."
    " Exit codes: 0 done or passed, 1 refuted or failed, 2 unknown or inconclusive, 3 timeout, 4 error.",
)
app.add_typer(remote.model_app, name="model", rich_help_panel=SERVICE)
app.add_typer(remote.dataset_app, name="dataset", rich_help_panel=SERVICE)
app.add_typer(jobs.app, name="job", rich_help_panel=SERVICE)
app.command("report", rich_help_panel=SERVICE)(jobs.report)
app.command("certificates", rich_help_panel=SERVICE)(queries.certificates)
app.command("compare", rich_help_panel=SERVICE)(queries.compare)
app.add_typer(ledgers.app, name="ledger", rich_help_panel=SERVICE)
app.add_typer(schedules.app, name="schedule", rich_help_panel=NIGHTLY)
app.add_typer(gates.app, name="gate", rich_help_panel=NIGHTLY)
app.add_typer(webhooks.app, name="webhook", rich_help_panel=NIGHTLY)
app.add_typer(keys.app, name="key", rich_help_panel=RUN)
app.add_typer(tenants.app, name="tenant", rich_help_panel=RUN)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"assay {metadata.version('assay')}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it and exit")] = False) -> None:
    pass


@app.command("certify", context_settings=PASS_ON, rich_help_panel=ALONE)
def certify(context: typer.Context) -> None:
    """Certify a model in one process: --model M.onnx --data D.npz --spec spec.json --out results.jsonl."""
    become("workers.local", "certify", *context.args)


@app.command("predict", context_settings=PASS_ON, rich_help_panel=ALONE)
def predict(context: typer.Context) -> None:
    """What the smoothed classifier answers, without a radius: --model M.onnx --data D.npz --sigma 0.25 --out predictions.jsonl."""
    become("workers.predict", *context.args)


@app.command("recompute", context_settings=PASS_ON, rich_help_panel=ALONE)
def recompute(context: typer.Context) -> None:
    """Radii again from stored votes, without a model: --results results.jsonl --out new.jsonl with --alpha, --bound or --error-rate."""
    become("workers.recompute", *context.args)


@app.command("replay", context_settings=PASS_ON, rich_help_panel=ALONE)
def replay(context: typer.Context) -> None:
    """Check a run and draw rows of it again: report.json --model M.onnx --data D.npz, from assay report JOB --out report.json."""
    become("workers.replay", *context.args)


@app.command("calibrate", context_settings=PASS_ON, rich_help_panel=ALONE)
def calibrate(context: typer.Context) -> None:
    """Fit the thresholds of instance-smoothing to other rows: --model M.onnx --data D.npz --spec spec.json --out calibrated.json."""
    become("workers.calibrate", *context.args)


@app.command("export", context_settings=PASS_ON, rich_help_panel=ALONE)
def export(context: typer.Context) -> None:
    """Write a trained torch module as ONNX, checked: PACKAGE.MODULE:FACTORY --weights W.safetensors --input-shape 1,28,28 --out M.onnx."""
    become("workers.export", *context.args)


@app.command("up", rich_help_panel=RUN)
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


@app.command("api", rich_help_panel=RUN)
def api() -> None:
    """Run the API alone."""
    from storage.settings import Settings

    with sentences():
        settings = Settings.load()
    become("uvicorn", "api.app:app", "--host", settings.host, "--port", str(settings.port), "--no-access-log", *GRACE)


@app.command("worker", rich_help_panel=RUN)
def worker() -> None:
    """Run the dispatcher and its workers alone."""
    become("workers.dispatcher")


@app.command("scheduler", rich_help_panel=RUN)
def scheduler() -> None:
    """Run the scheduler alone. Several may run: each tick is fired once."""
    become("workers.scheduler")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
