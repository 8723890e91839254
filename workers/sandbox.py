"""Runs the inspector: a fresh process with limits and a wall clock. A crash or a bomb becomes a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from certify.errors import Cancelled, DatasetRejected, ModelRejected, Problem
from certify.facts import DatasetFacts, ModelFacts
from storage.records import InspectionLease

# The inspector needs nothing of ours: no database, no secret, no keys.
_LOOK_SECONDS = 0.2
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH")


def inspect(
    lease: InspectionLease, data: bytes, seconds: float, should_stop: Callable[[], bool] = lambda: False
) -> ModelFacts | DatasetFacts:
    """Facts about uploaded bytes.

    Raises:
        Cancelled: `should_stop` answered true; nothing is known about the bytes.
        ModelRejected, DatasetRejected: the bytes cannot be used; the reason is in the problems.
    """
    rejected = ModelRejected if lease.kind == "model" else DatasetRejected
    command = [sys.executable, "-m", "workers.inspector", lease.kind, *(repr(end) for end in lease.value_range or ())]
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        output = _output(process, data, time.monotonic() + seconds, should_stop)
    except subprocess.TimeoutExpired:
        raise rejected.at(lease.kind, f"could not be inspected within {seconds:g} s", "make it smaller or simpler") from None
    finally:
        _end(process)
    if process.returncode != 0:
        detail = "ended its inspection: it crashes the reader, or needs more memory or time than allowed"
        raise rejected.at(lease.kind, detail, "make it smaller or simpler")
    answer = json.loads(output)
    if "problems" in answer:
        raise rejected(*(Problem(**problem) for problem in answer["problems"]))
    return (ModelFacts if lease.kind == "model" else DatasetFacts).model_validate(answer["facts"])


def _output(process: subprocess.Popen[bytes], data: bytes, end: float, should_stop: Callable[[], bool]) -> bytes:
    rest: bytes | None = data
    while True:
        try:
            return process.communicate(rest, timeout=_LOOK_SECONDS)[0]
        except subprocess.TimeoutExpired:
            rest = None  # a later call goes on with what the first was given
            if should_stop():
                raise Cancelled from None
            if time.monotonic() > end:
                raise


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
