"""Frozen noise levels stand apart on the page of a report: never drawn or listed beside one smoothed classifier."""

from __future__ import annotations

import pytest

from api.pages.render import render_report
from certify.norms import Norm
from certify.report import CertifierReport, CurvePoint, Report
from certify.statement import Statement
from certify.verdict import Verdict
from storage import catalog
from storage.database import Database
from tests.support.shop import Shop

SENTENCE = "Left out, since it speaks of another classifier for each input"


def certifier(index: int, kind: str, statement: str) -> CertifierReport:
    points = tuple(CurvePoint(radius=r, certified_accuracy=0.5, low=0.4, high=0.6) for r in (0.0, 0.25 + index))
    return CertifierReport(
        certifier=index,
        kind=kind,
        statement=Statement.parse(statement),
        norm=Norm.L2,
        alpha=0.001,
        method=None,
        sigma=0.25,
        examples=8,
        correct=4,
        verdicts={Verdict.CERTIFIED: 8},
        clean_accuracy=0.5,
        curve=points,
        median_radius=0.1,
        average_radius=0.1,
        largest_radius=0.25 + index,
        at_cap=0,
        note="",
    )


@pytest.fixture
def shop() -> Shop:
    db = Database("sqlite://")
    db.migrate()
    return Shop.open(db, "acme")


def page(shop: Shop, *certifiers: CertifierReport) -> str:
    job = shop.submit()
    model, data = catalog.get_model(shop.db, shop.tenant, shop.model), catalog.get_dataset(shop.db, shop.tenant, shop.dataset)
    return render_report(job, Report(certifiers=certifiers), model, data)


def test_frozen_levels_have_a_chart_of_their_own(shop: Shop) -> None:
    fixed, frozen, dual = (
        certifier(0, "smoothing", "S0-fixed"),
        certifier(1, "instance-smoothing", "S1-frozen"),
        certifier(2, "instance-smoothing", "S4-dual"),
    )
    made = page(shop, fixed, frozen, dual)
    assert made.count("<h2>Certified accuracy, l2") == 2
    first, second = made.split("Certified accuracy, l2, noise levels held")
    assert "S1-frozen" not in first.split("<h2>Certified accuracy, l2")[1]
    assert "these curves are not compared with those of one smoothed classifier" in second
    beside = made.split("<h2>Side by side</h2>")[1].split("</table>")[0]
    assert "S4-dual" in beside
    assert "S1-frozen" not in beside
    assert SENTENCE in made


def test_without_them_nothing_is_said(shop: Shop) -> None:
    made = page(shop, certifier(0, "smoothing", "S0-fixed"), certifier(1, "instance-smoothing", "S4-dual"))
    assert made.count("<h2>Certified accuracy, l2") == 1
    assert SENTENCE not in made
