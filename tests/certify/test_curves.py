"""A report draws no statistic of radii from rows that only decided given ones, and keeps bounds apart."""

from __future__ import annotations

from typing import Any

import pytest

from api.pages.render import table
from certify import certify
from certify.curves import report
from certify.report import CertifierReport
from certify.spec import parse_spec
from tests.support.linear import LinearTruth
from tests.support.runs import run_for

SMOOTHING: dict[str, Any] = {"kind": "smoothing", "sigma": 0.25, "n": 2000}


def reported(entry: dict[str, Any], count: int = 20) -> tuple[CertifierReport, list[Any]]:
    truth, spec = LinearTruth.random(6, 4, seed=7), parse_spec({"certifiers": [entry]})
    model = truth.model()
    certificates = list(certify(model, truth.examples(count, seed=1), spec, run_for(spec, model, count)))
    [one] = report(certificates, spec).certifiers
    return one, certificates


def test_largest_radii_have_statistics_and_a_curve_from_zero() -> None:
    one, certificates = reported(SMOOTHING)
    assert one.radii is None
    assert one.average_radius == pytest.approx(sum(c.radius for c in certificates if c.correct) / 20)
    assert one.curve[0].radius == 0.0
    assert one.samples == sum(c.evidence.n + c.evidence.n0 for c in certificates) / 20
    assert (one.bound, one.noise) == ("one-sided", "gaussian")


@pytest.mark.parametrize(
    ("entry", "radii"),
    [
        ({**SMOOTHING, "radii": [0.3, 0.1]}, (0.1, 0.3)),
        ({"kind": "bounds", "method": "crown", "norm": "l2", "epsilon": 0.05}, (0.05,)),
        ({"kind": "predict", "sigma": 0.25}, (0.0,)),
    ],
)
def test_decisions_have_neither_average_nor_median_nor_other_radii(entry: dict[str, Any], radii: tuple[float, ...]) -> None:
    one, certificates = reported(entry)
    assert one.radii == radii == tuple(point.radius for point in one.curve)
    assert one.average_radius is one.median_radius is one.largest_radius is None
    assert one.note
    for point in one.curve:
        assert point.certified_accuracy == sum(c.holds_at(point.radius) for c in certificates) / 20
    assert [float(row[0]) for row in table(one)] == list(radii)
