"""The client over a bad network: what it sends again happens once, and it waits no longer than makes sense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from api.sdk.client import Client, ServiceError
from tests.support.server import Server

Send = Callable[[httpx.Request], httpx.Response]


class Network(httpx.HTTPTransport):
    """A real network, in which the next exchanges go wrong as the `faults` say."""

    def __init__(self, faults: list[Callable[[Send, httpx.Request], httpx.Response]]) -> None:
        super().__init__()
        self.faults, self.requests = faults, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if self.faults:
            return self.faults.pop(0)(super().handle_request, request)
        return super().handle_request(request)


def answer_lost(send: Send, request: httpx.Request) -> httpx.Response:
    send(request).close()
    raise httpx.ReadError("the cable was pulled")


def nobody_there(_send: Send, _request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def refused(status: int, **headers: str) -> Callable[[Send, httpx.Request], httpx.Response]:
    """What a proxy or a busy service in between answers."""
    return lambda _send, _request: httpx.Response(status, headers=headers, text="busy")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(Path(tmp_path_factory.mktemp("home")), ASSAY_WEBHOOK_PRIVATE="true") as found:
        yield found


@pytest.fixture(scope="module")
def hook(server: Server) -> str:
    with server.client() as http:
        return str(http.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/hook"}).json()["id"])


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr("api.sdk.connection.time.sleep", lambda _: None)
    with Client(server.url, server.key) as found:
        yield found


def through(client: Client, *faults: Callable[[Send, httpx.Request], httpx.Response]) -> Network:
    network = Network(list(faults))
    http = client._connection.http
    client._connection.http = httpx.Client(transport=network, base_url=http.base_url, headers=http.headers, timeout=30.0)
    return network


def deliveries(server: Server, hook: str) -> int:
    with server.client() as http:
        return len(http.get(f"/v1/webhooks/{hook}/deliveries?limit=1000").json()["items"])


@pytest.mark.parametrize(
    "faults",
    [[answer_lost], [answer_lost, answer_lost, nobody_there], [refused(503, **{"Retry-After": "1"})], [refused(502), answer_lost]],
)
def test_a_post_that_is_sent_again_happens_once(
    server: Server, hook: str, client: Client, faults: list[Callable[..., httpx.Response]]
) -> None:
    before = deliveries(server, hook)
    network = through(client, *faults)
    assert client.post(f"/v1/webhooks/{hook}/test")["event"] == "webhook.test"
    assert network.requests == len(faults) + 1
    assert deliveries(server, hook) == before + 1


def test_two_posts_are_two(server: Server, hook: str, client: Client) -> None:
    before = deliveries(server, hook)
    for _ in range(2):
        client.post(f"/v1/webhooks/{hook}/test")
    assert deliveries(server, hook) == before + 2


def test_a_read_is_sent_again(client: Client) -> None:
    network = through(client, answer_lost, nobody_there, refused(504))
    assert client.get("/v1/webhooks")["items"]
    assert network.requests == 4


def test_it_does_not_wait_for_what_will_not_come(client: Client) -> None:
    """Nobody was ever there; a change that is no POST; a quota that lasts; a refusal; and patience has an end."""
    for faults, asks in (
        ([nobody_there], 1),
        ([refused(429, **{"Retry-After": "3600"})], 1),
        ([refused(422)], 1),
        ([refused(503)] * 9, 5),
        ([answer_lost] * 9, 5),
    ):
        network = through(client, *faults)
        with pytest.raises(ServiceError):
            client.get("/v1/webhooks")
        assert network.requests == asks
    network = through(client, answer_lost)
    with pytest.raises(ServiceError):
        client.delete("/v1/webhooks/whk_x")
    assert network.requests == 1
