"""Calls in forked processes with limits of their own: a crash, a hang or a bomb costs the parent nothing."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

MEMORY = 2 * 2**30


def forked(call: Callable[[Any], Any], arguments: Iterable[Any], seconds: float, memory: int = MEMORY) -> Iterator[tuple[Any, Any]]:
    """Each argument with the answer of `call`, which must fit JSON; {"lost": ...} when there is none.

    One process answers many arguments; after a hang or a crash the next argument gets a new one.

    Args:
        seconds: for one answer.
        memory: address space on top of what this process has.
    """
    waiting = list(arguments)
    while waiting:
        pid, answers = _start(call, waiting, memory)
        try:
            while waiting:
                answer = answers.next(seconds)
                if isinstance(answer, str):
                    yield waiting.pop(0), {"lost": answer + _end(pid)}
                    break
                yield waiting.pop(0), answer[0]
        finally:
            _end(pid)
            os.close(answers.pipe)


def _start(call: Callable[[Any], Any], arguments: list[Any], memory: int) -> tuple[int, _Answers]:
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, _Answers(read)
    try:
        os.close(read)
        _limit(memory)
        with os.fdopen(write, "w") as out:
            for argument in arguments:
                out.write(json.dumps([_answer(call, argument)]) + "\n")
                out.flush()
    finally:
        os._exit(0)


def _answer(call: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return call(argument)
    except BaseException:
        return {"lost": traceback.format_exc()[-4_000:]}


def _limit(memory: int) -> None:
    import torch

    torch.set_num_threads(1)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, value in ((resource.RLIMIT_AS, size + memory), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))


class _Answers:
    """The lines that come out of a pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe, self.text = pipe, b""

    def next(self, seconds: float) -> list[Any] | str:
        """One answer, or why there is none."""
        while b"\n" not in self.text:
            if not select.select([self.pipe], [], [], seconds)[0]:
                return f"no answer within {seconds:g} s"
            more = os.read(self.pipe, 2**16)
            if not more:
                return "the process ended"
            self.text += more
        line, _, self.text = self.text.partition(b"\n")
        return list(json.loads(line))


def _end(pid: int) -> str:
    """How the process ended, after it has."""
    try:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    except (ProcessLookupError, ChildProcessError):
        return ""
    return f" (status {os.waitstatus_to_exitcode(status)})"
