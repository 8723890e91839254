"""The API as users meet it: uvicorn in a process of its own, whose memory and death can be watched."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import httpx

from api.cli.process import GRACE
from storage.database import Database
from storage.keys import create_key
from storage.tenants import ensure_tenant


class Server:
    """The API alone, on a database and a store below `home`; `url` names another database."""

    def __init__(self, home: Path, url: str = "", **settings: str) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        database = {"ASSAY_DATABASE_URL": url} if url else {}
        self.environment = {**os.environ, "ASSAY_HOME": str(home), "OMP_NUM_THREADS": "1", **database, **settings}
        self.log = home / "api.log"
        self.db = Database(url or f"sqlite:///{home}/assay.db")
        self.db.migrate()
        self.key = self.new_key("default")
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "api.app:app",
            "--port",
            str(self.port),
            "--no-access-log",
            "--log-level",
            "warning",
            *GRACE,
        ]
        self.process = subprocess.Popen(
            command, env=self.environment, stdout=self.log.open("a"), stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while not self._ready():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5.0).is_success
        except httpx.TransportError:
            return False

    def new_key(self, tenant: str) -> str:
        return create_key(self.db, ensure_tenant(self.db, tenant).id, "test")[1]

    def client(self, key: str = "") -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key or self.key}"}, timeout=120.0)

    def peak_memory(self) -> int:
        """The most bytes of memory the process ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def kill(self) -> None:
        """kill -9."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self.db.close()
