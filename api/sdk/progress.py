"""A job's progress on the terminal: how far, how fast, how long still, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from certify.verdict import verdict_words

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    TextColumn("done"),
    MofNCompleteColumn(separator=" of "),
    TextColumn("{task.fields[verdicts]}{task.fields[pace]}"),
    TimeElapsedColumn(),
)


@contextmanager
def shown(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar that follows what it is told of a job: how many rows are done, and what became of those that are stored."""
    with Progress(*_COLUMNS, console=console, transient=False) as bar:
        task = bar.add_task("done", total=None, pace="", verdicts="")

        def tell(job: dict[str, Any]) -> None:
            progress = job["progress"]
            bar.update(
                task,
                total=progress["certificates_total"],
                completed=progress["certificates_done"],
                description=job["condition"] or job["state"],
                verdicts=verdict_words(progress.get("verdicts") or {}).strip(),
                pace=_pace(progress),
            )

        yield tell


def _pace(progress: dict[str, Any]) -> str:
    if progress["rate"] is None:
        return ""
    left = "" if progress["eta_seconds"] is None else f", {progress['eta_seconds']:.0f} s left"
    return f" {progress['rate']:.1f}/s{left}"
