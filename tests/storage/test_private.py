"""What the service keeps is its user's alone: modes of what it makes, what it finds too open, and another user who tries."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from storage.artifacts import Artifacts
from storage.database import Database
from storage.private import private_folder
from storage.settings import Settings
from tests.support.stranger import needs_root, reachable


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_place(tmp_path: Path) -> Path:
    """A folder in which every user may look around, and a process that would let them."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    os.umask(0o000)
    return tmp_path


@pytest.fixture(autouse=True)
def umask() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def kept(home: Path) -> list[Path]:
    """Everything of a service that has stored something."""
    settings = Settings(home=home)
    private_folder(settings.home)
    db = Database(settings.database_url)
    db.migrate()
    store = Artifacts(settings.artifacts)
    source = home.parent / "source"
    source.write_bytes(b"bytes")
    store.put_file(source, "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9")
    assert settings.secret
    with db.read() as connection:
        connection.exec_driver_sql("SELECT 1")
        return [home, *sorted(home.rglob("*"))]


def test_folders_and_files_are_made_for_their_owner_alone(open_place: Path) -> None:
    found = {path.name: mode(path) for path in kept(open_place / "home")}
    assert {name: found[name] for name in ("home", "artifacts", "secret")} == {"home": 0o700, "artifacts": 0o700, "secret": 0o600}
    assert {name: found[name] for name in ("assay.db", "assay.db-wal", "assay.db-shm")} == dict.fromkeys(
        ("assay.db", "assay.db-wal", "assay.db-shm"), 0o600
    )


def test_what_an_older_version_left_open_is_closed(open_place: Path) -> None:
    home = open_place / "home"
    paths = kept(home)
    for path in paths:
        path.chmod(0o777 if path.is_dir() else 0o666)
    found = {path.name: mode(path) for path in kept(home)}
    assert (found["home"], found["artifacts"], found["assay.db"]) == (0o700, 0o700, 0o600)


@needs_root
def test_another_user_reaches_nothing(open_place: Path) -> None:
    paths = kept(open_place / "home")
    inside = [path for path in paths if path.parent != open_place]
    assert len(inside) >= 6
    assert reachable(inside) == []
    assert [found for found in reachable([paths[0]]) if not found.endswith("seen")] == []


@needs_root
def test_the_stranger_would_reach_what_is_open(open_place: Path) -> None:
    """The negative control."""
    (open_place / "open").write_text("x")
    assert f"{open_place / 'open'}: read" in reachable([open_place / "open"])


@pytest.mark.parametrize("content", ["file", "folder"])
def test_a_folder_that_is_not_the_services_is_left_as_it_is(open_place: Path, content: str) -> None:
    """A setting may name `/`, or somebody's home."""
    if content == "file":
        (open_place / "letter.txt").write_text("x")
    else:
        (open_place / "assay.db").write_text("")
        (open_place / "etc").mkdir()
    with capture_logs() as logs:
        private_folder(open_place)
    assert mode(open_place) == 0o755
    assert [(entry["action"], entry["mode"]) for entry in logs] == [("folder_open", "0755")]


def test_a_shared_folder_for_temporary_files_is_left_as_it_is(open_place: Path) -> None:
    open_place.chmod(0o1777)
    private_folder(open_place)
    assert mode(open_place) == 0o1777
