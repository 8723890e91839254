"""Certificates across jobs, two runs side by side, and reports as other tools read them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from certify.mcnemar import p_value
from tests.api.conftest import Api, opened
from tests.support.files import dataset
from tests.support.onnx_models import small_cnn

SPEC: dict[str, Any] = {
    "certifiers": [
        {"kind": "smoothing", "sigma": 0.5, "n0": 32, "n": 400, "alpha": 0.05, "radii": [0.1]},
        {"kind": "bounds", "method": "crown-ibp", "norm": "linf", "max_radius": 0.5, "tolerance": 0.05},
    ],
    "examples": {"stop": 6},
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One for all tests here, which only read."""
    with opened(tmp_path_factory.mktemp("service")) as found:
        yield found


@pytest.fixture(scope="module")
def jobs(api: Api) -> tuple[str, str]:
    """Two finished jobs: the same dataset and spec, two models."""
    made = []
    for seed in (0, 1):
        model, data = api.ready(small_cnn(mean=0.5, seed=seed))
        job = api.client.post("/v1/jobs", json={"model": model, "dataset": data, "spec": SPEC}).json()["id"]
        api.finish(job)
        made.append(job)
    return made[0], made[1]


def found(api: Api, **wanted: Any) -> list[dict[str, Any]]:
    """All pages, two rows at a time."""
    rows, cursor = [], None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        answer = api.client.get("/v1/reports/certificates", params={**wanted, "limit": 5, **more})
        assert answer.status_code == 200, answer.text
        rows += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return rows


def test_certificates_are_found_by_what_they_are_about(api: Api, jobs: tuple[str, str]) -> None:
    everything = found(api)
    assert [(row["job"], row["certificate"]["certifier"], row["certificate"]["example"]) for row in everything] == [
        (job, certifier, example) for job in sorted(jobs, reverse=True) for certifier in (0, 1) for example in range(6)
    ]
    first = api.client.get(f"/v1/jobs/{jobs[0]}").json()
    assert {row["job"] for row in found(api, model=first["model"])} == {jobs[0]}
    assert len(found(api, dataset=first["dataset"])) == 24, "the same bytes are the same dataset, whatever version they were uploaded as"
    assert all(row["certificate"]["kind"] == "bounds" for row in found(api, statement="real-arithmetic"))
    digest = everything[3]["certificate"]["example_digest"]
    same = found(api, example_digest=digest)
    assert {row["certificate"]["example"] for row in same} == {everything[3]["certificate"]["example"]}
    assert len(same) == 4
    for wanted in (
        {"verdict": "certified"},
        {"radius_min": 0.05},
        {"radius_min": 0.01, "radius_max": 0.2},
        {"correct": True},
        {"example": 2},
    ):
        assert found(api, **wanted) == [row for row in everything if _fits(row["certificate"], wanted)]


def _fits(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    low, high = wanted.get("radius_min", 0.0), wanted.get("radius_max", 1e9)
    return low <= row["radius"] <= high and all(row[name] == value for name, value in wanted.items() if not name.startswith("radius"))


def test_the_digest_is_that_of_the_input(api: Api, jobs: tuple[str, str]) -> None:
    import hashlib

    x = np.load(io.BytesIO(dataset()))["x"]
    rows = found(api, job=jobs[0], kind="bounds")
    assert [row["certificate"]["example_digest"] for row in rows] == [
        hashlib.sha256(x[i].astype("<f4").tobytes()).hexdigest() for i in range(6)
    ]


def test_as_lines_and_as_csv_with_every_digit(api: Api, jobs: tuple[str, str]) -> None:
    everything = found(api)
    lines = api.client.get("/v1/reports/certificates", params={"format": "ndjson"})
    assert [json.loads(line) for line in lines.text.splitlines()] == everything
    table = api.client.get("/v1/reports/certificates", params={"verdict": "certified"}, headers={"Accept": "text/csv"})
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    certified = [row["certificate"] for row in everything if row["certificate"]["verdict"] == "certified"]
    assert [float(row["radius"]) for row in rows] == [row["radius"] for row in certified]
    assert [row["example_digest"] for row in rows] == [row["example_digest"] for row in certified]


def test_what_does_not_exist_or_is_no_number_is_named(api: Api, jobs: tuple[str, str]) -> None:
    for wanted, status, field in (
        ({"model": "mdl_0"}, 404, "model"),
        ({"job": "job_0", "format": "csv"}, 404, "job"),
        ({"radius_min": "nan"}, 422, "radius_min"),
        ({"verdict": "proved"}, 422, "verdict"),
        ({"example_digest": "xyz"}, 422, "example_digest"),
        ({"cursor": "abc"}, 422, "cursor"),
    ):
        answer = api.client.get("/v1/reports/certificates", params=wanted)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)


