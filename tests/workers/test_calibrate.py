"""`assay calibrate`: thresholds that fit other rows, written into the same spec, and a sentence for all that is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from certify.certificate import Certificate
from certify.spec import parse_spec
from tests.certify.test_calibration import LINE, examples
from tests.support.levels import Line
from workers.calibrate import main
from workers.local import main as certify

# As the line of tests/certify/test_calibration.py, and far too sure of itself: the default takes it at its word.
STEEP = Line(LINE.first, LINE.knots, steep=6.0)
ENTRY: dict[str, Any] = {"kind": "instance-smoothing", "sigmas": [0.2, 1.5], "n": 2000}
SPEC: dict[str, Any] = {"seed": 3, "examples": {"start": 30}, "certifiers": [{"kind": "smoothing", "sigma": 0.2, "n": 500}, ENTRY]}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def files(folder: Path, spec: Any = SPEC, rows: int = 60) -> Path:
    chosen = examples(rows, seed=1)
    order = np.random.default_rng(0).permutation(rows)
    (folder / "m.onnx").write_bytes(STEEP.onnx())
    np.savez(folder / "d.npz", x=chosen.x.numpy()[order], y=chosen.y.numpy()[order])
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def paths(folder: Path, spec: str, out: str) -> list[str]:
    named = {"--model": "m.onnx", "--data": "d.npz", "--spec": spec, "--out": out}
    return [text for name, file in named.items() for text in (name, str(folder / file))] + ["--device", "cpu"]


def run(folder: Path, *more: str) -> int:
    return int(main([*paths(folder, "spec.json", "out.json"), *more]))


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert run(folder, *more) == 4
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "Traceback" not in text
    assert not (folder / "out.json").exists()
    assert not list(folder.glob(".*.part"))
    return text


def mean_radius(folder: Path, spec: str) -> tuple[float, set[str]]:
    """Of correct answers of the instance-smoothing entry, and the statements."""
    certify(["certify", *paths(folder, spec, "out.jsonl")])
    rows = [Certificate.model_validate_json(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    asked = [row for row in rows if row.certifier == 1]
    assert len(asked) == 30
    return float(np.mean([row.radius if row.correct else 0.0 for row in asked])), {str(row.statement) for row in asked}


def test_written_thresholds_beat_the_default_on_rows_that_were_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files(tmp_path), "--stop", "30") == 0
    said = capsys.readouterr().err.splitlines()[-1]
    before, after = json.loads((tmp_path / "spec.json").read_text()), json.loads((tmp_path / "out.json").read_text())
    selector = after["certifiers"][1].pop("selector")
    assert after == before
    digest = hashlib.sha256((tmp_path / "d.npz").read_bytes()).hexdigest()
    assert selector["calibrated_on"] == {"dataset": digest, "start": 0, "stop": 30, "step": 1}
    assert selector.keys() == {"thresholds", "calibrated_on"}
    parsed: Any = parse_spec((tmp_path / "out.json").read_bytes()).certifiers[1]
    assert list(parsed.selector.thresholds) == selector["thresholds"]
    fitted, statements = mean_radius(tmp_path, "out.json")
    guessed, _ = mean_radius(tmp_path, "spec.json")
    assert statements == {"S4-dual"}
    assert fitted > 1.2 * guessed
    told = [float(said.partition(name)[2].split()[0].rstrip(",")) for name in ("mean radius is about ", "guess of the default ", " alone ")]
    assert said.startswith(f"certifiers.1: thresholds {selector['thresholds'][0]:g}; on 30 rows ")
    assert told[0] > max(told[1:])
    assert told[:2] == pytest.approx([fitted, guessed], rel=0.35)
    assert "plain" not in said


def test_one_level_for_all_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {**ENTRY, "selector": {"thresholds": [0.9], "sigma": 1.2, "calibrated_on": None}}
    folder = files(tmp_path, {"certifiers": [entry]})
    near = np.load(folder / "d.npz")
    np.savez(folder / "d.npz", **{name: near[name][near["x"][:, 0] < 10] for name in ("x", "y")})  # one group, that one level suits
    assert run(folder, "--step", "2", "--allow-overlap") == 0
    said = capsys.readouterr().err
    assert "fell back to one level, sigma 0.2, for all: a plain smoothing entry with sigma 0.2 is cheaper" in said
    assert "with those of the spec before" in said
    selector = json.loads((folder / "out.json").read_text())["certifiers"][0]["selector"]
    assert selector["thresholds"] == [1.0]
    assert selector["sigma"] == 1.2
    assert selector["calibrated_on"]["step"] == 2


def test_rows_that_the_spec_certifies_are_refused_or_declared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files(tmp_path)
    for more in ((), ("--stop", "31"), ("--start", "29", "--step", "15"), ("--start", "59")):
        said = refusal(folder, capsys, *more)
        assert said.startswith("assay: examples: the spec certifies rows of 30 to 59")
        assert "--start, --stop and --step" in said
        assert "--allow-overlap" in said
    assert run(folder, "--start", "55", "--allow-overlap") == 0
    assert mean_radius(folder, "out.json")[1] == {"S4-dual-transductive"}


def test_rows_between_those_of_the_spec_are_others(tmp_path: Path) -> None:
    assert run(files(tmp_path, {**SPEC, "examples": {"step": 2}}, rows=20), "--start", "1", "--step", "2") == 0
    seen = json.loads((tmp_path / "out.json").read_text())["certifiers"][1]["selector"]["calibrated_on"]
    assert (seen["start"], seen["stop"], seen["step"]) == (1, 20, 2)


@pytest.mark.parametrize(
    ("certifiers", "more", "said"),
    [
        ([{"kind": "smoothing", "sigma": 0.2}], (), "certifiers: none is instance-smoothing of statement dual with a selector by"),
        ([{**ENTRY, "statement": "frozen"}], (), "certifiers: none is instance-smoothing of statement dual"),
        ([{**ENTRY, "selector": {"kind": "model", "model": "0" * 64}}], (), "certifiers: none is instance-smoothing of statement dual"),
        ([{**ENTRY, "sigmas": [2.0, 1.0]}], (), "sigmas must ascend"),
        ([ENTRY], ("--start", "5", "--stop", "5"), "start 5 to stop 5 selects no example; choose stop > start"),
        ([ENTRY], ("--start", "-1"), "start: input should be greater than or equal to 0"),
        ([ENTRY], ("--start", "60"), "start: selects no row: the dataset has 60; choose --start below 60"),
        ([ENTRY], ("--stop", "5", "--range", "0,1"), "declared range"),
        ([ENTRY], ("--stop", "5", "--model", "none.onnx"), "model: cannot read none.onnx"),
    ],
)
def test_what_cannot_be_calibrated_is_one_sentence(
    certifiers: Any, more: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(files(tmp_path, {**SPEC, "certifiers": certifiers}), capsys, *more)


def test_the_spec_itself_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files(tmp_path)
    assert main([*paths(folder, "spec.json", "spec.json"), "--stop", "30"]) == 4
    assert "out: is the file of the spec, which would be lost" in capsys.readouterr().err
    assert json.loads((folder / "spec.json").read_text()) == SPEC


def test_the_command_passes_its_options_on(tmp_path: Path) -> None:
    folder = files(tmp_path, {"examples": {"start": 8}, "certifiers": [ENTRY]}, rows=10)
    command = [sys.executable, "-m", "api.cli.main", "calibrate", *paths(folder, "spec.json", "out.json"), "--stop", "8", "--step", "2"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "certifiers.0: thresholds" in found.stderr
    seen = json.loads((folder / "out.json").read_text())["certifiers"][0]["selector"]["calibrated_on"]
    assert (seen["start"], seen["stop"], seen["step"]) == (0, 8, 2)
