"""The embedded Ray: a folder, sockets and ports that no other user of the machine gets at, and nothing left behind."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.listening import open_to_others, ports
from tests.support.stranger import needs_root, reachable
from workers import ray_folder
from workers.ray_executor import RayExecutor, ray
from workers.ray_folder import RayFolder, sweep
from workers.settings import WorkerSettings


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ray_folder, "_place", lambda: str(tmp_path))
    return tmp_path


def test_ray_gets_a_folder_inside_one_that_is_closed(place: Path) -> None:
    made = RayFolder()
    parent = Path(made.path).parent
    assert stat.S_IMODE(parent.stat().st_mode) == 0o700
    Path(made.path).mkdir(mode=0o777)  # as Ray does
    assert parent.parent == place
    made.remove()
    assert list(place.iterdir()) == []


def test_what_a_dead_service_left_is_swept_and_no_living_ones_folder(place: Path) -> None:
    living = RayFolder()
    dead = place / "assay-ray-dead"
    (dead / "r" / "logs").mkdir(parents=True)
    (dead / "lock").touch()
    other = place / "assay-ray-older-version"
    (other / "session").mkdir(parents=True)
    (place / "assay-ray-link").symlink_to(place)
    assert sweep() == 1
    assert sorted(path.name for path in place.iterdir()) == sorted(
        [Path(living.path).parent.name, "assay-ray-older-version", "assay-ray-link"]
    )
    living.remove()


@needs_root
def test_another_users_folder_is_not_swept(place: Path) -> None:
    theirs = place / "assay-ray-theirs"
    theirs.mkdir()
    (theirs / "lock").touch()
    os.chown(theirs, 65534, 65534)
    assert sweep() == 0


def test_sockets_have_names_that_the_system_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "long/" * 10)
    assert ray_folder._place() == "/tmp"
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert len(f"{ray_folder._place()}/assay-ray-12345678/r{ray_folder._SOCKET}") <= 107


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayExecutor]:
    made = RayExecutor(WorkerSettings(home=tmp_path_factory.mktemp("home"), actors=1))
    ray.get(made._slots[0].actor.pid.remote())
    yield made
    made.close()


@needs_root
def test_another_user_reaches_nothing_of_ray(executor: RayExecutor) -> None:
    assert executor._folder is not None
    inside = list(Path(executor._folder.path).parent.rglob("*"))
    assert sum(path.is_socket() for path in inside) >= 2
    assert any(path.name.startswith("debug_state") for path in inside)
    assert reachable(inside) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ray_listens_on_loopback_alone(executor: RayExecutor) -> None:
    assert ports(os.getpid()) >= 4
    assert open_to_others(os.getpid()) == []
