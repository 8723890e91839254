"""What the commands that compute share: one sentence for every error, files read by name, files that appear whole or not at all."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from certify.errors import AssayError, InputError, Problem
from certify.exit_codes import Exit
from certify.text import printable


class Parser(argparse.ArgumentParser):
    """Wrong options are one sentence too, and exit code 4."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"assay: {message}; see {self.prog} --help\n")
        raise SystemExit(Exit.ERROR)


def answered(work: Callable[[], int]) -> int:
    """The exit code of `work`; whatever goes wrong in it becomes one sentence on stderr and exit code 4."""
    try:
        return work()
    except AssayError as error:
        sys.stderr.write(f"assay: {printable(str(error))}\n")
    except KeyboardInterrupt:
        sys.stderr.write("assay: interrupted; nothing was written\n")
    except Exception as error:
        said = printable(" ".join(str(error).split()), 300)
        sys.stderr.write(f"assay: this failed with {type(error).__name__}: {said}; nothing was written\n")
    return Exit.ERROR


def wrong(field: str, detail: str, mend: str) -> InputError:
    return InputError(Problem(field=field, detail=detail, mend=mend))


def read_file(path: str, field: str) -> bytes:
    """
    Raises:
        InputError: the file of this option cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise wrong(field, f"cannot read {path}: {error.strerror}", "check the path") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; the file is moved to `path` when all went well, and is gone otherwise.

    Raises:
        InputError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise wrong("out", f"cannot write {path}: {error.strerror}", "check the path") from None
    finally:
        draft.unlink(missing_ok=True)
