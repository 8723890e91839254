"""Runs the inspector: a fresh process with limits. A refusal is about the file; a crash or a lack of time is never said of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from certify.errors import AssayError, Cancelled, DatasetRejected, ModelRejected, Problem
from certify.facts import DatasetFacts, ModelFacts
from certify.text import printable
from storage.records import InspectionLease

# The inspector needs nothing of ours: no database, no secret, no keys.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH")
_LOOK_SECONDS = 0.2
_BYTES_PER_SECOND = 2**22  # of computing; a slow core reads a dataset ten times as fast
_IDLE_SECONDS = 120.0
_WALL = 20  # times the computing allowed; only where the system does not tell what a process has computed


class Uninspected(AssayError):
    """Nothing was found out about the bytes: the reader ran out of time, was ended or failed. Another try may go well."""

    code = "not-inspected"


def inspect(
    lease: InspectionLease,
    file: IO[bytes],
    seconds: float,
    should_stop: Callable[[], bool] = lambda: False,
    idle: float = _IDLE_SECONDS,
) -> ModelFacts | DatasetFacts:
    """Facts about uploaded bytes.

    What counts is what the reader has computed, not how long it took: on a machine that does other things too, it may take long.

    Args:
        lease: of the inspection.
        file: the bytes, from the descriptor's place on; the reader gets the descriptor itself, so no byte goes through this process.
        seconds: of computing that the reader may use, on top of one for each 4 MiB.
        should_stop: asked several times a second.
        idle: seconds in which a reader that computes nothing at all is given up.

    Raises:
        Cancelled: `should_stop` answered true; nothing is known about the bytes.
        Uninspected: there is no answer, for a reason that is not the bytes'.
        ModelRejected, DatasetRejected: the bytes cannot be used; the reason is in the problems.
    """
    allowed = max(1, round(seconds + os.fstat(file.fileno()).st_size / _BYTES_PER_SECOND))
    output = _answer(_start(lease, file, allowed), allowed, should_stop, idle)
    answer = json.loads(output)
    if "failed" in answer:
        raise Uninspected.at("", f"the reader failed ({printable(answer['failed'], 300)})")
    if "problems" in answer:
        rejected = ModelRejected if lease.kind == "model" else DatasetRejected
        raise rejected(*(Problem(**problem) for problem in answer["problems"]))
    return (ModelFacts if lease.kind == "model" else DatasetFacts).model_validate(answer["facts"])


def _start(lease: InspectionLease, file: IO[bytes], allowed: int) -> subprocess.Popen[bytes]:
    ends = (repr(end) for end in lease.value_range or ())
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "workers.inspector", f"--seconds={allowed}", lease.kind, *ends],
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _answer(process: subprocess.Popen[bytes], allowed: int, should_stop: Callable[[], bool], idle: float) -> bytes:
    try:
        output = _output(process, allowed, should_stop, idle)
    finally:
        _end(process)
    if process.returncode == -signal.SIGXCPU:
        raise Uninspected.at("", f"it took more than {allowed} s of computing")
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise Uninspected.at("", f"the reader was ended by {name}, as by a crash or when the machine has no memory left")
    if process.returncode:
        raise Uninspected.at("", f"the reader ended with code {process.returncode}")
    return output


def _output(process: subprocess.Popen[bytes], allowed: int, should_stop: Callable[[], bool], idle: float) -> bytes:
    computed = 0.0
    moved = start = time.monotonic()
    while True:
        try:
            return process.communicate(timeout=_LOOK_SECONDS)[0]
        except subprocess.TimeoutExpired:
            if should_stop():
                raise Cancelled from None
        now = time.monotonic()
        latest = _computed(process.pid)
        if latest is None or latest > computed:
            computed = latest or computed
            moved = now
        if now - moved > idle:
            raise Uninspected.at("", f"the reader did nothing for {idle:g} s")
        if latest is None and now - start > _WALL * allowed:
            raise Uninspected.at("", f"it took more than {_WALL * allowed} s")


def _computed(pid: int) -> float | None:
    """Seconds that a process has computed; null where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
