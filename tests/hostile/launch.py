"""Runs a command with this process's input and says what it cost: `launch.py [command ...] < bytes`.

A small process between a test and what it measures: a child counts the memory of whoever forked it as its own peak.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time


def main(command: list[str]) -> int:
    start = time.monotonic()
    try:
        ended = subprocess.run(command, capture_output=True, timeout=60)
        code, output, errors = ended.returncode, ended.stdout.decode(), ended.stderr.decode(errors="replace")[-2_000:]
    except subprocess.TimeoutExpired:
        code, output, errors = -1, "", "ran for a minute"
    cost = {"seconds": time.monotonic() - start, "peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}
    sys.stdout.write(json.dumps({"code": code, "output": output, "errors": errors, **cost}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
