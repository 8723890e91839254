"""A POST with an Idempotency-Key happens once, however often it arrives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from storage.settings import Settings
from tests.api.conftest import Api
from tests.api.test_routes import problem
from tests.storage.conftest import empty_url, pg_server
from tests.support.server import Server

__all__ = ["empty_url", "pg_server"]
HOOK = {"url": "http://127.0.0.1:9/hook", "events": ["gate.failed"]}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with TestClient(create_app(Settings(home=tmp_path, webhook_private=True)), raise_server_exceptions=False) as client:
        found = Api(tmp_path, client, client.app.state.db)  # type: ignore[attr-defined]
        found.executor.close()
        yield found


def send(client: httpx.Client, path: str, key: str, body: Any = None, **headers: str) -> httpx.Response:
    return client.post(path, json=body, headers={"Idempotency-Key": key, **headers})


def deliveries(client: httpx.Client, hook: str) -> int:
    return len(client.get(f"/v1/webhooks/{hook}/deliveries").json()["items"])


@pytest.fixture
def hook(api: Api) -> str:
    return str(api.client.post("/v1/webhooks", json=HOOK).json()["id"])


def test_the_same_request_again_gets_the_same_answer(api: Api, hook: str) -> None:
    first = send(api.client, f"/v1/webhooks/{hook}/test", "k")
    again = send(api.client, f"/v1/webhooks/{hook}/test", "k")
    assert first.status_code == again.status_code == 202
    assert (first.content, "idempotent-replayed" in first.headers) == (again.content, False)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert deliveries(api.client, hook) == 1
    send(api.client, f"/v1/webhooks/{hook}/test", "another")
    assert deliveries(api.client, hook) == 2
    body = {"name": "m", "blob": api.put(b"\x08\x08model")}
    made = [send(api.client, "/v1/models", "m", body) for _ in range(2)]
    assert [m.headers["location"] for m in made] == [f"/v1/models/{made[0].json()['id']}"] * 2


def test_a_key_names_one_request(api: Api, hook: str) -> None:
    body = {"name": "m", "blob": api.put(b"\x08\x08model")}
    assert send(api.client, "/v1/models", "k", body).status_code == 202
    for path, other in (("/v1/models", {**body, "name": "n"}), ("/v1/models?x=1", body), (f"/v1/webhooks/{hook}/test", None)):
        assert "another request" in problem(send(api.client, path, "k", other), 422)["detail"]
    assert deliveries(api.client, hook) == 0
    # Another key of the same tenant may have fewer rights: what the first saw is not for it.
    stranger = {"Authorization": f"Bearer {api.key('default')}"}
    assert "another request" in problem(send(api.client, "/v1/models", "k", body, **stranger), 422)["detail"]
    assert send(api.client, "/v1/models", "k", body, Authorization=f"Bearer {api.key('other')}").status_code == 404  # its own keys


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256, "a\tb"])
def test_keys_that_are_no_keys(api: Api, hook: str, key: str) -> None:
    sent = api.client.post(f"/v1/webhooks/{hook}/test", headers={"Idempotency-Key": key.encode()})
    assert "visible ASCII" in problem(sent, 422)["detail"]
    assert deliveries(api.client, hook) == 0


def test_a_refusal_frees_the_key(api: Api, hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"name": "m", "blob": "0" * 64}
    assert send(api.client, "/v1/models", "k", body).status_code == 404
    assert send(api.client, "/v1/models", "k", {**body, "blob": api.put(b"\x08\x08model")}).status_code == 202

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("storage.webhooks.send_test", broken)
        problem(send(api.client, f"/v1/webhooks/{hook}/test", "five-hundred"), 500)
    assert send(api.client, f"/v1/webhooks/{hook}/test", "five-hundred").status_code == 202


def test_a_secret_is_never_kept(api: Api, tmp_path: Path) -> None:
    """Neither a key's token nor a webhook's secret: the second time there is only the way to what was made."""
    for path, body, shown in (("/v1/api-keys", {"name": "ci", "scopes": ["read"]}, "token"), ("/v1/webhooks", HOOK, "secret")):
        first = send(api.client, path, path, body)
        assert first.status_code == 201
        again = send(api.client, path, path, body)
        assert problem(again, 409)["code"] == "answer-not-kept"
        assert again.headers["location"] == first.headers["location"]
        assert first.json()[shown] not in again.text
    token = send(api.client, "/v1/api-keys", "z", {"name": "z", "scopes": ["read"]}).json()["token"]
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("assay.db*"))
    assert token.rpartition("_")[2].encode() not in stored


def test_a_large_body_is_refused(api: Api) -> None:
    problem(api.client.post("/v1/models", content=iter([b" " * 2**20] * 5), headers={"Idempotency-Key": "k"}), 413)


def test_without_a_key_of_the_api_nothing_is_claimed(api: Api) -> None:
    assert send(api.client, "/v1/models", "k", {}, Authorization="Bearer nonsense").status_code == 401


def test_two_at_once_make_one(tmp_path: Path, empty_url: str) -> None:
    """On both databases: whatever the race, one object; each caller gets its answer or is told to wait."""
    with Server(tmp_path, empty_url, ASSAY_WEBHOOK_PRIVATE="true") as server, server.client() as http:
        hook = http.post("/v1/webhooks", json=HOOK).json()["id"]
        for attempt in range(3):
            key, got = f"race-{attempt}", []
            start = threading.Barrier(4)

            def one(key: str = key, got: list[httpx.Response] = got, start: threading.Barrier = start) -> None:
                with server.client() as own:
                    start.wait()
                    got.append(send(own, f"/v1/webhooks/{hook}/test", key))

            threads = [threading.Thread(target=one) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert {r.status_code for r in got} <= {202, 409}
            assert all(int(r.headers["retry-after"]) > 0 for r in got if r.status_code == 409)
            assert len({r.json()["id"] for r in got if r.status_code == 202}) == 1
            assert deliveries(http, hook) == attempt + 1
