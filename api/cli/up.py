"""`assay up`: migrates, makes a first key, then supervises the API, the dispatcher and the scheduler and ends everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

import httpx

from api.cli.console import err, out
from api.cli.process import GRACE
from certify.exit_codes import Exit
from storage.database import Database
from storage.keys import create_key, list_keys
from storage.private import private_service
from storage.settings import Settings
from storage.tenants import ensure_tenant

_GRACE = 15.0


def run() -> int:
    """Run until Ctrl-C, SIGTERM or the death of a child."""
    settings = Settings.load()
    private_service(settings.home)
    _first_key(settings)
    # A list, not an Event: two signals close together would deadlock on the Event's lock.
    signals: list[int] = []

    def _stop(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    serving = ["--host", settings.host, "--port", str(settings.port), "--no-access-log", "--log-level", "warning", *GRACE]
    children = {
        "api": _start("uvicorn", "api.app:app", *serving),
        "dispatcher": _start("workers.dispatcher"),
        "scheduler": _start("workers.scheduler"),
    }
    try:
        return _supervise(children, signals, f"http://{settings.host}:{settings.port}")
    finally:
        _end(children)


def _first_key(settings: Settings) -> None:
    db = Database(settings.database_url)
    db.migrate()
    tenant = ensure_tenant(db, "default")
    if not list_keys(db, tenant.id, limit=1).items:
        _, token = create_key(db, tenant.id, "first")
        out.print("A first key was made. It is shown only now:")
        out.print(f"  export ASSAY_KEY={token}", highlight=False)
    db.close()


def _start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    # A session of its own for each child, so that its whole group can be ended, grandchildren included.
    return subprocess.Popen([sys.executable, "-m", module, *arguments], start_new_session=True)


def _supervise(children: dict[str, subprocess.Popen[bytes]], signals: list[int], url: str) -> int:
    ready = False
    while not signals:
        time.sleep(0.2)
        for name, child in children.items():
            if child.poll() is not None:
                err.print(f"assay: the {name} ended with code {child.returncode}; stopping")
                return Exit.ERROR
        if not ready and _answers(url):
            ready = True
            out.print(f"Assay is ready at {url} (interactive description at {url}/docs). Stop it with Ctrl-C.")
    return Exit.DONE


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=1.0).is_success
    except httpx.TransportError:
        return False


def _end(children: dict[str, subprocess.Popen[bytes]]) -> None:
    for child in children.values():
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + _GRACE
    for child in children.values():
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            _kill_group(child)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    child.wait()