def test_two_runs_side_by_side(api: Api, jobs: tuple[str, str]) -> None:
    answer = api.client.get("/v1/reports/compare", params={"base": jobs[0], "head": jobs[1]}).json()
    assert (answer["base"], answer["head"], answer["examples"]) == (*jobs, 6)
    smoothing, bounds = answer["certifiers"]
    assert [point["radius"] for point in smoothing["points"]] == [0.1]
    for certifier, pair in enumerate((smoothing, bounds)):
        held = [
            {r["certificate"]["example"]: r["certificate"] for r in found(api, job=job) if r["certificate"]["certifier"] == certifier}
            for job in jobs
        ]
        for point in pair["points"]:
            before, now = (
                {e for e, c in side.items() if c["correct"] and c["verdict"] == "certified" and c["radius"] >= point["radius"]}
                for side in held
            )
            assert (point["lost"], point["gained"]) == (len(before - now), len(now - before))
            assert (point["base_accuracy"], point["head_accuracy"]) == (len(before) / 6, len(now) / 6)
            assert point["p_drop"] == float(p_value(point["lost"], point["gained"]))
    same = api.client.get("/v1/reports/compare", params={"base": jobs[0], "head": jobs[0], "radius": [0.05, 0.1]}).json()
    assert {(p["radius"], p["lost"], p["gained"], p["p_drop"]) for p in same["certifiers"][1]["points"]} == {
        (0.05, 0, 0, 1.0),
        (0.1, 0, 0, 1.0),
    }


def test_a_report_as_metrics_and_as_rows_of_a_table(api: Api, jobs: tuple[str, str]) -> None:
    path = f"/v1/jobs/{jobs[0]}/report"
    report = api.client.get(path).json()["report"]["certifiers"]
    batch = api.client.get(path, params={"format": "mlflow", "radius": 0.1}).json()
    metrics = {metric["key"]: metric["value"] for metric in batch["metrics"]}
    assert metrics["0-smoothing-l2/certified_accuracy_0.1"] == report[0]["curve"][-1]["certified_accuracy"]
    assert metrics["1-bounds-linf/clean_accuracy"] == report[1]["clean_accuracy"]
    assert "0-smoothing-l2/average_certified_radius" not in metrics, "no average is drawn from decisions"
    table = api.client.get(path, params={"format": "latex", "radius": [0.1, 0.2]}).text
    rows = [line for line in table.splitlines() if not line.startswith("%")]
    assert len(rows) == 2
    assert rows[0].endswith(r"& -- \\"), "0.2 was not decided"
    assert all(row.count("&") == 3 for row in rows)


def test_runs_that_ask_different_things_are_not_compared(api: Api, jobs: tuple[str, str]) -> None:
    job = api.client.get(f"/v1/jobs/{jobs[0]}").json()
    other = {**SPEC, "certifiers": [{**SPEC["certifiers"][0], "sigma": 0.25}]}
    new = api.client.post("/v1/jobs", json={"model": job["model"], "dataset": job["dataset"], "spec": other}).json()["id"]
    api.finish(new)
    (pair,) = api.client.get("/v1/reports/compare", params={"base": jobs[0], "head": new}).json()["certifiers"]
    assert pair["points"] == []
    assert "no certifier with the settings" in pair["reason"]
