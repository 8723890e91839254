"""Images and compose file match the real entry points, settings and files."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.app import app
from storage.settings import Settings
from workers.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
KNOWN = {f"ASSAY_{name.upper()}" for settings in (Settings, WorkerSettings) for name in settings.model_fields} | {"ASSAY_SECRET"}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def instructions(path: Path) -> list[tuple[str, str]]:
    text = path.read_text().replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("path", [*DOCKERFILES, DEPLOY / "compose.yaml", DEPLOY / "README.md"], ids=lambda p: p.name)
def test_every_setting_exists(path: Path) -> None:
    used = set(re.findall(r"ASSAY_[A-Z_]+", path.read_text()))
    assert used <= KNOWN


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_images_are_built_from_what_exists_and_run_as_nobody_special(path: Path) -> None:
    steps = instructions(path)
    names = [name for name, _ in steps]
    for name, rest in steps:
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
        if name == "FROM":
            assert ":" in rest
            assert "latest" not in rest
    assert ("USER", "assay") in steps
    assert names.index("USER") < names.index("CMD")


def test_the_api_image_has_no_torch() -> None:
    text = (DEPLOY / "api.Dockerfile").read_text()
    assert "[worker]" not in text
    assert "torch==" not in text


COMMANDS = {path.name: yaml.safe_load(dict(instructions(path))["CMD"]) for path in DOCKERFILES}
COMMANDS |= {name: service["command"] for name, service in compose()["services"].items() if "command" in service}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_commands_are_real_entry_points(command: list[str]) -> None:
    if command[0] == "uvicorn":
        module, name = command[1].split(":")
        assert (module, name) == ("api.app", "app")
        assert app.title == "Assay"
    else:
        assert command[:2] == ["python", "-m"]
        spec = importlib.util.find_spec(command[2])
        assert spec is not None
        assert "def main()" in Path(str(spec.origin)).read_text()


def test_services_fit_together() -> None:
    services = compose()["services"]
    assert set(services) == {"postgres", "api", "scheduler", "worker"}
    assert all("latest" not in service.get("image", "") for service in services.values())
    for name in ("api", "scheduler", "worker"):
        service = services[name]
        assert service["environment"]["ASSAY_DATABASE_URL"].startswith("postgresql+psycopg://")
        assert service["environment"]["ASSAY_ARTIFACTS"].startswith("/data")
        assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert set(compose()["volumes"]) == {"artifacts", "postgres"}


def test_no_secret_is_written_down() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"[0-9a-f]{32}", path.read_text()), path
