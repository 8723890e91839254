"""Files and functions stay small: `python tests/architecture/sizes.py` lists what is not."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("certify", "storage", "workers", "api", "deploy", "tests")
MAX_FILE, MAX_FUNCTION = 400, 60
ROOT = Path(__file__).resolve().parents[2]


def sources() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted(path for path in (ROOT / room).rglob("*.py") if "versions" not in path.parts)


def too_large() -> Iterator[str]:
    for path in sources():
        text = path.read_text()
        lines = text.count("\n")
        if lines > MAX_FILE:
            yield f"{path.relative_to(ROOT)} has {lines} lines, more than {MAX_FILE}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION:
                    yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines, more than {MAX_FUNCTION}"


if __name__ == "__main__":
    found = list(too_large())
    sys.stdout.write("".join(f"{line}\n" for line in found))
    sys.exit(bool(found))
