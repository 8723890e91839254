"""What onnxruntime does to a model stands on its page and in every report."""

from __future__ import annotations

import pytest

from api import exports
from api.cli.facts import _runtime
from api.cli.jobs import _show_report
from api.pages.render import render_report
from certify.facts import RuntimeFact
from certify.report import Report
from storage import catalog
from storage.database import Database
from tests.support.shop import Shop

FACT = RuntimeFact(version="1", differs="from the tensor 'z' on")


@pytest.fixture
def shop() -> Shop:
    db = Database("sqlite://")
    db.migrate()
    return Shop.open(db, "acme")


def test_every_report_says_it(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    job = shop.submit()
    model, data = catalog.get_model(shop.db, shop.tenant, shop.model), catalog.get_dataset(shop.db, shop.tenant, shop.dataset)
    made = Report(certifiers=(), runtime=(FACT.sentence,))
    assert "computes something else than the file says" in render_report(job, made, model, data)
    assert exports.latex(job, made, ()).endswith(f"% {job.id}: {FACT.sentence}\n")
    assert {"key": "assay.runtime", "value": FACT.sentence} in exports.mlflow(job, made, ())["tags"]
    assert made.model_dump(mode="json")["runtime"] == [FACT.sentence]
    _show_report(made)
    assert "computes something else" in " ".join(capsys.readouterr().out.split())


def test_the_page_of_a_model_says_it() -> None:
    assert _runtime(FACT) == FACT.sentence
    assert _runtime(RuntimeFact(version="1", refused="cannot run it (x)")) == "Not compared with onnxruntime 1, which cannot run it (x)."
    assert _runtime(RuntimeFact(version="1")) == "1 computes the same with its default options"
    assert _runtime(None) == "nobody looked"
