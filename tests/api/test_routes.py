"""The REST interface, end to end with a real worker."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from certify.certificate import Certificate
from certify.run import commitment
from tests.api.conftest import Api
from tests.support.files import SPEC, dataset, npz
from tests.support.onnx_models import linear_model

SERVICE = {"certifiers": SPEC["certifiers"]}


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"type", "title", "status", "detail", "instance", "code", "errors", "request_id"}
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return body


def test_a_job_from_upload_to_report(api: Api) -> None:
    model, data = api.ready()
    sent = api.client.post("/v1/jobs", json={"model": model, "dataset": data, "spec": SERVICE, "name": "nightly"})
    assert sent.status_code == 202
    job = sent.json()
    assert sent.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["noise_key"] is None
    problem(api.client.get(f"/v1/jobs/{job['id']}/report"), 409)
    api.finish(job["id"])

    ended = api.client.get(f"/v1/jobs/{job['id']}").json()
    assert ended["state"] == "succeeded"
    assert commitment(bytes.fromhex(ended["noise_key"])) == ended["noise_commitment"] == job["noise_commitment"]

    first = api.client.get(f"/v1/jobs/{job['id']}/results", params={"limit": 10})
    second = api.client.get(first.links["next"]["url"])
    rows = first.json()["items"] + second.json()["items"]
    assert second.json()["next_cursor"] is None
    assert [(r["certifier"], r["example"]) for r in rows] == [(c, i) for c in range(2) for i in range(8)]
    streamed = api.client.get(f"/v1/jobs/{job['id']}/results", headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line) for line in streamed.text.splitlines()] == rows
    assert rows[0]["provenance"]["noise_key"] == f"service:{ended['noise_commitment']}"

    report = api.client.get(f"/v1/jobs/{job['id']}/report").json()
    curve = report["report"]["certifiers"][1]["curve"]
    certificates = [Certificate.model_validate(row) for row in rows if row["certifier"] == 1]
    for point in curve:
        assert point["certified_accuracy"] == sum(c.holds_at(point["radius"]) for c in certificates) / 8
    page = api.client.get(f"/v1/jobs/{job['id']}/report", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "<svg" in page.text
    assert ended["noise_key"] in page.text
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "")  # it needs nothing else


def test_the_same_question_returns_the_same_job(api: Api) -> None:
    model, data = api.ready()
    body = {"model": model, "dataset": data, "spec": SERVICE}
    first = api.client.post("/v1/jobs", json=body).json()
    again = api.client.post("/v1/jobs", json=body)
    assert (again.status_code, again.json()["id"], again.json()["reused"]) == (200, first["id"], True)
    other = api.client.post("/v1/jobs", json={**body, "spec": {**SERVICE, "seed": 1}}).json()
    assert (first["attempt"], other["attempt"]) == (1, 2)


def test_blobs_are_checked_while_they_arrive(api: Api) -> None:
    digest = hashlib.sha256(b"hello").hexdigest()
    assert api.client.head(f"/v1/blobs/sha256/{digest}").status_code == 404
    body = problem(api.client.put(f"/v1/blobs/sha256/{digest}", content=b"other"), 422)
    assert body["errors"][0]["field"] == "sha256"
    assert api.client.put(f"/v1/blobs/sha256/{digest}", content=b"hello").status_code == 201
    assert api.client.put(f"/v1/blobs/sha256/{digest}", content=b"hello").status_code == 200
    assert api.client.head(f"/v1/blobs/sha256/{digest}").status_code == 200
    problem(api.client.put("/v1/blobs/sha256/abc", content=b"hello"), 422)


def test_versions_count_up(api: Api) -> None:
    first = api.model().json()
    assert api.model().json()["id"] == first["id"]
    second = api.model(linear_model(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))).json()
    assert (first["version"], second["version"]) == (1, 2)
    versions = api.client.get(f"/v1/models/{first['id']}/versions").json()["items"]
    assert [v["version"] for v in versions] == [2, 1]


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        ({"sigma": 0}, "spec.certifiers.0.sigma", "greater than 0"),
        ({"sgima": 1}, "spec.certifiers.0.sgima", "unknown field"),
        ({"n": 9, "alpha": 0.001, "error_rate": "per-example"}, "spec.certifiers.0", "use n >= 10"),
        ({"radii": [50]}, "spec.certifiers.0", "out of reach"),
    ],
)
def test_a_bad_spec_names_the_field_and_the_mend(api: Api, change: dict[str, Any], field: str, text: str) -> None:
    spec = {"certifiers": [{"kind": "smoothing", "sigma": 0.25, **change}]}
    body = problem(api.client.post("/v1/jobs", json={"model": "mdl_x", "dataset": "dat_x", "spec": spec}), 422)
    assert body["errors"][0]["field"] == field
    assert body["errors"][0]["pointer"] == "/" + field.replace(".", "/")
    assert text in body["detail"]
    assert body["errors"][0]["mend"]


@pytest.mark.parametrize(("data", "text"), [(b"", "empty"), (b"\x80\x04K\x01.", "pickle"), (b"PK\x03\x04zip", "zip archive")])
def test_what_is_plainly_no_model_is_refused_at_once(api: Api, data: bytes, text: str) -> None:
    body = problem(api.model(data), 422)
    assert body["errors"][0]["field"] == "blob"
    assert text in body["detail"]


@pytest.mark.parametrize(
    ("model", "data", "field", "text"),
    [
        (linear_model(np.full((2, 2), np.nan, np.float32), np.zeros(2, np.float32)), None, "model", "NaN"),
        (b"junk" * 9, None, "model", "not an ONNX file"),
        (None, npz(np.full((2, 1, 8, 8), np.nan, np.float32), np.zeros(2, np.int64)), "dataset", "NaN"),
        (None, dataset(shape=(1, 7, 8)), "dataset", "shape [1, 7, 8]"),
        (None, npz(np.zeros((2, 1, 8, 8), np.float32), np.array([0, 9])), "dataset", "label 9 is out of range"),
    ],
)
def test_a_job_on_bad_files_is_refused_with_the_reason(api: Api, model: bytes | None, data: bytes | None, field: str, text: str) -> None:
    ids = api.ready(model, data)
    body = problem(api.client.post("/v1/jobs", json={"model": ids[0], "dataset": ids[1], "spec": SERVICE}), 422)
    assert body["errors"][0]["field"] == field
    assert text in body["detail"]
    assert api.client.get("/readyz").status_code == 200


def test_a_job_before_the_inspection_is_a_conflict(api: Api) -> None:
    body = {"model": api.model().json()["id"], "dataset": api.dataset().json()["id"], "spec": SERVICE}
    assert "being inspected" in problem(api.client.post("/v1/jobs", json=body), 409)["detail"]


def test_a_queued_job_is_cancelled_at_once_and_twice_is_the_same(api: Api) -> None:
    model, data = api.ready()
    job = api.client.post("/v1/jobs", json={"model": model, "dataset": data, "spec": SERVICE}).json()
    assert api.client.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    assert api.client.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"


def test_every_error_has_one_shape(api: Api) -> None:
    problem(api.client.get("/v1/nothing"), 404)
    problem(api.client.delete("/v1/jobs"), 405)
    problem(api.client.get("/v1/jobs/job_x"), 404)
    problem(api.client.get("/v1/jobs", params={"limit": 0}), 422)
    problem(api.client.get("/v1/jobs", params={"cursor": "zzz"}), 422)
    problem(api.client.post("/v1/jobs", content=b"{"), 422)
    problem(api.client.post("/v1/models", json={"name": "m", "blob": "0" * 64, "colour": 1}), 422)
    problem(api.client.post("/v1/models", json={"name": "m", "blob": "0" * 64}), 404)
    problem(api.client.post("/v1/models", json={"name": "m", "blob": "0" * 64, "range": [1, 0]}), 422)


def test_metrics_count_jobs(api: Api) -> None:
    model, data = api.ready()
    api.client.post("/v1/jobs", json={"model": model, "dataset": data, "spec": SERVICE})
    assert 'assay_jobs{state="queued"} 1.0' in api.client.get("/metrics").text
