"""`python -m workers.local certify`: bytes, exit codes, sentences, and what it never loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.files import SPEC, npz, write_job
from tests.support.onnx_models import linear_model
from workers.local import main


def run(paths: dict[str, Path], *more: str) -> int:
    arguments = ["certify", "--model", str(paths["model"]), "--data", str(paths["data"]), "--spec", str(paths["spec"])]
    return int(main([*arguments, "--out", str(paths["out"]), "--range", "0,1", *more]))


def lines(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def test_twice_gives_the_same_bytes_and_labels_the_public_seed(tmp_path: Path) -> None:
    paths = write_job(tmp_path)
    assert run(paths) == 0
    first = lines(paths["out"])
    paths["out"].unlink()
    assert run(paths) == 0
    assert lines(paths["out"]) == first
    assert {row["provenance"]["noise_key"] for row in first} == {"public-seed", None}
    assert len(first) == 16


def test_progress_says_what_became_of_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_job(tmp_path, {"certifiers": [{**LINEAR, "max_radius": 0.9}, GOOD]})
    assert run(paths) == 0
    said = capsys.readouterr().err
    rows = lines(paths["out"])
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("certified", "abstained", "unknown")}
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    assert f"done {len(rows)} of {len(rows)} ({listed})" in said
    assert "certified 16 of 16" not in said


def test_it_loads_no_ray_no_database_no_api(tmp_path: Path) -> None:
    paths = write_job(tmp_path, {"examples": {"stop": 1}, **SPEC})
    code = (
        "import sys; from workers.local import main; code = main(sys.argv[1:]);"
        "print(code, sorted({'ray', 'sqlalchemy', 'fastapi', 'obstore'} & set(sys.modules)))"
    )
    arguments = ["certify", "--model", paths["model"], "--data", paths["data"], "--spec", paths["spec"], "--out", paths["out"]]
    found = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0 []"


GOOD = {"kind": "smoothing", "sigma": 0.2, "n": 1000}
LINEAR = {"kind": "bounds", "method": "crown", "norm": "linf"}


@pytest.mark.parametrize(
    ("certifiers", "more", "expected"),
    [
        ([{**LINEAR, "epsilon": 0.01}], (), 0),
        ([{**LINEAR, "epsilon": 0.9}], (), 1),  # an attack refutes it
        ([{**LINEAR, "max_radius": 0.9}], (), 0),
        ([{**GOOD, "radii": [0.3]}], (), 2),
        ([{**LINEAR, "max_radius": 0.9}], ("--require", "0.5@0.01"), 0),
        ([{**LINEAR, "max_radius": 0.9}], ("--require", "0.5@5"), 1),
        ([{**LINEAR, "max_radius": 0.9}], ("--require", "much"), 4),
    ],
)
def test_exit_codes(tmp_path: Path, certifiers: list[dict[str, Any]], more: tuple[str, ...], expected: int) -> None:
    paths = write_job(tmp_path, {"certifiers": certifiers})
    weight = np.array([[1, 0], [-1, 0]], np.float32)
    paths["model"].write_bytes(linear_model(weight, np.array([-0.5, 0.5], np.float32)))
    paths["data"].write_bytes(npz(np.array([[0.9, 0.1], [0.2, 0.3]], np.float32), np.array([0, 1])))
    assert run(paths, *more) == expected


def spec_text(**changes: Any) -> str:
    return json.dumps({"certifiers": [{**GOOD, **changes}]})


BAD = {
    "pickle": ("model", b"\x80\x04K\x01.", "model: is a Python pickle"),
    "empty model": ("model", b"", "model: the file is empty"),
    "features": ("data", npz(np.zeros((2, 1, 7, 8), np.float32), np.zeros(2, np.int64)), "dataset: examples have shape [1, 7, 8]"),
    "labels": ("data", npz(np.zeros((2, 1, 8, 8), np.float32), np.array([0, 4])), "label 4 is out of range"),
    "nan data": ("data", npz(np.full((2, 1, 8, 8), np.nan, np.float32), np.zeros(2, np.int64)), "dataset.x: example 0 contains NaN"),
    "outside the range": ("data", npz(np.full((2, 1, 8, 8), 3, np.float32), np.zeros(2, np.int64)), "leave the model's declared range"),
    "unknown field": ("spec", spec_text(sgima=1).encode(), "certifiers.0.sgima: unknown field"),
    "sigma": ("spec", spec_text(sigma=0).encode(), "certifiers.0.sigma: input should be greater than 0"),
    "n = 9": ("spec", spec_text(n=9, alpha=0.001, error_rate="per-example").encode(), "use n >= 10"),
    "out of reach": ("spec", spec_text(radii=[5.0]).encode(), "radius 5 is out of reach"),
    "service key": ("spec", json.dumps({"noise_key": "service", "certifiers": [GOOD]}).encode(), "noise_key: service keys"),
    "not json": ("spec", b"{", "spec: is not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_code_4(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    which, data, sentence = BAD[name]
    paths = write_job(tmp_path, {"certifiers": [GOOD]})
    paths[which].write_bytes(data)
    assert run(paths) == 4
    text = capsys.readouterr().err
    assert sentence in text
    assert ";" in text  # the mend
    assert "Traceback" not in text
    assert not paths["out"].exists()


def test_nan_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_job(tmp_path)
    paths["model"].write_bytes(linear_model(np.array([[np.nan, 0], [0, 1]], np.float32), np.zeros(2, np.float32)))
    assert run(paths) == 4
    assert "model.weight: contains NaN" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_job(tmp_path)
    paths["model"].unlink()
    assert run(paths) == 4
    assert "model: cannot read" in capsys.readouterr().err
