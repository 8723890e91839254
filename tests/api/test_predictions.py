"""Smoothed predictions over REST: jobs that only predict, in words of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.schemas import NewPrediction
from api.sdk import Client, ServiceError
from certify.question import prediction_spec
from certify.spec import PredictSpec
from storage.database import Database
from storage.settings import Settings
from tests.api.conftest import Api
from tests.api.test_routes import SERVICE, problem
from tests.support.files import dataset

ASKED: dict[str, Any] = {"sigma": 0.25, "n": 200, "alpha": 0.01}
ANSWER = {"example", "label", "prediction", "correct", "p_value", "counts", "verdict", "reason"}


class Desk(Api):
    """One service for all tests here, with a model and a dataset that were inspected once; each test asks with a seed of its own."""

    def __init__(self, folder: Path, client: TestClient, db: Database) -> None:
        super().__init__(folder, client, db)
        self.files = dict(zip(("model", "dataset"), self.ready(), strict=True))

    def asked(self, **more: Any) -> dict[str, Any]:
        return {**self.files, **ASKED, **more}

    def post(self, **more: Any) -> Any:
        return self.client.post("/v1/predictions", json=self.asked(**more))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with TestClient(create_app(Settings(home=folder)), raise_server_exceptions=False) as client:
        found = Desk(folder, client, client.app.state.db)  # type: ignore[attr-defined]
        yield found
        found.executor.close()


def test_a_prediction_from_question_to_answers(desk: Desk) -> None:
    sent = desk.post(seed=1, name="nightly", examples={"start": 1, "stop": 8, "step": 2})
    assert sent.status_code == 202, sent.text
    found = sent.json()
    assert sent.headers["location"] == f"/v1/predictions/{found['id']}"
    assert {key: found[key] for key in ASKED} == ASKED
    assert (found["state"], found["name"], found["noise"], found["reused"]) == ("queued", "nightly", "gaussian", False)
    assert found["examples"] == {"start": 1, "stop": 8, "step": 2}

    waiting = desk.client.get(sent.headers["location"]).json()
    assert (waiting["state"], waiting["items"], waiting["progress"]["certificates_total"]) == ("queued", [], 4)
    desk.finish(found["id"])
    ended = desk.client.get(sent.headers["location"]).json()
    assert (ended["state"], ended["progress"]["certificates_done"], ended["next_cursor"]) == ("succeeded", 4, None)
    assert [item["example"] for item in ended["items"]] == [1, 3, 5, 7]
    for item in ended["items"]:
        assert set(item) == ANSWER
        assert sum(item["counts"]) == 200
        assert (item["prediction"] is None) == (item["verdict"] == "abstained") == (item["p_value"] > 0.01)
        assert item["correct"] == (item["prediction"] == item["label"])
        assert item["reason"].endswith(".")


def test_it_is_a_job_like_any_other(desk: Desk) -> None:
    found = desk.post(seed=2).json()
    desk.finish(found["id"])
    rows = desk.client.get(f"/v1/jobs/{found['id']}/results").json()["items"]
    items = desk.client.get(f"/v1/predictions/{found['id']}").json()["items"]
    assert [(r["example"], r["prediction"], r["evidence"]["counts"]) for r in rows] == [
        (i["example"], i["prediction"], i["counts"]) for i in items
    ]
    assert {(r["kind"], r["statement"], r["radius"]) for r in rows} == {("predict", "S0-prediction", 0.0)}
    [report] = desk.client.get(f"/v1/jobs/{found['id']}/report").json()["report"]["certifiers"]
    assert report["correct"] == sum(i["correct"] for i in items)
    assert report["verdicts"].get("abstained", 0) == sum(i["prediction"] is None for i in items)
    assert {point["radius"] for point in report["curve"]} == {0.0}
    assert report["average_radius"] is None
    assert "no radius is claimed" in report["note"]
    page = desk.client.get(f"/v1/jobs/{found['id']}/report", params={"format": "html"}).text
    for shown in ("smoothed accuracy", "abstained", "no radius is claimed", "S0-prediction"):
        assert shown in page
    for hidden in ("<svg", "average certified radius", "certified accuracy</th>", "provably stays the same"):
        assert hidden not in page


def test_answers_come_in_pages(desk: Desk) -> None:
    found = desk.post(seed=2).json()
    desk.finish(found["id"])
    path, seen = f"/v1/predictions/{found['id']}", []
    first = desk.client.get(path, params={"limit": 3})
    assert 'rel="next"' in first.headers["link"]
    page = first.json()
    while True:
        seen += [item["example"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        page = desk.client.get(path, params={"limit": 3, "cursor": page["next_cursor"]}).json()
    assert seen == list(range(8))
    problem(desk.client.get(path, params={"cursor": "zzz"}), 422)
    problem(desk.client.get(path, params={"limit": 0}), 422)


def test_the_same_question_is_the_same_prediction_however_it_is_asked(desk: Desk) -> None:
    first = desk.post().json()
    again = desk.post(noise="gaussian", seed=0)
    assert (again.status_code, again.json()["id"], again.json()["reused"]) == (200, first["id"], True)
    assert again.headers["location"] == f"/v1/predictions/{first['id']}"
    spec = {"certifiers": [{"kind": "predict", **ASKED}]}
    as_job = desk.client.post("/v1/jobs", json={**desk.files, "spec": spec})
    assert (as_job.status_code, as_job.json()["id"]) == (200, first["id"])
    other = desk.post(seed=3)
    assert other.status_code == 202
    assert other.json()["attempt"] > first["attempt"]


def test_what_is_no_prediction_of_yours_is_not_found(desk: Desk) -> None:
    mine = desk.post(seed=4).json()["id"]
    job = desk.client.post("/v1/jobs", json={**desk.files, "spec": SERVICE}).json()["id"]
    theirs = {"Authorization": f"Bearer {desk.key('other')}"}
    problem(desk.client.get("/v1/predictions/job_x"), 404)
    found = problem(desk.client.get(f"/v1/predictions/{job}"), 404)
    assert (found["errors"][0]["field"], f"GET /v1/jobs/{job}/results" in found["detail"]) == ("prediction", True)
    problem(desk.client.get(f"/v1/predictions/{mine}", headers=theirs), 404)
    problem(desk.client.get(f"/v1/predictions/{job}", headers=theirs), 404)
    assert problem(desk.client.post("/v1/predictions", json=desk.asked(), headers=theirs), 404)["errors"][0]["field"] == "model"


def test_before_the_inspection_it_is_a_conflict(api: Api) -> None:
    body = {"model": api.model().json()["id"], "dataset": api.dataset().json()["id"], **ASKED}
    assert "being inspected" in problem(api.client.post("/v1/predictions", json=body), 409)["detail"]


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        ({"sigma": 0}, "sigma", "greater than 0"),
        ({"sigma": "0.25"}, "sigma", "valid number"),
        ({"sgima": 1}, "sgima", "unknown field"),
        ({"n": 6}, "n", "use n >= 8"),
        ({"n": 2.5}, "n", "integer"),
        ({"alpha": 0.5}, "alpha", "less than 0.5"),
        ({"noise": "cauchy"}, "noise", "gaussian"),
        ({"noise": "discrete-gaussian", "sigma": 17}, "sigma", "use at most 16"),
        ({"noise": "discrete-gaussian"}, "noise", "1/255 grid"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"examples": {"start": 8}}, "examples.start", "selects no example: the dataset has 8"),
        ({"examples": {"start": 3, "stop": 1}}, "examples", "selects no example"),
        ({"examples": {"step": 0}}, "examples.step", "greater than or equal to 1"),
        ({"examples": {"first": 1}}, "examples.first", "unknown field"),
        ({"name": "x" * 201}, "name", "at most 200"),
    ],
)
def test_a_bad_question_names_the_field_and_the_mend(desk: Desk, change: dict[str, Any], field: str, text: str) -> None:
    body = problem(desk.post(**change), 422)
    [error] = body["errors"]
    assert (error["field"], error["pointer"]) == (field, "/" + field.replace(".", "/"))
    assert text in body["detail"]
    assert error["mend"]
    assert "certifiers" not in body["detail"]


def test_what_is_needed_and_what_does_not_fit(desk: Desk) -> None:
    needed = problem(desk.client.post("/v1/predictions", json={}), 422)
    assert [error["field"] for error in needed["errors"]] == ["model", "dataset", "sigma"]
    other = desk.ready(data=dataset(shape=(1, 7, 8)))[1]
    assert problem(desk.post(dataset=other), 422)["errors"][0]["field"] == "dataset"


def test_defaults_are_those_of_a_spec() -> None:
    question = NewPrediction(model="m", dataset="d", sigma=0.25).model_dump(exclude={"model", "dataset", "name", "ledger"})
    assert prediction_spec(**question) == prediction_spec(sigma=0.25)
    assert PredictSpec.model_fields["n"].default == 1000


def test_it_is_documented(desk: Desk) -> None:
    paths = desk.client.get("/openapi.json").json()["paths"]
    asking, answering = paths["/v1/predictions"]["post"], paths["/v1/predictions/{job_id}"]["get"]
    assert {"200", "202", "401", "403", "404", "409", "422", "429"} <= set(asking["responses"])
    for operation in (asking, answering):
        assert operation["tags"] == ["predictions"]
        assert operation["description"]


@pytest.fixture
def service(desk: Desk) -> Client:
    """The client of users on the connection of the test."""
    found = Client("http://testserver", "none")
    found._connection.http.close()
    found._connection.http = desk.client
    return found


def test_the_client_gives_all_rows(desk: Desk, service: Client) -> None:
    desk.finish(desk.post(seed=5).json()["id"])
    rows = service.predict(*desk.files.values(), **ASKED, seed=5)
    assert [set(row) for row in rows] == [ANSWER] * 8


def test_the_client_says_why_there_are_no_rows(desk: Desk, service: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceError, match="sigma: input should be greater than 0"):
        service.predict(*desk.files.values(), sigma=0.0)
    cancelled = desk.post(seed=6).json()["id"]
    desk.client.post(f"/v1/jobs/{cancelled}/cancel")
    monkeypatch.setattr(service, "post", lambda path, body: {"id": cancelled})
    with pytest.raises(ServiceError, match=f"{cancelled} cancelled"):
        service.predict(*desk.files.values(), **ASKED, seed=6)
