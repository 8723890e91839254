"""What no route could take is refused before any sees it, as one shape of error with a name."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from api.edge import MAX_JSON_BYTES
from storage.database import Database
from tests.api.conftest import Api
from tests.api.test_routes import problem

NEW = {"name": "m", "blob": "0" * 64}


def pieces(size: int) -> Iterator[bytes]:
    for _ in range(size // 2**16):
        yield b" " * 2**16


def test_a_large_body_is_refused_whether_announced_or_not(api: Api) -> None:
    body = problem(api.client.post("/v1/models", content=b" " * (MAX_JSON_BYTES + 1), headers={"Content-Type": "application/json"}), 413)
    assert body["code"] == "too-large"
    body = problem(api.client.post("/v1/models", content=pieces(MAX_JSON_BYTES + 2**16), headers={"Content-Type": "application/json"}), 413)
    assert body["code"] == "too-large"
    # One that no route reads is no loophole.
    problem(api.client.post("/v1/jobs/job_x/cancel", content=b" " * (MAX_JSON_BYTES + 1)), 413)


@pytest.mark.parametrize("path", ["/v1/jobs/job%00x", "/v1/models?name=%00", "/v1/jobs?cursor=a%00", "/healthz?x=%00"])
def test_nul_characters_in_the_address(api: Api, path: str) -> None:
    assert "NUL" in problem(api.client.get(path), 422)["detail"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "body: is not JSON"),
        (b"", "body: is required"),
        (b"[]", "body"),
        (b"[" * 100_000 + b"]" * 100_000, "too deeply"),
        (b'{"name": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"name": "a\\u0000b", "blob": "x"}', "NUL"),
        (b'{"model": "m", "dataset": "d", "spec": {"certifiers": [{"kind": "\\ud800"}]}}', "Unicode"),
    ],
)
def test_bodies_that_are_no_requests(api: Api, content: bytes, text: str) -> None:
    path = "/v1/jobs" if b"spec" in content else "/v1/models"
    assert text in problem(api.client.post(path, content=content, headers={"Content-Type": "application/json"}), 422)["detail"]


def test_a_body_of_another_type(api: Api) -> None:
    body = problem(api.client.post("/v1/models", content=b"name=m", headers={"Content-Type": "application/x-www-form-urlencoded"}), 415)
    assert body["errors"][0]["field"] == "Content-Type"
    assert api.client.post("/v1/models", json=NEW, headers={"Content-Type": "application/merge-patch+json"}).status_code == 404


def test_a_validators_sentence_is_split_into_what_is_wrong_and_its_mend(api: Api) -> None:
    error = problem(api.client.post("/v1/models", json={**NEW, "range": [1, 0]}), 422)["errors"][0]
    assert error["detail"] == "is [1.0, 0.0]"
    assert error["mend"] == "use [low, high] with low < high, both finite"
    assert error["field"] == "range"


def test_every_response_has_the_name_of_its_request(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [api.client.get(path).headers["x-request-id"] for path in ("/healthz", "/v1/jobs", "/nothing")]
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"req_[0-9a-f]{16}", name) for name in names)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("storage.jobs.list_jobs", broken)
    body = problem(api.client.get("/v1/jobs"), 500)
    assert "secret" not in body["detail"]


def test_a_database_that_is_gone_is_told_as_such(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with a time to come back, never 500: the request was right."""
    monkeypatch.setattr("storage.database._WRITER_SECONDS", 0.05)
    assert api.client.get("/v1/jobs").status_code == 200  # the first use of a key is noted
    held, done = threading.Event(), threading.Event()

    def hold(db: Database) -> None:
        with db.begin():
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold, args=(api.db,))
    thread.start()
    assert held.wait(20)
    try:
        refused = api.client.post("/v1/models", json=NEW)
        problem(refused, 503)
        assert int(refused.headers["retry-after"]) > 0
        assert api.client.get("/v1/jobs").status_code == 200  # readers wait for nobody
    finally:
        done.set()
        thread.join()
