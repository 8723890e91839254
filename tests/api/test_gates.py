"""Gates and webhooks over REST: refused with the mend, judged, shown as JSON, as JUnit and on the report's page."""

from __future__ import annotations

import time
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from api import schemas_gates
from api.junit import junit
from certify.gate_rules import parse_rules
from certify.gates import Judgement
from storage.keys import create_key
from storage.records_gates import Outcome
from storage.tables import audit_log
from tests.api.conftest import Api
from tests.support.gated import RADIUS, START, Nightly, answered
from tests.support.pairs import changed
from tests.support.receiver import receiver
from tests.support.shop import Shop
from workers import gates as judging
from workers.outbox import Outbox

ACCURACY = {"kind": "certified-accuracy", "radius": RADIUS, "at_least": 0.5}


@pytest.fixture
def shop(api: Api) -> Shop:
    """The tenant of the key, with a dataset of 500 examples; no worker is needed."""
    return Shop.open(api.service.db, "default", count=500)


def gate(api: Api, **body: Any) -> Any:
    return api.client.post("/v1/gates", json={"name": "release", "rules": [ACCURACY], **body})


def two_nights(shop: Shop) -> tuple[str, str]:
    then, now = changed(20, 5, kept=285, never=190)
    return answered(shop, shop.submit(seed=1), then).id, answered(shop, shop.submit(seed=2), now).id


def test_a_planted_drop_is_red_in_every_form(api: Api, shop: Shop) -> None:
    base, head = two_nights(shop)
    made = gate(api, job=head, rules=[{"kind": "no-drop", "radius": RADIUS, "baseline": base}, ACCURACY])
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/v1/gates/{made.json()['id']}"
    assert made.json()["rules"][0]["level_per_night"] == 0.01
    waiting = api.client.get(f"/v1/jobs/{head}/gates").json()
    assert (waiting["judgement"], [one["id"] for one in waiting["waiting"]]) == (None, [made.json()["id"]])
    early = api.client.get(f"/v1/jobs/{head}/gates", params={"format": "junit"})
    assert (early.status_code, early.json()["code"]) == (409, "conflict")

    judging.step(shop.db)
    found = api.client.get(f"/v1/jobs/{head}/gates").json()
    assert found["judgement"] == found["outcomes"][0]["judgement"] == "fail"
    assert "20 lost, 5 gained of 500 examples" in found["outcomes"][0]["sentence"]
    assert found["outcomes"][0]["checks"][0]["numbers"]["p_value"] == pytest.approx(0.00203866, rel=1e-5)
    assert [o["judgement"] for o in api.client.get(f"{made.headers['location']}/outcomes").json()["items"]] == ["fail"]

    answer = api.client.get(f"/v1/jobs/{head}/gates", headers={"Accept": "application/xml"})
    assert answer.headers["content-type"].startswith("application/xml")
    suites = ET.fromstring(answer.text)
    assert suites.attrib == {"name": f"assay {head}", "tests": "2", "failures": "1", "errors": "0", "skipped": "0"}
    bad, good = suites.findall("./testsuite[@name='release']/testcase")
    assert bad.attrib["name"] == f"rule 0: no-drop at radius {RADIUS:g}, certifier 0"
    failure = bad.find("failure")
    assert failure is not None
    assert failure.attrib["message"] == failure.text == found["outcomes"][0]["checks"][0]["sentence"]
    assert good.find("failure") is None
    page = api.client.get(f"/v1/jobs/{head}/report", params={"format": "html"}).text
    assert '<p class="gate fail"><b>Gate release: failed.</b>' in page


