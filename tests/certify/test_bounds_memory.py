"""A method that would need too much memory is left out, one that finds none is given up, and the certificate says what was used."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from certify import Examples, Model, certify
from certify.bounds import certifier as bounds
from certify.bounds.engine import LirpaEngine, MarginBound
from certify.bounds.footprint import footprint
from certify.bounds.frugal import OutOfMemory, frugally
from certify.bounds.ladder import LADDERS
from certify.bounds.memory import Allowance, needed
from certify.certificate import BoundsEvidence, Certificate
from certify.spec import parse_spec
from tests.support.onnx_models import small_cnn
from tests.support.runs import run_for

GIB = 2**30
MODEL = Model.from_onnx(small_cnn(mean=0.4, size=12, channels=3))
PRINT = footprint(MODEL.graph)
CROWN, CROWN_IBP, IBP = (needed(PRINT, method) for method in ("crown", "crown-ibp", "ibp"))

NAMES = ["crown", "crown-ibp", "ibp"]
QUESTIONS = [{"epsilon": 1e-5}, {"max_radius": 1.0, "tolerance": 0.1}]


def answered(memory: int, **entry: Any) -> list[Certificate]:
    spec = parse_spec({"certifiers": [{"kind": "bounds", "norm": "linf", **entry}]})
    x = torch.rand((3, *MODEL.input_shape), generator=torch.Generator().manual_seed(1))
    run = run_for(spec, MODEL, 3)
    plan = run.plan.model_copy(update={"memory": memory})
    examples = Examples((0, 1, 2), x, MODEL.module()(x).argmax(1))
    found = certify(MODEL, examples, spec, replace(run, plan=plan))
    return [certificate for certificate in found if isinstance(certificate, Certificate)]


def method_of(certificate: Certificate) -> str:
    assert isinstance(certificate.evidence, BoundsEvidence)
    return certificate.evidence.method


@pytest.mark.parametrize(
    ("memory", "asked", "used"),
    [
        (CROWN, "crown", "crown"),
        (CROWN - 1, "crown", "crown-ibp"),
        (CROWN - 1, "crown-ibp", "crown-ibp"),
        (CROWN_IBP - 1, "crown", "ibp"),
        (CROWN_IBP - 1, "crown-ibp", "ibp"),
        (IBP, "ibp", "ibp"),
    ],
)
def test_a_search_falls_back_and_names_what_proved_it(memory: int, asked: str, used: str) -> None:
    for certificate in answered(memory, method=asked, max_radius=1.0, tolerance=0.01):
        assert method_of(certificate) == used
        assert certificate.radius > 0
        assert (f"{used} was used" in certificate.reason) == (asked != used)


def test_what_is_left_unproved_says_which_method_was_left_out() -> None:
    certificate = answered(CROWN - 1, method="best", epsilon=0.02)[0]
    assert certificate.verdict == "unknown"
    assert "crown and alpha-crown would need about" in certificate.reason
    assert "crown-ibp was used" in certificate.reason


@pytest.mark.parametrize("question", QUESTIONS)
def test_where_nothing_fits_every_example_is_answered_unknown(question: dict[str, float]) -> None:
    for certificate in answered(IBP - 1, method="best", **question):
        assert certificate.verdict == "unknown"
        assert certificate.prediction == certificate.label
        assert "would need about" in certificate.reason
        assert "nothing was proved" in certificate.reason


def no_memory() -> None:
    torch.empty(2**52, dtype=torch.float64)


@pytest.mark.parametrize(("broken", "used"), [(NAMES[:1], "crown-ibp"), (NAMES[:2], "ibp"), (NAMES, "")])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_method_that_finds_no_memory_is_given_up(
    broken: list[str], used: str, question: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(bounds, "LirpaEngine", lambda *given: Hungry(broken, asked, *given))
    for certificate in answered(4 * GIB, method="crown", **question):
        assert certificate.verdict == ("certified" if used else "unknown")
        assert not used or method_of(certificate) == used
        if not used or "epsilon" not in question:
            assert f"{' and '.join(broken)} ran out of memory" in certificate.reason
    assert all(asked.count(method) == 1 for method in broken)


class Hungry(LirpaEngine):
    """The engine, but some methods ask for more memory than there is."""

    def __init__(self, broken: list[str], asked: list[str], *given: Any) -> None:
        super().__init__(*given)
        self.broken, self.asked = broken, asked

    def margin(self, x: Tensor, label: int, radius: float, method: str) -> MarginBound:
        if method in self.broken:
            self.asked.append(method)
            no_memory()
        return super().margin(x, label, radius, method)


def test_an_engine_that_hides_why_it_broke_off_is_seen_through() -> None:
    def hidden() -> None:
        try:
            no_memory()
        except RuntimeError:
            raise ValueError("something went wrong") from None

    with pytest.raises(OutOfMemory):
        frugally("crown", hidden)


def test_what_was_made_is_free_before_another_method_starts() -> None:
    kept: list[Callable[[], object]] = []

    def failing() -> None:
        matrix = torch.zeros(100)
        kept.append(weakref.ref(matrix))
        no_memory()

    with pytest.raises(OutOfMemory):
        frugally("crown", failing)
    assert kept[0]() is None


def test_other_errors_stay_what_they_are() -> None:
    def failing() -> None:
        raise KeyError("other")

    with pytest.raises(KeyError):
        frugally("crown", failing)


def test_the_order_of_needs() -> None:
    needs = [needed(PRINT, method) for method in ("ibp", "crown-ibp", "crown", "alpha-crown")]
    assert needs == sorted(set(needs))
    assert Allowance(MODEL.graph, LADDERS["best"], CROWN).methods == ("ibp", "crown-ibp", "crown")
    assert Allowance(MODEL.graph, LADDERS["alpha-crown"], IBP).methods == ("ibp",)
    assert Allowance(MODEL.graph, LADDERS["alpha-crown"], 1).methods == ()
