"""The same suites on another line of auto-LiRPA, from its source: the folder that ASSAY_LIRPA_SRC names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from certify.bounds import lirpa_compat

ROOT = Path(__file__).parents[2]
SUITES = (
    "test_bounds_matrix",
    "test_bounds_operators",
    "test_bounds_oracles",
    "test_s_shaped",
    "test_running_error",
    "test_running_rules",
)

# The folder must win in the process that runs the suites, not in another one like it.
_RUN = """
import pathlib, sys, pytest
from certify.bounds import lirpa_compat
version = lirpa_compat.engine_version()
import auto_LiRPA
where = pathlib.Path(auto_LiRPA.__file__).resolve()
assert where.is_relative_to(sys.argv[1]) and version.startswith("0.7"), f"auto-LiRPA {version} from {where} was imported"
print("the suites run on auto-LiRPA", version)
sys.exit(pytest.main(sys.argv[2:]))
"""


def run(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a fresh process with the folder first on the path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-P", "-c", _RUN, str(source), "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def tail(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr)[-8000:]


@pytest.mark.parametrize("suite", SUITES)
def test_the_suite_passes_on_the_newer_line(suite: str) -> None:
    folder = os.environ.get("ASSAY_LIRPA_SRC")
    if not folder:
        pytest.skip("ASSAY_LIRPA_SRC is not set: the bounds are not tested on auto-LiRPA 0.7; name a checkout of its source there")
    done = run(Path(folder).resolve(), "-m", "not slow", f"tests/soundness/{suite}.py")
    assert done.returncode == 0, tail(done)


def package(folder: Path, source: str) -> Path:
    """A folder with a package auto_LiRPA of that text."""
    (folder / "auto_LiRPA").mkdir()
    (folder / "auto_LiRPA" / "__init__.py").write_text(source)
    return folder


@pytest.mark.parametrize("version", ["0.3", "0.30.1", "0.9"])
def test_a_folder_with_another_line_is_not_taken_for_the_newer_one(tmp_path: Path, version: str) -> None:
    done = run(package(tmp_path, f"__version__ = {version!r}\n"), "--version")
    assert done.returncode != 0
    assert f"auto-LiRPA {version} " in tail(done)


def test_the_version_is_that_of_what_is_imported(tmp_path: Path) -> None:
    """Not that of what is installed."""
    done = run(package(tmp_path, "__version__ = '0.7.99'\n"), "--version")
    assert done.returncode == 0, tail(done)
    assert "the suites run on auto-LiRPA 0.7.99" in done.stdout
    assert lirpa_compat.engine_version() != "0.7.99"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import no_such_thing\n", "cannot be imported"),
        ("", "of an unknown version is installed"),
        ("__version__ = '0.4'\n", "auto-LiRPA 0.4 is"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, source: str, sentence: str) -> None:
    done = run(package(tmp_path, source), "--version")
    assert done.returncode != 0
    assert "EngineUnavailable" in tail(done)
    assert sentence in tail(done)
