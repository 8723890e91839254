"""`python -m workers.predict`: lines as `assay certify` writes them, exit codes, sentences."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.files import npz, write_job
from tests.support.onnx_models import linear_model
from workers.local import main as certify
from workers.predict import main

SPEC = {"seed": 3, "examples": {"start": 1, "stop": 7, "step": 2}, "certifiers": [{"kind": "predict", "sigma": 0.25, "n": 300}]}
SETTINGS = ("--sigma", "0.25", "--n", "300", "--seed", "3", "--start", "1", "--stop", "7", "--step", "2")


def files(paths: dict[str, Path]) -> list[str]:
    return ["--model", str(paths["model"]), "--data", str(paths["data"]), "--out", str(paths["out"]), "--range", "0,1"]


def run(paths: dict[str, Path], *settings: str) -> int:
    return int(main([*files(paths), *settings]))


def lines(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def sided(folder: Path, *points: float) -> dict[str, Path]:
    """A model that asks on which side of 0.5 the one value is, and labels that say it."""
    paths = write_job(folder)
    paths["model"].write_bytes(linear_model(np.array([[-1], [1]], np.float32), np.array([0.5, -0.5], np.float32)))
    paths["data"].write_bytes(npz(np.array([[p] for p in points], np.float32), np.array([int(p > 0.5) for p in points])))
    return paths


def test_it_writes_what_certify_writes_for_the_same_question(tmp_path: Path) -> None:
    paths = write_job(tmp_path, SPEC)
    assert certify(["certify", "--spec", str(paths["spec"]), *files(paths)]) == 0
    wanted = lines(paths["out"])
    paths["out"].unlink()
    assert run(paths, *SETTINGS) in (0, 2)
    found = lines(paths["out"])
    assert found == wanted
    assert [row["example"] for row in found] == [1, 3, 5]
    assert {(row["kind"], row["statement"], row["radius"]) for row in found} == {("predict", "S0-prediction", 0.0)}
    assert {row["provenance"]["noise_key"] for row in found} == {"public-seed"}


@pytest.mark.parametrize(
    ("points", "code", "said"),
    [
        ((0.0, 1.0), 0, ("smoothed accuracy 100.0 % (2 of 2)", "abstained 0.0 % (0 of 2)")),
        ((0.0, 1.0, 0.5, 0.5), 2, ("smoothed accuracy 50.0 % (2 of 4)", "abstained 50.0 % (2 of 4)")),
    ],
)
def test_exit_codes_and_what_is_said(
    points: tuple[float, ...], code: int, said: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sided(tmp_path, *points), "--sigma", "0.25") == code
    text = capsys.readouterr().err
    for words in (*said, "statement S0-prediction", "done ", "no radius is claimed"):
        assert words in text


def test_a_copy_without_an_answer_is_exit_code_4_and_the_line_says_so(tmp_path: Path) -> None:
    paths = sided(tmp_path, 0.0, 1.0)
    paths["model"].write_bytes(linear_model(np.array([[3e38], [-3e38]], np.float32), np.zeros(2, np.float32)))
    assert run(paths, "--sigma", "4") == 4
    assert {row["verdict"] for row in lines(paths["out"])} == {"error"}


@pytest.mark.parametrize("noise", ["discrete-gaussian", "uniform"])
def test_other_noises(noise: str, tmp_path: Path) -> None:
    paths = sided(tmp_path, 0.0, 1.0)
    assert run(paths, "--sigma", "0.25", "--noise", noise) == 0
    assert [row["prediction"] for row in lines(paths["out"])] == [0, 1]


BAD = {
    "sigma": (("--sigma", "0"), "sigma: input should be greater than 0"),
    "sigma is nan": (("--sigma", "nan"), "sigma: input should be a finite number"),
    "too few votes": (("--sigma", "0.25", "--n", "10"), "n: n = 10 votes can never single out a class at alpha = 0.001; use n >= 11"),
    "alpha": (("--sigma", "0.25", "--alpha", "0.7"), "alpha: input should be less than 0.5"),
    "sigma of the grid": (("--sigma", "17", "--noise", "discrete-gaussian"), "sigma: sigma = 17 is no noise for 8-bit inputs"),
    "off the grid": (("--sigma", "0.25", "--noise", "discrete-gaussian"), "noise: discrete-gaussian proves statements about inputs on the"),
    "behind the end": (("--sigma", "0.25", "--start", "8"), "examples.start: selects no example: the dataset has 8"),
    "nothing between": (("--sigma", "0.25", "--start", "3", "--stop", "3"), "examples: start 3 to stop 3 selects no example"),
    "step": (("--sigma", "0.25", "--step", "0"), "examples.step: input should be greater"),
    "seed": (("--sigma", "0.25", "--seed", "-1"), "seed: input should be greater"),
    "range": (("--sigma", "0.25", "--range", "1,0"), "range: '1,0' is not LOW,HIGH"),
    "model": (("--sigma", "0.25", "--model", "none.onnx"), "model: cannot read none.onnx"),
    "data": (("--sigma", "0.25", "--data", "none.npz"), "data: cannot read none.npz"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_code_4(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, sentence = BAD[name]
    paths = write_job(tmp_path)
    assert run(paths, *settings) == 4
    text = capsys.readouterr().err
    assert f"assay: {sentence}" in text
    assert ";" in text  # the mend
    assert text.count("\n") == 1
    assert "certifiers" not in text
    assert not paths["out"].exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ((), "the following arguments are required: --sigma"),
        (("--sigma", "much"), "argument --sigma: invalid float value: 'much'"),
        (("--sigma", "0.25", "--noise", "cauchy"), "argument --noise: invalid choice: 'cauchy'"),
    ],
)
def test_wrong_options_are_one_sentence_too(
    settings: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(write_job(tmp_path), *settings)
    text = capsys.readouterr().err
    assert left.value.code == 4
    assert sentence in text
    assert text.endswith("see assay predict --help\n")


def test_a_dataset_that_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_job(tmp_path)
    paths["data"].write_bytes(npz(np.zeros((2, 1, 8, 8), np.float32), np.array([0, 4])))
    assert run(paths, "--sigma", "0.25") == 4
    assert "dataset: label 4 is out of range" in capsys.readouterr().err


def test_the_command_line_passes_its_options_on(tmp_path: Path) -> None:
    paths = sided(tmp_path, 0.0, 1.0, 0.5)
    command = [sys.executable, "-m", "api.cli.main", "predict", *files(paths), "--sigma", "0.25"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2, found.stderr
    assert [row["prediction"] for row in lines(paths["out"])] == [0, 1, None]
