"""The README's ten commands, run as they are written there: from a fresh install to a gate that is green, and red when robustness fell."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240
NETS = """
from torch import nn


def make() -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 4))
"""


def commands() -> list[str]:
    """The lines of the block below "Nightly, beside your CI"."""
    section = (ROOT / "README.md").read_text().split("## Nightly, beside your CI")[1].split("\n## ")[0]
    return [line for line in section.split("```bash\n")[1].split("```")[0].splitlines() if line.strip()]


def weights(file: Path, strength: float) -> None:
    """Class k is a picture that is bright in its quarter of the inputs; the sign of `strength` says whether the net knows."""
    weight = torch.zeros(4, 48)
    for label in range(4):
        weight[label, label * 12 : label * 12 + 12] = strength
    save_file({"2.weight": weight, "2.bias": torch.zeros(4)}, file)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A new user's folder: a package with a module, weights, data, and the environment that scripts/install made."""
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "nets.py").write_text(NETS)
    labels = np.arange(40) % 4
    averages = np.full((40, 48), 0.25, np.float32)
    for row, label in enumerate(labels):
        averages[row, label * 12 : label * 12 + 12] = 0.75
    pictures = averages.reshape(40, 3, 4, 4).repeat(8, axis=2).repeat(8, axis=3)
    np.savez(tmp_path / "data.npz", x=pictures, y=labels)
    weights(tmp_path / "w.safetensors", 4.0)
    weights(tmp_path / "worse.safetensors", -4.0)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return tmp_path


def run(desk: Path, lines: list[str]) -> list[tuple[int, str]]:
    """Each line in one shell, until one fails: exit codes and what was said. Only the install step is left out; `up` is waited for."""
    script = ["trap 'kill $service; wait $service' EXIT"]
    for number, line in enumerate(lines):
        step = "true" if line.startswith("scripts/install") else line
        script.append(f"exec >{number}.out 2>&1\n{step}\necho $? >{number}.code")
        if line.split("#")[0].rstrip().endswith("&"):
            script.append(f"service=$!\nuntil grep -q 'is ready at' {number}.out; do kill -0 $service || exit 9; sleep 0.1; done")
        script.append(f'[ "$(cat {number}.code)" = 0 ] || exit 1')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"ASSAY_HOME": str(desk / "home"), "ASSAY_PORT": str(port), "ASSAY_URL": f"http://127.0.0.1:{port}"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ASSAY_")}
    environment |= {**place, "ASSAY_EXECUTOR": "local", "OMP_NUM_THREADS": "1"}
    shell = subprocess.Popen(["bash", "-c", "\n".join(script)], cwd=desk, env=environment, start_new_session=True)
    try:
        shell.wait(SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(30)
    codes = [int(path.read_text() or -1) if (path := desk / f"{n}.code").exists() else -1 for n in range(len(lines))]
    said = [path.read_text() if (path := desk / f"{n}.out").exists() else "" for n in range(len(lines))]
    return list(zip(codes, said, strict=True))


def all_went_well(asked: list[str], found: list[tuple[int, str]]) -> None:
    for line, (code, said) in zip(asked, found, strict=True):
        assert code == 0, f"{line}\n{said}"


def test_ten_commands_lead_to_a_green_gate(desk: Path) -> None:
    asked = commands()
    assert 2 < len(asked) <= 10
    assert asked[0].startswith("scripts/install")
    assert not [line for line in asked if set(line.split("#")[0]) & {";", "|"} or "&&" in line], "one line is one command"
    found = run(desk, asked)
    all_went_well(asked, found)
    assert "release: passed" in found[-1][1]
    assert "0 lost, 0 gained of 40 examples" in found[-1][1]
    assert ET.parse(desk / "gates.xml").getroot().attrib["failures"] == "0"


@pytest.mark.slow
def test_a_worse_model_turns_the_gate_red_the_next_night(desk: Path) -> None:
    asked = commands()
    add = next(line for line in asked if "model add" in line)
    asked += ["cp worse.safetensors w.safetensors", add, asked[-2], asked[-1].replace("gates.xml", "red.xml")]
    found = run(desk, asked)
    all_went_well(asked[:-1], found[:-1])
    code, said = found[-1]
    assert code == 1, said
    assert "40 lost, 0 gained of 40 examples" in said
    assert ET.parse(desk / "red.xml").getroot().attrib["failures"] == "2"
