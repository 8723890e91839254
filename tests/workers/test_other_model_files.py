"""`assay certify --selector`: a second network from a file takes part, and a wrong one is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certify import Model
from certify.certificate import Certificate
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model
from workers.local import main

TRUTH, CHOOSER = LinearTruth.random(6, 4, seed=7), LinearTruth.random(6, 2, seed=3)


def run(folder: Path, selector: bytes | None, named: bytes | None = None, kind: str = "instance-smoothing") -> int:
    digest = Model.from_onnx(named or selector or b"").digest
    chosen = {"kind": "model", "model": digest, "sigma": 0.25}
    entry: dict[str, Any] = {"kind": kind, "sigmas": [0.1, 0.25], "n": 1000, "selector": chosen}
    first = {"kind": "predict", "sigma": 0.1, "n": 50}
    examples = TRUTH.examples(4, seed=1)
    (folder / "m.onnx").write_bytes(linear_model(TRUTH.weight, TRUTH.bias))
    np.savez(folder / "d.npz", x=examples.x.numpy(), y=examples.y.numpy())
    (folder / "spec.json").write_text(json.dumps({"certifiers": [first, entry]}))
    more: list[str] = []
    if selector is not None:
        (folder / "s.onnx").write_bytes(selector)
        more = ["--selector", str(folder / "s.onnx")]
    files = {"--model": "m.onnx", "--data": "d.npz", "--spec": "spec.json", "--out": "out.jsonl"}
    return int(main(["certify", *(text for name, file in files.items() for text in (name, str(folder / file))), *more]))


def test_a_second_network_chooses_the_level(tmp_path: Path) -> None:
    assert run(tmp_path, linear_model(CHOOSER.weight, CHOOSER.bias)) == 0
    rows: list[Any] = [Certificate.model_validate_json(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row.certifier == 1]
    assert {str(row.statement) for row in rows} == {"S4-dual"}
    x = TRUTH.examples(4, seed=1).x.numpy()
    for row, one in zip(rows, x, strict=True):
        logits = CHOOSER.logits(one)
        if row.radius > 0:
            assert row.evidence.selector.index == logits.index(max(logits))


@pytest.mark.parametrize(
    ("selector", "named", "said"),
    [
        (None, linear_model(CHOOSER.weight, CHOOSER.bias), "no network with SHA-256"),
        (linear_model(CHOOSER.weight, CHOOSER.bias), linear_model(TRUTH.weight, TRUTH.bias), "which the spec does not name"),
        (linear_model(TRUTH.weight, TRUTH.bias), None, "the selector has 4 logits for 2 sigmas"),
        (linear_model(CHOOSER.weight[:, :5].copy(), CHOOSER.bias), None, "takes inputs of shape [5]"),
    ],
)
def test_a_wrong_second_network_is_one_sentence(
    selector: bytes | None, named: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, selector, named) == 4
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_a_missing_one_is_refused_before_the_first_sample_for_predictions_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, None, linear_model(CHOOSER.weight, CHOOSER.bias), "dual-predict") == 4
    text = capsys.readouterr().err
    assert "certifiers.1.selector.model: no network with SHA-256" in text
    assert text.count("\n") == 1  # no progress was told
