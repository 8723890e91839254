"""Looks at uploaded bytes in a process of its own: `python -m workers.inspector [--seconds=N] model|dataset [low high] < file`.

The process limits itself before it reads a byte, prints one JSON line and exits: {"facts": ...}, {"problems": [...]}, which are about
the bytes, or {"failed": "..."}, which is about the reader.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import sys

from certify.errors import AssayError

_GIB = 2**30
_LIMITS = {
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 256,
    resource.RLIMIT_CORE: 0,
}
_SECONDS = 300  # of computing
_BASE_MEMORY = 6 * _GIB  # of address space: torch and onnxruntime map about 3 GiB before any model
_MEMORY_PER_BYTE = 12  # the bytes, the parsed file, its weights as arrays and tensors, and onnxruntime's own copies
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    seconds = _SECONDS
    if arguments[0].startswith("--seconds="):
        seconds = int(arguments.pop(0).partition("=")[2])
    _end_with_parent()
    # One second more for the hard limit: the soft one ends the process by a signal of its own, which tells why.
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)
    for limit, value in _LIMITS.items():
        _limit(limit, value, value)
    kind, value_range = arguments[0], tuple(map(float, arguments[1:3])) or None
    data = sys.stdin.buffer.read()
    memory = _BASE_MEMORY + _MEMORY_PER_BYTE * len(data)
    _limit(resource.RLIMIT_AS, memory, memory)
    try:
        answer = {"facts": json.loads(_facts(kind, data, value_range))}
    except AssayError as error:
        answer = {"problems": [vars(problem) for problem in error.problems]}
    except Exception as error:
        answer = _too_large(kind, memory) if _lacks_memory(error) else {"failed": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _end_with_parent() -> None:
    """Who reads the answer may be killed; then nobody wants it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit(limit: int, soft: int, hard: int) -> None:
    highest = resource.getrlimit(limit)[1]
    if highest != resource.RLIM_INFINITY:
        hard = min(hard, highest)
    resource.setrlimit(limit, (min(soft, hard), hard))


def _lacks_memory(error: Exception) -> bool:
    # torch says so in a RuntimeError.
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def _too_large(kind: str, memory: int) -> dict[str, list[dict[str, str]]]:
    """The limit is a rule of Assay's, the same on every machine: what passes it is refused, not put off."""
    detail = f"needs more than the {memory / _GIB:.1f} GiB of memory that its inspection may use"
    return {"problems": [{"field": kind, "detail": detail, "mend": "make it smaller or simpler"}]}


def _facts(kind: str, data: bytes, value_range: tuple[float, ...] | None) -> str:
    if kind == "model":
        from certify.graph.proto import parse

        parse(data)  # most of what is no model at all ends here, before torch is even loaded
    import torch

    torch.set_num_threads(1)
    if kind == "dataset":
        from workers.datasets import dataset_facts, read_dataset

        return dataset_facts(read_dataset(data)).model_dump_json()
    from certify.model import Model
    from workers.agreement import check_agreement
    from workers.facts import model_facts

    model = Model.from_onnx(data, (value_range[0], value_range[1]) if value_range else None)
    facts = model_facts(model)
    return facts.model_copy(update={"runtime": check_agreement(model, data)}).model_dump_json()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
