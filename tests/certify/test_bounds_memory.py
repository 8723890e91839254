"""A method that would need too much memory is left out beforehand, and the certificate says what was used."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from certify import Examples, Model, certify
from certify.bounds.memory import affordable, needed
from certify.spec import parse_spec
from tests.support.onnx_models import small_cnn
from tests.support.runs import run_for

GIB = 2**30
MODEL = Model.from_onnx(small_cnn(mean=0.4, size=12, channels=3))


def answered(memory: int, **entry: Any) -> list[Any]:
    spec = parse_spec({"certifiers": [{"kind": "bounds", "norm": "linf", **entry}]})
    x = torch.rand((3, *MODEL.input_shape), generator=torch.Generator().manual_seed(1))
    run = run_for(spec, MODEL, 3)
    plan = run.plan.model_copy(update={"memory": memory})
    examples = Examples((0, 1, 2), x, torch.zeros(3, dtype=torch.int64))
    return list(certify(MODEL, examples, spec, run_for(spec, MODEL, 3, plan=plan)))


@pytest.mark.parametrize(
    ("share", "asked", "used"),
    [
        (1.0, "crown", "crown"),
        (0.999, "crown", "crown-ibp"),
        (0.999, "crown-ibp", "crown-ibp"),
        (0.5, "crown", "ibp"),
        (0.5, "crown-ibp", "ibp"),
        (0.5, "ibp", "ibp"),
    ],
)
def test_a_search_falls_back_and_names_what_proved_it(share: float, asked: str, used: str) -> None:
    limit = round(share * needed(MODEL.graph, "crown"))
    if used == "ibp" and asked != "ibp":
        limit = needed(MODEL.graph, "crown-ibp") - 1
    certificates = answered(limit, method=asked, max_radius=1.0, tolerance=0.01)
    assert {c.evidence.method for c in certificates} == {used}
    assert all(c.radius > 0 for c in certificates)


def test_what_is_left_unproved_says_which_method_was_left_out() -> None:
    for certificate in answered(needed(MODEL.graph, "crown") - 1, method="best", epsilon=0.9):
        if certificate.correct:
            assert "crown and alpha-crown would need about" in certificate.reason
            assert "crown-ibp was used" in certificate.reason


def test_the_order_of_needs() -> None:
    needs = [needed(MODEL.graph, method) for method in ("ibp", "crown-ibp", "crown", "alpha-crown")]
    assert needs == sorted(needs)
    assert affordable(MODEL.graph, ("ibp", "crown-ibp", "crown"), needs[2]) == ("ibp", "crown-ibp", "crown")
    assert affordable(MODEL.graph, ("crown", "alpha-crown"), 1) == ("ibp",)


PEAK = """
import sys, torch
from certify import Model
from certify.bounds.engine import LirpaEngine
from certify.bounds.memory import needed
from certify.norms import Norm
from tests.support.onnx_models import small_cnn
torch.set_num_threads(1)
model = Model.from_onnx(small_cnn(mean=0.4, size=int(sys.argv[1]), channels=3))
engine = LirpaEngine(model.graph, Norm.LINF)
x = torch.rand(model.input_shape)
engine.margin(x, int(engine.logits(x).argmax()), 0.05, "crown")
peak = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
print(peak * 1024, needed(model.graph, "crown"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("size", [12, 24])
def test_crown_stays_below_its_estimate(size: int) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PEAK, str(size)], capture_output=True, text=True, check=True)
    peak, estimate = map(int, done.stdout.split())
    assert peak <= estimate
