"""`float32-runtime` is said only where no float32 evaluation in the ball answers otherwise, and a shallow network gets it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from certify import Examples, Model, certify
from certify.bounds.engine import MarginBound
from certify.certificate import Certificate
from certify.curves import report
from certify.spec import Spec, parse_spec
from certify.statement import Statement
from tests.support.onnx_models import mlp
from tests.support.runs import run_for

MODEL = Model.from_onnx(mlp([6, 16, 4], seed=2))
X = torch.rand((8, 6), generator=torch.Generator().manual_seed(0))


def answered(**entry: Any) -> tuple[Spec, list[Certificate]]:
    spec = parse_spec({"certifiers": [{"kind": "bounds", "norm": "linf", **entry}]})
    return spec, list(certify(MODEL, Examples(tuple(range(8)), X, torch.zeros(8, dtype=torch.int64)), spec, run_for(spec, MODEL, 8)))


@pytest.mark.parametrize("method", ["ibp", "crown", "alpha-crown"])
def test_a_margin_that_covers_all_rounding_is_labelled_and_holds_in_float32(method: str) -> None:
    _, largest = answered(method=method, max_radius=1.0)
    reach = min(c.radius for c in largest if c.radius > 0)
    spec = parse_spec({"certifiers": [{"kind": "bounds", "method": method, "norm": "linf", "max_radius": reach / 2}]})
    labels = MODEL.module()(X).argmax(1)
    for certificate in certify(MODEL, Examples(tuple(range(8)), X, labels), spec, run_for(spec, MODEL, 8)):
        evidence = certificate.evidence
        assert str(certificate.statement) == "float32-runtime"
        assert evidence.margin_lower > evidence.tau + evidence.float32_error
        noise = torch.rand((4000, 6), generator=torch.Generator().manual_seed(1)) * 2 - 1
        inputs = (X[certificate.example].double() + certificate.radius * noise.double().sign()).float()
        inside = ((inputs.double() - X[certificate.example].double()).abs() <= certificate.radius).all(1)
        assert bool((MODEL.module()(inputs[inside]).argmax(1) == certificate.prediction).all())


def test_a_margin_at_the_edge_is_real_arithmetic_only() -> None:
    spec, certificates = answered(method="crown", max_radius=10.0, tolerance=1e-9)
    assert {str(c.statement) for c in certificates} == {"real-arithmetic"}
    [one] = report(certificates, spec).certifiers
    assert (str(one.statement), one.note) == ("real-arithmetic", "")


def test_a_report_names_the_weakest_statement_and_counts_the_stronger() -> None:
    spec, certificates = answered(method="crown", max_radius=10.0, tolerance=1e-9)
    mixed = [certificates[0].model_copy(update={"statement": Statement.parse("float32-runtime")}), *certificates[1:]]
    [one] = report(mixed, spec).certifiers
    assert str(one.statement) == "real-arithmetic"
    assert "1 of 8 certificates hold for float32 runtimes too" in one.note


def test_an_unknown_error_covers_nothing() -> None:
    assert not MarginBound(1.0, 1e-10, "crown").holds_in_float32
    assert not MarginBound(1.0, math.inf, "crown", float32_error=0.5).proved
    assert not MarginBound(1.0, 0.4, "crown", float32_error=0.7).holds_in_float32
    assert MarginBound(1.0, 0.4, "crown", float32_error=0.5).holds_in_float32
