"""Ledgers over REST, and predictions that ask them first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.sdk import Client
from certify.errors import SpecError
from storage import ledger
from storage.settings import Settings
from tests.api.conftest import Api
from tests.api.test_routes import problem
from tests.support.files import npz
from tests.support.onnx_models import linear_model
from workers.local import _spec

MEMORY: dict[str, Any] = {
    "kind": "instance-smoothing",
    "statement": "memory",
    "sigmas": [0.1, 0.3],
    "n": 500,
    "n0": 20,
    "search": {"samples": 20, "rounds": 1},
    "error_rate": "per-example",
}
PLACES = [0.1, 0.3, 0.7, 0.9]


class Desk(Api):
    """A service with a model of two classes, and the inputs on either side of its boundary at 1/2."""

    def __init__(self, folder: Path, client: TestClient) -> None:
        super().__init__(folder, client, client.app.state.db)  # type: ignore[attr-defined]
        net = linear_model(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32), np.array([-0.5, 0.5], np.float32))
        self.model_id, self.dataset_id = self.ready(net, self.inputs(*PLACES))

    @staticmethod
    def inputs(*places: float) -> bytes:
        x = np.array([[place, 0.5] for place in places], np.float32)
        return npz(x, np.array([int(place < 0.5) for place in places]))

    def certified(self) -> tuple[str, list[dict[str, Any]]]:
        """The ledger of a job that has gone through it, and its regions."""
        body = {"model": self.model_id, "dataset": self.dataset_id, "spec": {"certifiers": [MEMORY]}}
        job = self.client.post("/v1/jobs", json=body).json()
        self.finish(job["id"])
        assert self.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"
        (found,) = self.client.get("/v1/ledgers").json()["items"]
        return found["id"], self.client.get(f"/v1/ledgers/{found['id']}/regions").json()["items"]

    def asked(self, **more: Any) -> Any:
        return self.client.post(
            "/v1/predictions", json={"model": self.model_id, "dataset": self.dataset_id, "n": 200, "alpha": 0.01, **more}
        )

    def answers(self, **more: Any) -> list[dict[str, Any]]:
        sent = self.asked(**more)
        assert sent.status_code in (200, 202), sent.text
        self.finish(sent.json()["id"])
        items: list[dict[str, Any]] = self.client.get(sent.headers["location"]).json()["items"]
        return items


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with TestClient(create_app(Settings(home=folder)), raise_server_exceptions=False) as client:
        found = Desk(folder, client)
        yield found
        found.executor.close()


def test_a_job_leaves_a_ledger_that_can_be_read(desk: Desk) -> None:
    where, regions = desk.certified()
    found = desk.client.get(f"/v1/ledgers/{where}").json()
    assert (found["regions"], found["version"], found["rule"]["sigmas"]) == (4, 1, [0.1, 0.3])
    assert [(one["number"], one["example"], one["answer"]) for one in regions] == [(1, 0, 1), (2, 1, 1), (3, 2, 0), (4, 3, 0)]
    assert all(0 < one["radius"] < 1 and one["revoked_at"] is None for one in regions)
    page = desk.client.get(f"/v1/ledgers/{where}/regions", params={"limit": 3}).json()
    rest = desk.client.get(f"/v1/ledgers/{where}/regions", params={"cursor": page["next_cursor"]}).json()
    assert page["items"] + rest["items"] == regions
    assert desk.client.get("/v1/ledgers", params={"model_digest": found["model_digest"]}).json()["items"] == [found]
    assert desk.client.get("/v1/ledgers", params={"model_digest": "0" * 64}).json()["items"] == []


def test_predictions_ask_the_ledger_first(desk: Desk) -> None:
    where, regions = desk.certified()
    near, far = 0.1 + regions[0]["radius"] * 0.9, 0.5
    data = desk.ready(data=desk.inputs(0.1, near, far))[1]
    rows = desk.answers(ledger=where, dataset=data, seed=1)
    assert [row["prediction"] for row in rows[:2]] == [1, 1]
    assert "region 1 of the ledger, which answers" in rows[0]["reason"]
    assert "No region contains the input." in rows[2]["reason"]
    assert (rows[2]["prediction"], rows[2]["verdict"]) == (None, "abstained")  # on the boundary the votes are even

    asked = desk.asked(ledger=where, dataset=data, seed=1)
    assert asked.status_code == 200  # an unchanged question, while the ledger is what it was
    assert (asked.json()["ledger"], asked.json()["version"], asked.json()["sigma"]) == (where, 1, None)
    job = desk.client.get(f"/v1/jobs/{asked.json()['id']}/report").json()["report"]
    assert job["certifiers"][0]["statement"] == "S2-memory-prediction"
    assert desk.client.get(f"/v1/jobs/{asked.json()['id']}/report", params={"format": "html"}).status_code == 200


def test_a_revoked_region_answers_no_more(desk: Desk) -> None:
    where, regions = desk.certified()
    before = desk.client.get(f"/v1/ledgers/{where}").json()["version"]
    assert "region 4" in desk.answers(ledger=where, seed=2)[3]["reason"]
    assert ledger.revoke(desk.db, desk.service.tenant, where, 4, "somebody found a defect")
    assert desk.client.get(f"/v1/ledgers/{where}").json()["version"] == before + 1
    assert desk.client.get(f"/v1/ledgers/{where}/regions").json()["items"][3]["revoked_because"] == "somebody found a defect"
    asked = desk.asked(ledger=where, seed=2)
    assert asked.status_code == 202  # another version of the ledger is another question
    row = desk.answers(ledger=where, seed=2)[3]
    assert "region 4" not in row["reason"]
    assert row["prediction"] == regions[3]["answer"]  # by its votes


def test_what_cannot_be_asked_is_named(desk: Desk) -> None:
    where, _ = desk.certified()
    assert desk.asked(ledger="ldg_" + "0" * 26).status_code == 404
    assert problem(desk.asked(), 422)["errors"][0]["field"] == "sigma"
    assert problem(desk.asked(ledger=where, sigma=0.25), 422)["errors"][0]["field"] == "sigma"
    assert problem(desk.asked(ledger=where, noise="uniform"), 422)["errors"][0]["field"] == "noise"
    assert problem(desk.asked(ledger=where, n=2), 422)["errors"][0]["field"] == "n"
    other = desk.ready()
    told = problem(desk.asked(ledger=where, model=other[0], dataset=other[1]), 422)["errors"][0]
    assert (told["field"], told["detail"]) == ("ledger", f"{where} is of another model")
    entry = {"kind": "memory-predict", "ledger": where, "version": 99, "sigmas": [0.1, 0.3], "search": MEMORY["search"]}
    for changes, field in (({}, "version"), ({"version": 1, "sigmas": [0.1]}, "ledger")):
        body = {"model": desk.model_id, "dataset": desk.dataset_id, "spec": {"certifiers": [{**entry, **changes}]}}
        assert problem(desk.client.post("/v1/jobs", json=body), 422)["errors"][0]["field"] == f"spec.certifiers.0.{field}"


def test_a_run_without_service_has_no_ledger_to_ask() -> None:
    entry = b'{"certifiers":[{"kind":"memory-predict","ledger":"ldg_00000000000000000000000000","version":0,"sigmas":[1],"search":{}}]}'
    with pytest.raises(SpecError, match="only in the service"):
        _spec(entry)


@pytest.fixture
def service(desk: Desk) -> Client:
    """The client of users on the connection of the test."""
    found = Client("http://testserver", "none")
    found._connection.http.close()
    found._connection.http = desk.client
    return found


def test_the_client_asks_a_ledger(desk: Desk, service: Client) -> None:
    where, _ = desk.certified()
    rows = desk.answers(ledger=where, seed=4)
    assert service.predict(desk.model_id, desk.dataset_id, ledger=where, n=200, alpha=0.01, seed=4) == rows
