"""Schedules over REST: made, previewed, changed under If-Match, run, and three nights through the whole service."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from storage import firing
from tests.api.conftest import Api
from tests.support.files import SPEC
from tests.support.onnx_models import small_cnn
from tests.support.shop import BOUNDS, ready_dataset, ready_model

CHEAP: dict[str, Any] = {"certifiers": [BOUNDS]}


def body(model: Any, dataset: Any, spec: Any = CHEAP, **changes: Any) -> dict[str, Any]:
    template = {"model": model, "dataset": dataset, "spec": spec}
    return {"name": "nightly", "cron": "0 2 * * *", "zone": "Europe/Berlin", "template": template, **changes}


def asking(**changes: Any) -> dict[str, Any]:
    return {"template": {"model": {"name": "m"}, "dataset": {"name": "digits"}, "spec": CHEAP, **changes}}


def ready(api: Api) -> tuple[str, str]:
    """A model `m` and a dataset `digits` as if a worker had inspected them."""
    return ready_model(api.service.db, api.service.tenant, name="m"), ready_dataset(api.service.db, api.service.tenant)


@pytest.fixture
def made(api: Api) -> dict[str, Any]:
    answer = api.client.post("/v1/schedules", json=body({"name": "m"}, ready(api)[1]))
    assert answer.status_code == 201, answer.text
    assert answer.headers["ETag"] == '"1"'
    assert answer.headers["Location"] == f"/v1/schedules/{answer.json()['id']}"
    found: dict[str, Any] = answer.json()
    return found


def test_a_schedule_is_made_and_shown(api: Api, made: dict[str, Any]) -> None:
    assert made["english"] == "At 02:00 every day"
    assert made["template"]["model"] == {"id": None, "name": "m", "version": "latest"}
    assert made["template"]["dataset"]["id"].startswith("dat_")
    assert (made["overlap"], made["catch_up"], made["deadline_seconds"], made["paused"], made["revision"]) == (
        "skip",
        "latest",
        None,
        False,
        1,
    )
    assert api.client.get(f"/v1/schedules/{made['id']}").json() == made
    assert api.client.get("/v1/schedules", params={"name": "nightly"}).json()["items"] == [made]
    assert api.client.get("/v1/schedules", params={"name": "weekly"}).json()["items"] == []


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"cron": "0 25 * * *"}, 422, "cron"),
        ({"zone": "Berlin"}, 422, "zone"),
        ({"overlap": "never"}, 422, "overlap"),
        ({"deadline_seconds": 0}, 422, "deadline_seconds"),
        ({"when": "tomorrow"}, 422, "when"),
        (asking(spec={"certifiers": []}), 422, "template.spec.certifiers"),
        (asking(spec={**CHEAP, "examples": {"start": 99}}), 422, "template.spec.examples.start"),
        (asking(model={"name": "nobody"}), 404, "template.model"),
        (asking(model="mdl_nobody"), 404, "model"),
        (asking(dataset={"name": "digits", "version": 2}), 404, "template.dataset"),
        (asking(dataset={"name": "digits", "version": "newest"}), 422, "template.dataset.version"),
        (asking(dataset={"name": "digits", "version": 0}), 422, "template.dataset.version"),
        (asking(dataset={"name": "digits", "id": "dat_x"}), 422, "template.dataset"),
        (asking(dataset={}), 422, "template.dataset"),
        (asking(dataset=7), 422, "template.dataset"),
    ],
)
def test_what_is_wrong_is_named(api: Api, changes: dict[str, Any], status: int, field: str) -> None:
    ready(api)
    answer = api.client.post("/v1/schedules", json={**body({"name": "m"}, {"name": "digits"}), **changes})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert field in [error["field"] for error in answer.json()["errors"]], answer.text


def test_a_preview_shows_the_clock_change_on_the_clock_of_the_zone(api: Api) -> None:
    query = {"cron": "30 2 * * *", "zone": "Europe/Berlin", "n": 3, "after": "2026-10-24T12:00:00Z"}
    answer = api.client.get("/v1/schedules/preview", params=query)
    assert answer.status_code == 200
    assert answer.json()["english"] == "At 02:30 every day"
    assert [tick["at"] for tick in answer.json()["ticks"]] == ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z", "2026-10-27T01:30:00Z"]
    assert [tick["local"] for tick in answer.json()["ticks"]] == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
        "2026-10-27T02:30:00+01:00",
    ]
    for wrong in ({"cron": "nonsense"}, {"zone": "Mars/Base"}, {"n": 101}, {"after": "2026-10-24"}, {"after": "0001-01-01T00:00:00Z"}):
        assert api.client.get("/v1/schedules/preview", params={**query, **wrong}).status_code == 422


def test_the_preview_of_a_schedule_begins_with_its_next_tick(api: Api, made: dict[str, Any]) -> None:
    ticks = api.client.get(f"/v1/schedules/{made['id']}/preview", params={"n": 4}).json()["ticks"]
    assert ticks[0]["at"] == made["next_at"]
    assert [tick["local"][11:19] for tick in ticks] == ["02:00:00"] * 4


def test_a_change_needs_the_revision_that_was_read(api: Api, made: dict[str, Any]) -> None:
    path, change = f"/v1/schedules/{made['id']}", {"overlap": "queue", "deadline_seconds": 600}
    missing = api.client.patch(path, json=change)
    assert (missing.status_code, missing.json()["code"]) == (428, "revision-needed")
    for stale in ('"2"', '"0"', "nonsense", '"1", "2"'):
        answer = api.client.patch(path, json=change, headers={"If-Match": stale})
        assert (answer.status_code, answer.json()["code"]) == (412, "stale"), stale
    changed = api.client.patch(path, json=change, headers={"If-Match": '"1"'})
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    assert changed.json() == {**made, **change, "revision": 2, "updated_at": changed.json()["updated_at"]}
    assert api.client.patch(path, json=change, headers={"If-Match": '"1"'}).status_code == 412
    assert api.client.patch(path, json={"deadline_seconds": None}, headers={"If-Match": "*"}).json()["deadline_seconds"] is None
    # what is read can be sent back
    assert api.client.patch(path, json={"template": made["template"]}, headers={"If-Match": "*"}).json()["template"] == made["template"]
    for wrong in ({"name": None}, {"cron": "x"}, {"template": {}}, {"colour": 1}, {"overlap": None}):
        assert api.client.patch(path, json=wrong, headers={"If-Match": "*"}).status_code == 422, wrong


def test_pause_resume_and_remove(api: Api, made: dict[str, Any]) -> None:
    path = f"/v1/schedules/{made['id']}"
    paused = api.client.post(f"{path}/pause")
    assert (paused.status_code, paused.json()["paused"], paused.json()["next_at"], paused.headers["ETag"]) == (200, True, None, '"2"')
    assert api.client.get(f"{path}/preview").json()["ticks"][0]["at"] == made["next_at"]
    resumed = api.client.post(f"{path}/resume").json()
    assert (resumed["paused"], resumed["next_at"]) == (False, made["next_at"])
    assert api.client.delete(path).status_code == 204
    for gone in (api.client.get(path), api.client.delete(path), api.client.post(f"{path}/run"), api.client.get(f"{path}/runs")):
        assert gone.status_code == 404


def test_run_now_answers_with_what_became_of_it(api: Api, made: dict[str, Any]) -> None:
    first = api.client.post(f"/v1/schedules/{made['id']}/run")
    assert (first.status_code, first.json()["state"], first.json()["manual"]) == (202, "submitted", True)
    assert first.headers["Location"] == f"/v1/jobs/{first.json()['job']}"
    second = api.client.post(f"/v1/schedules/{made['id']}/run").json()
    assert (second["state"], second["job"]) == ("skipped", None)
    assert f"{first.json()['job']} of the tick of" in second["reason"]
    runs = api.client.get(f"/v1/schedules/{made['id']}/runs", params={"limit": 1})
    assert runs.json()["items"] == [second]
    rest = api.client.get(f"/v1/schedules/{made['id']}/runs", params={"cursor": runs.json()["next_cursor"]})
    assert rest.json()["items"] == [first.json()]


def test_metrics_tell_of_schedules(api: Api, made: dict[str, Any]) -> None:
    api.client.post(f"/v1/schedules/{made['id']}/run")
    told = api.client.get("/metrics").text
    for line in ('assay_schedules{state="active"} 1.0', 'assay_schedule_runs{state="submitted"} 1.0', "assay_schedule_late_seconds 0.0"):
        assert line in told


def test_another_tenant_finds_nothing(api: Api, made: dict[str, Any]) -> None:
    headers, path = {"Authorization": f"Bearer {api.key('stranger')}"}, f"/v1/schedules/{made['id']}"
    for method, where in (
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/run"),
        ("POST", "/pause"),
        ("GET", "/runs"),
        ("GET", "/preview"),
    ):
        sent = {"json": {"name": "mine"}, "headers": {**headers, "If-Match": "*"}} if method == "PATCH" else {"headers": headers}
        assert api.client.request(method, path + where, **sent).status_code == 404, (method, where)
    assert api.client.get("/v1/schedules", headers=headers).json()["items"] == []
    assert api.client.get(path).json() == made


def certificates(api: Api, job_id: str) -> str:
    return api.client.get(f"/v1/jobs/{job_id}/results", params={"format": "ndjson"}).text


def test_three_nights(api: Api) -> None:
    """The first night certifies, the second uses the same certificates again, the third certifies the new model."""
    made = api.client.post("/v1/schedules", json=body({"name": "m"}, api.ready()[1], SPEC)).json()
    secret = api.client.app.state.settings.secret  # type: ignore[attr-defined]
    night, path = datetime.fromisoformat(made["next_at"]), f"/v1/schedules/{made['id']}"

    def tick() -> dict[str, Any]:
        nonlocal night
        for minute in range(-30, 31):  # a scheduler looks again and again
            firing.fire_due(api.service.db, secret, now=night + timedelta(minutes=minute))
        night += timedelta(days=1)
        run: dict[str, Any] = api.client.get(f"{path}/runs", params={"limit": 1}).json()["items"][0]
        return run

    first = tick()
    assert (first["state"], first["reused"]) == ("submitted", False)
    api.finish(first["job"])
    assert api.client.get(f"/v1/jobs/{first['job']}").json()["state"] == "succeeded"
    proved = certificates(api, first["job"])
    assert len(proved.splitlines()) == 16

    second = tick()
    assert (second["state"], second["reused"], second["job"]) == ("reused", True, first["job"])
    assert "unchanged (m version 1 on d version 1)" in second["reason"]
    assert certificates(api, second["job"]) == proved

    changed = api.model(small_cnn(mean=0.4)).json()
    assert changed["version"] == 2
    api.service.inspected(api.dispatcher, changed["id"], api.client.get(f"/v1/jobs/{first['job']}").json()["dataset"])
    third = tick()
    assert (third["state"], third["reason"]) == ("submitted", "m version 2 on d version 1")
    assert third["job"] != first["job"]
    api.finish(third["job"])
    assert api.client.get(f"/v1/jobs/{third['job']}").json()["model"] == changed["id"]
    assert certificates(api, third["job"]) != proved
    history = api.client.get(f"{path}/runs").json()["items"]
    assert [run["state"] for run in history] == ["submitted", "reused", "submitted"]
    assert len(api.client.get("/v1/jobs").json()["items"]) == 2
