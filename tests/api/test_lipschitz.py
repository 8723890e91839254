"""Lipschitz certificates on every way out: refused by name at submission, shown layer by layer, closed like other deterministic ones."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from api.cli import facts as cli_facts
from api.pages.layers import breakdown
from certify import Model
from certify.certificate import Certificate, LipschitzEvidence
from certify.facts import LayerFact, ModelFacts
from certify.findings import parse_finding
from certify.rounding import show_upper
from certify.spec import parse_spec
from tests.api.conftest import Api
from tests.support.files import npz
from tests.support.layered import resnet
from tests.support.linear import LinearTruth
from tests.support.onnx_models import mlp
from workers.facts import model_facts

SPEC: dict[str, Any] = {
    "examples": {"stop": 4},
    "certifiers": [{"kind": "lipschitz", "norm": "l2"}, {"kind": "attack", "norm": "l2", "max_radius": 2.0, "restarts": 1, "steps": 10}],
}


def submitted(api: Api, model: str, data: str) -> Any:
    return api.client.post("/v1/jobs", json={"model": model, "dataset": data, "spec": SPEC})


def test_a_job_from_submission_to_every_export(api: Api) -> None:
    model, data = api.ready()
    found = api.client.get(f"/v1/models/{model}").json()["facts"]
    facts = ModelFacts.model_validate(found)
    assert [layer.tensor for layer in facts.layers] == [operator.output.name for operator in facts.operators]
    assert all(cut.lipschitz is not None for cut in facts.cuts)
    job = submitted(api, model, data).json()
    api.finish(job["id"])
    assert api.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"

    rows = [parse_finding(json.dumps(row)) for row in api.client.get(f"/v1/jobs/{job['id']}/results").json()["items"]]
    proved = [row for row in rows if isinstance(row, Certificate)]
    assert [row.kind for row in proved] == ["lipschitz"] * 4
    for row in proved:
        assert isinstance(row.evidence, LipschitzEvidence)
        assert row.evidence.lipschitz_upper <= 2**0.5 * (facts.layers[-1].total or 0.0) * (1 + 1e-12)
        assert row.radius > 0
    lines = api.client.get(f"/v1/reports/certificates?job={job['id']}&format=csv").text
    assert {line["kind"] for line in csv.DictReader(io.StringIO(lines))} == {"lipschitz"}

    report = api.client.get(f"/v1/jobs/{job['id']}/report").json()["report"]["certifiers"][0]
    assert (report["kind"], report["statement"], report["alpha"]) == ("lipschitz", "real-arithmetic", None)
    page = api.client.get(f"/v1/jobs/{job['id']}/report?format=html").text
    assert "Which layer costs how much radius" in page
    assert f'<td class="n">{show_upper(facts.layers[-1].total or 0.0, 4)}</td>' in page
    assert r"lipschitz (l2)" in api.client.get(f"/v1/jobs/{job['id']}/report?format=latex").text


def test_a_model_without_a_bound_is_refused_with_the_operator(api: Api) -> None:
    truth = LinearTruth.random(5, 3, seed=1).examples(4, seed=2)
    model, data = api.ready(mlp([5, 4, 3], activation="Exp"), npz(truth.x.numpy(), truth.y.numpy()))
    refused = submitted(api, model, data)
    assert refused.status_code == 422
    [problem] = refused.json()["errors"]
    assert problem["field"] == "spec.certifiers.0"
    assert problem["detail"] == "exp_a0: Exp: its slope is unbounded"


def some(*layers: LayerFact) -> ModelFacts:
    return ModelFacts(input_shape=(3,), classes=2, parameters=0, operators=(), support=(), largest_tensor=3, layers=layers)


def layer(name: str, constant: float | None, total: float | None, **more: Any) -> LayerFact:
    return LayerFact(name=name, type="Conv", tensor=f"t_{name}", constant=constant, total=total, **more)


LAYERS = (layer("a", 4.0, 4.0, how="SVD 2 x 3"), layer("b", 1.0, 4.0), layer("c", 0.5, 2.0), layer("d", 8.0, 16.0))
LIPSCHITZ = parse_spec({"certifiers": [{"kind": "lipschitz"}]})
LATENT = parse_spec({"certifiers": [{"kind": "latent-smoothing", "sigma": 0.25, "split": "t_c"}]})


def test_bars_are_logarithms_around_one() -> None:
    found = breakdown(LIPSCHITZ, some(*LAYERS))
    assert found is not None
    assert [(row.name, row.start, row.width, row.shrinks) for row in found.rows] == [
        ("a", 25.0, 50.0, False),
        ("c", 0.0, 25.0, True),
        ("d", 25.0, 75.0, False),
    ]
    assert (found.axis, found.quiet, found.left_out) == (25.0, 1, 0)


def test_the_layers_of_a_latent_job_end_where_the_noise_is_added() -> None:
    found = breakdown(LATENT, some(*LAYERS))
    assert found is not None
    assert [(row.name, row.noisy) for row in found.rows] == [("a", False), ("c", True)]


def test_other_jobs_and_older_models_have_no_breakdown() -> None:
    smoothing = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": 0.25}]})
    assert breakdown(smoothing, some(*LAYERS)) is None
    assert breakdown(LIPSCHITZ, some()) is None
    assert breakdown(LIPSCHITZ, None) is None


def test_a_layer_without_a_constant_says_why() -> None:
    found = breakdown(LIPSCHITZ, some(layer("a", 2.0, 2.0), layer("b", None, None, reason="its slope is unbounded")))
    assert found is not None
    assert [(row.constant, row.how) for row in found.rows][1] == ("none", "its slope is unbounded")


def test_model_show_prints_the_layers(capsys: pytest.CaptureFixture[str]) -> None:
    facts = model_facts(Model.from_onnx(resnet(4, 8)))
    head = {"id": "mdl_1", "name": "m", "version": 1, "state": "ready", "blob": "0" * 64, "range": None, "condition": "", "rejection": []}
    cli_facts.show_artifact({**head, "facts": facts.model_dump(mode="json")})
    shown = capsys.readouterr().out
    for row in facts.layers:
        assert row.name in shown
        assert row.total is None or show_upper(row.total) in shown
    assert "one operator with" in shown
    assert show_upper(facts.cuts[0].lipschitz or 0.0) in shown