def test_gates_are_listed_shown_and_removed(api: Api, shop: Shop) -> None:
    nights = Nightly.open(shop)
    on_schedule = gate(api, schedule=nights.schedule_id, rules=[{"kind": "no-drop", "radius": RADIUS, "baseline": "pinned"}]).json()
    on_job = gate(api, job=shop.submit().id).json()
    assert [one["id"] for one in api.client.get("/v1/gates").json()["items"]] == [on_job["id"], on_schedule["id"]]
    mine = api.client.get("/v1/gates", params={"schedule": nights.schedule_id}).json()["items"]
    assert [one["id"] for one in mine] == [on_schedule["id"]]
    first = nights.night(0, [True] * 500)
    pinned = api.client.put(f"/v1/gates/{on_schedule['id']}/pin", json={"job": first.id})
    assert pinned.json()["pinned_job"] == first.id
    assert api.client.get(f"/v1/gates/{on_schedule['id']}").json() == pinned.json()
    assert api.client.put(f"/v1/gates/{on_job['id']}/pin", json={"job": first.id}).status_code == 422
    assert api.client.delete(f"/v1/gates/{on_job['id']}").status_code == 204
    assert api.client.get(f"/v1/gates/{on_job['id']}").status_code == 404
    with shop.db.read() as connection:
        noted = connection.execute(sa.select(audit_log.c.action).order_by(audit_log.c.id)).scalars().all()
    assert [one for one in noted if one.startswith("gate.")] == ["gate.created", "gate.created", "gate.pinned", "gate.deleted"]


@pytest.mark.parametrize(
    ("body", "status", "field", "text"),
    [
        ({"rules": [{**ACCURACY, "radius": 0.07}]}, 422, "rules.0.radius", "decides radius 0.1 only"),
        ({"rules": [{**ACCURACY, "at_least": 60}]}, 422, "rules.0.at_least", "less than or equal to 1"),
        ({"rules": [{"kind": "no-drop", "radius": RADIUS}]}, 422, "rules.0.baseline", "previous needs a schedule"),
        ({"rules": [{"kind": "no-drop", "radius": RADIUS, "baseline": "job_x"}]}, 422, "rules.0.baseline", "there is no job job_x"),
        ({"rules": [{"kind": "nothing"}]}, 422, "rules.0", "nothing"),
        ({"rules": []}, 422, "rules", "at least 1"),
        ({"rules": [{**ACCURACY, "match": {"norm": "l1"}}]}, 422, "rules.0.match", "no certifier of the spec"),
        ({"job": None}, 422, "schedule", "exactly one of schedule and job"),
        ({"job": "job_x"}, 404, "job", "there is no job job_x"),
        ({"job": None, "schedule": "sch_x"}, 404, "schedule", "there is no schedule sch_x"),
        ({"name": ""}, 422, "name", "at least 1 character"),
    ],
)
def test_a_wrong_gate_is_refused_at_submission(api: Api, shop: Shop, body: dict[str, Any], status: int, field: str, text: str) -> None:
    answer = gate(api, **{"job": shop.submit().id, **body})
    assert answer.status_code == status, answer.text
    assert answer.json()["errors"][0]["field"] == field
    assert text in answer.json()["detail"]


