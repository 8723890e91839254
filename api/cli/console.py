"""How the command line speaks: tables and sentences, errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from certify.errors import AssayError
from certify.exit_codes import Exit
from certify.text import printable, printable_lines

_WIDEST = 10_000


class _Console(Console):
    """Nothing in a text that it prints steers the terminal: names come from files and from other users."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable_lines(o) if isinstance(o, str) else o for o in objects), **options)


out = _Console(soft_wrap=True)
err = _Console(stderr=True, soft_wrap=True)


@contextmanager
def sentences() -> Iterator[None]:
    """Errors become one sentence on stderr and exit code 4."""
    try:
        yield
    except AssayError as error:
        err.print(f"assay: {printable(str(error))}", markup=False, highlight=False)
        raise typer.Exit(Exit.ERROR) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        err.print(f"assay: {where}{error.strerror or error}", markup=False, highlight=False)
        raise typer.Exit(Exit.ERROR) from None
    except KeyboardInterrupt:
        err.print("assay: interrupted")
        raise typer.Exit(Exit.ERROR) from None


def show_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def say(value: Any, sentence: object, as_json: bool) -> None:
    """What was done: a sentence for people, or JSON for programs."""
    if as_json:
        show_json(value)
    else:
        out.print(str(sentence), markup=False, highlight=False)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    table = Table(*columns, title=printable(title) or None, title_justify="left", show_header=any(columns))
    for row in rows:
        table.add_row(*(escape(printable_lines(str(cell))) for cell in row))  # names come from uploaded files
    if out.is_terminal:
        out.print(table)
        return
    # Into a file or another program, where nothing may be cut.
    width = Measurement.get(out, out.options.update(max_width=_WIDEST), table).maximum
    Console(width=max(width, out.width)).print(table)
