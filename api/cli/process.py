"""Commands that compute are processes of their own; the command line passes their options on."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import typer

# Who watches a job holds a connection for as long as it runs; a service that stops does not wait for that.
# And a connection that waits for the next request is left to the client to close: a server that closes first now and then closes one on
# which a request is just arriving.
GRACE = ("--timeout-graceful-shutdown", "5", "--timeout-keep-alive", "75")
PASS_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def become(module: str, *arguments: str) -> None:
    """Run a module in a process of its own and exit with its code."""
    raise typer.Exit(run(module, *arguments))


def run(module: str, *arguments: str) -> int:
    """Run a module in a process of its own and give back its code; Ctrl-C reaches both."""
    # -P: a folder of the user's that is named like one of our packages must not be taken for it.
    process = subprocess.Popen([sys.executable, "-P", "-m", module, *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the child got it too and ends by itself