def test_without_gates_there_is_no_junit_to_be_mistaken_for_a_pass(api: Api, shop: Shop) -> None:
    job = answered(shop, shop.submit(), [True] * 500).id
    assert api.client.get(f"/v1/jobs/{job}/gates").json() == {"judgement": None, "outcomes": [], "waiting": []}
    answer = api.client.get(f"/v1/jobs/{job}/gates", params={"format": "junit"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_an_inconclusive_check_is_skipped_and_any_text_is_xml() -> None:
    outcome = Outcome(
        id="out_1", gate_id="gat_1", gate_name="<g>", schedule_id=None, run_id=None, job_id="job_1", judgement=Judgement.INCONCLUSIVE,
        sentence='could not be judged: \x00\x1b[31m "<&>" \ud800 \U0001f600', checks=(), created_at=START,
    )  # fmt: skip
    (case,) = ET.fromstring(junit("job_1", [outcome])).findall(".//testcase")
    skipped = case.find("skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == 'could not be judged: \ufffd\ufffd[31m "<&>" \ufffd \U0001f600'


def test_a_job_that_answers_two_runs_is_shown_with_its_last_outcome(api: Api, shop: Shop) -> None:
    nights = Nightly.open(shop)
    nights.gate({"kind": "no-drop", "radius": RADIUS})
    job = nights.night(0, [True] * 500)
    nights.run(1, job)
    judging.step(shop.db)
    found = api.client.get(f"/v1/jobs/{job.id}/gates").json()
    assert [one["judgement"] for one in found["outcomes"]] == ["pass"]  # the first run had nothing to be compared with


def test_scopes_and_tenants_are_kept_apart(api: Api, shop: Shop) -> None:
    job = shop.submit().id
    made = gate(api, job=job).json()["id"]
    hook = api.client.post("/v1/webhooks", json={"url": "https://8.8.8.8/"}).json()["id"]
    reader = {"Authorization": f"Bearer {create_key(shop.db, shop.tenant, 'r', scopes=['read'])[1]}"}
    stranger = {"Authorization": f"Bearer {api.key('stranger')}"}
    for path in (f"/v1/gates/{made}", f"/v1/gates/{made}/outcomes", f"/v1/webhooks/{hook}", f"/v1/webhooks/{hook}/deliveries"):
        assert api.client.get(path, headers=reader).status_code == 200
        assert api.client.get(path, headers=stranger).status_code == 404
    writes: list[tuple[str, str, Any]] = [
        ("POST", "/v1/gates", {"name": "g", "rules": [ACCURACY], "job": job}),
        ("PUT", f"/v1/gates/{made}/pin", {"job": job}),
        ("DELETE", f"/v1/gates/{made}", None),
        ("POST", f"/v1/webhooks/{hook}/test", None),
        ("PATCH", f"/v1/webhooks/{hook}", {"active": False}),
        ("DELETE", f"/v1/webhooks/{hook}", None),
    ]
    for method, path, body in writes:
        assert api.client.request(method, path, json=body, headers=reader).status_code == 403
        assert api.client.request(method, path, json=body, headers=stranger).status_code == 404
    assert api.client.get("/v1/webhooks", headers=stranger).json()["items"] == []


def test_a_webhook_shows_its_secret_once_and_hears_what_it_asked_for(api: Api, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.webhooks.webhooks.check_url", lambda url, private: None)
    with receiver() as there:
        made = api.client.post("/v1/webhooks", json={"url": there.url, "events": ["gate.failed"]})
        assert made.status_code == 201, made.text
        place, secret = made.headers["location"], made.json()["secret"]
        assert made.headers["cache-control"] == "no-store"
        for shown in (api.client.get(place).text, api.client.get("/v1/webhooks").text):
            assert secret not in shown
            assert there.url in shown
        assert api.client.post(f"{place}/test").status_code == 202
        base, head = two_nights(shop)
        gate(api, job=head, rules=[{"kind": "no-drop", "radius": RADIUS, "baseline": base}, ACCURACY])
        judging.step(shop.db)
        outbox = Outbox(shop.db, "w", private=True)
        deadline = time.monotonic() + 20
        while len(there.received) < 2 and time.monotonic() < deadline:
            outbox.step()
            time.sleep(0.02)
        outbox.close()
        listed = api.client.get(f"{place}/deliveries").json()["items"]
        assert [one["event"] for one in listed] == ["gate.failed", "webhook.test"]
        assert {one.headers["assay-event-id"] for one in there.received} == {one["id"] for one in listed}
    assert api.client.patch(place, json={"active": False}).json()["active"] is False
    assert api.client.post(f"{place}/test").status_code == 409
    assert api.client.delete(place).status_code == 204
    assert api.client.get(place).status_code == 404


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        ({"url": "http://127.0.0.1:9/"}, "url", "lies in a private network"),
        ({"url": "http://169.254.169.254/latest"}, "url", "ASSAY_WEBHOOK_PRIVATE=1"),
        ({"url": "gopher://8.8.8.8/"}, "url", "not an http or https URL"),
        ({"url": "https://8.8.8.8/", "events": ["gate.burst"]}, "events", "'gate.burst' is not known"),
        ({"url": "https://8.8.8.8/", "events": []}, "events", "at least 1 item"),
    ],
)
def test_a_wrong_webhook_is_refused(api: Api, body: dict[str, Any], field: str, text: str) -> None:
    answer = api.client.post("/v1/webhooks", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert text in answer.json()["detail"]


def test_the_examples_in_the_description_are_real() -> None:
    for name, kind in vars(schemas_gates).items():
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__module__ == schemas_gates.__name__:
            (example,) = kind.model_json_schema()["examples"]
            assert kind.model_validate(example), name
    assert parse_rules(schemas_gates.NewGate.model_json_schema()["examples"][0]["rules"])
