"""Looks at uploaded bytes in a process of its own: `python -m workers.inspector model|dataset [low high] < bytes`.

The process limits itself before it reads a byte, prints one JSON line and exits: {"facts": ...} or {"problems": [...]}.
"""

from __future__ import annotations

import json
import resource
import sys

from certify.errors import AssayError

_GIB = 2**30
_LIMITS = {
    resource.RLIMIT_CPU: 300,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 256,
    resource.RLIMIT_CORE: 0,
}
_BASE_MEMORY = 6 * _GIB  # of address space: torch and onnxruntime map about 3 GiB before any model
_MEMORY_PER_BYTE = 12  # the bytes, the parsed file, its weights as arrays and tensors, and onnxruntime's own copies


def main(arguments: list[str]) -> int:
    for limit, value in _LIMITS.items():
        _limit(limit, value)
    kind, value_range = arguments[0], tuple(map(float, arguments[1:3])) or None
    data = sys.stdin.buffer.read()
    _limit(resource.RLIMIT_AS, _BASE_MEMORY + _MEMORY_PER_BYTE * len(data))
    try:
        answer = {"facts": json.loads(_facts(kind, data, value_range))}
    except AssayError as error:
        answer = {"problems": [vars(problem) for problem in error.problems]}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _limit(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (ceiling, ceiling))


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
    facts = model_facts(model).model_dump_json()
    check_agreement(model, data)
    return facts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
