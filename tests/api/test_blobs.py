"""Uploads: streamed, limited before they are read, skipped when known, resumed after a lost connection, in little memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.sdk.client import Client
from storage.settings import Settings
from tests.api.conftest import Api
from tests.api.test_routes import problem
from tests.support.server import Server

MIB = 2**20
CONTENT = os.urandom(3 * MIB + 17)
SHA = hashlib.sha256(CONTENT).hexdigest()
TARGET = f"/v1/blobs/sha256/{SHA}"


def send(api: Api, first: int, last: int, *, total: int = len(CONTENT), content: bytes = CONTENT, target: str = TARGET) -> Any:
    return api.client.put(target, content=content[first:last], headers={"Content-Range": f"bytes {first}-{last - 1}/{total}"})


def test_an_upload_in_parts(api: Api) -> None:
    head = api.client.head(TARGET)
    assert (head.status_code, head.headers["upload-offset"]) == (404, "0")
    sent = send(api, 0, MIB)
    assert (sent.status_code, sent.json()) == (202, {"sha256": SHA, "received": MIB, "total": len(CONTENT)})
    head = api.client.head(TARGET)
    assert (head.status_code, head.headers["upload-offset"], head.headers["range"]) == (404, str(MIB), f"bytes=0-{MIB - 1}")
    for first, last in ((2 * MIB, 3 * MIB), (MIB - 5, 2 * MIB)):
        out = send(api, first, last)
        assert f"byte {MIB}" in problem(out, 409)["detail"]
        assert out.headers["upload-offset"] == str(MIB)
    assert send(api, MIB, len(CONTENT)).status_code == 201
    assert api.client.head(TARGET).headers["x-blob-size"] == str(len(CONTENT))
    assert send(api, MIB, len(CONTENT)).status_code == 200  # its answer was lost, say
    assert api.client.app.state.artifacts.get(SHA) == CONTENT  # type: ignore[attr-defined]


def test_one_part_that_is_everything(api: Api) -> None:
    assert send(api, 0, len(CONTENT)).status_code == 201
    assert api.client.head(TARGET).status_code == 200


@pytest.mark.parametrize(
    ("header", "status", "text"),
    [
        ("bytes=0-1", 422, "bytes FIRST-LAST/TOTAL"),
        ("bytes 0-1/*", 422, "bytes FIRST-LAST/TOTAL"),
        ("bytes ٠-1/2", 422, "bytes FIRST-LAST/TOTAL"),
        ("bytes 5-4/9", 422, "do not exist"),
        ("bytes 0-9/9", 422, "do not exist"),
        ("bytes 0-1048575/9999999999", 413, "more than"),
        ("bytes 0-9/99", 422, "at least 1048576 bytes"),
        ("bytes 0-1048576/9999999", 422, "has not the 1048577 bytes"),
        ("bytes 0-1048570/1048571", 422, "has not the 1048571 bytes"),
    ],
)
def test_ranges_that_cannot_be(api: Api, header: str, status: int, text: str) -> None:
    sent = api.client.put(TARGET, content=CONTENT[:MIB], headers={"Content-Range": header.encode()})
    assert text in problem(sent, status)["detail"]
    assert api.client.head(TARGET).headers["upload-offset"] == "0"


def test_a_false_hash_at_the_end_of_the_parts(api: Api) -> None:
    other = bytes(len(CONTENT))
    assert send(api, 0, 2 * MIB, content=other).status_code == 202
    assert "has SHA-256" in problem(send(api, 2 * MIB, len(CONTENT), content=other), 422)["detail"]
    head = api.client.head(TARGET)
    assert (head.status_code, head.headers["upload-offset"]) == (404, "0")


def test_the_limit_comes_before_the_reading(tmp_path: Path) -> None:
    """An announced length is refused before the first byte is asked for; an unannounced one as soon as it is passed."""
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += MIB
            yield bytes(MIB)

    with TestClient(create_app(Settings(home=tmp_path, max_upload_bytes=2 * MIB)), raise_server_exceptions=False) as client:
        api = Api(tmp_path, client, client.app.state.db)  # type: ignore[attr-defined]
        api.executor.close()
        sent = api.client.put(TARGET, content=b"", headers={"Content-Length": str(2 * MIB + 1)})
        assert "2097152 bytes" in problem(sent, 413)["detail"]
    with Server(tmp_path, ASSAY_MAX_UPLOAD_BYTES=str(2 * MIB)) as server, server.client() as http:
        problem(http.put(TARGET, content=endless()), 413)
        assert read < 64 * MIB  # what lay in the buffers of both ends
        assert http.get("/v1/models").status_code == 200


class Unreliable(httpx.HTTPTransport):
    """A network that loses the connection now and then, before the request arrives or before its answer does."""

    def __init__(self) -> None:
        super().__init__()
        self.puts, self.lost = 0, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.puts += request.method == "PUT"
        if request.method == "PUT" and self.puts % 4 == 2:
            self.lost += 1
            raise httpx.WriteError("the cable was pulled")
        response = super().handle_request(request)
        if request.method == "PUT" and self.puts % 4 == 0:
            self.lost += 1
            response.close()
            raise httpx.ReadError("the cable was pulled")
        return response


def test_the_client_goes_on_after_lost_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And after the service was killed and started again: the parts lie in the store, not in a process."""
    monkeypatch.setattr("api.sdk.client.PART_BYTES", MIB)
    monkeypatch.setattr("time.sleep", lambda _: None)
    file = tmp_path / "file"
    file.write_bytes(CONTENT * 3)
    with Server(tmp_path) as server, Client(server.url, server.key) as client:
        network = Unreliable()
        client._connection.http = httpx.Client(
            transport=network, base_url=server.url, headers=client._connection.http.headers, timeout=30.0
        )
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        with server.client() as http:
            first = {"Content-Range": f"bytes 0-{2 * MIB - 1}/{len(CONTENT) * 3}"}
            assert http.put(f"/v1/blobs/sha256/{digest}", content=CONTENT[: 2 * MIB], headers=first).status_code == 202
        server.kill()
        server.start()
        assert client.upload_blob(file) == digest
        assert network.lost >= 3
        assert network.puts < 16  # 8 MiB were left to send
        with server.client() as http:
            assert http.head(f"/v1/blobs/sha256/{digest}").headers["x-blob-size"] == str(len(CONTENT) * 3)


def bytes_of(size: int) -> Iterator[bytes]:
    piece = bytes(range(256)) * 1024
    for number in range(size // len(piece)):
        yield number.to_bytes(8, "big") + piece[8:]


def growth(home: Path, size: int, *, parts: bool) -> int:
    """By how much an upload raises the most memory that the API's process ever held, in bytes."""
    digest = hashlib.sha256()
    for chunk in bytes_of(size):
        digest.update(chunk)
    target = f"/v1/blobs/sha256/{digest.hexdigest()}"
    with Server(home) as server, server.client() as http:
        small = b"a first upload, so that all code is loaded"
        assert http.put(f"/v1/blobs/sha256/{hashlib.sha256(small).hexdigest()}", content=small).status_code == 201
        before = server.peak_memory()
        if parts:
            body, part = bytes_of(size), 16 * MIB
            for first in range(0, size, part):
                content = b"".join(next(body) for _ in range(part // (256 * 1024)))
                sent = http.put(target, content=content, headers={"Content-Range": f"bytes {first}-{first + part - 1}/{size}"})
                assert sent.status_code in (201, 202)
        else:
            sent = http.put(target, content=bytes_of(size))
        assert sent.status_code == 201, sent.text
        assert http.head(target).headers["x-blob-size"] == str(size)
        return server.peak_memory() - before


@pytest.mark.parametrize("parts", [False, True])
def test_an_upload_of_256_mib_takes_little_memory(tmp_path: Path, parts: bool) -> None:
    assert growth(tmp_path, 256 * MIB, parts=parts) < 50 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("parts", [False, True])
def test_an_upload_of_2_gib_takes_little_memory(tmp_path: Path, parts: bool) -> None:
    found = growth(tmp_path, 2**31, parts=parts)
    print(f"2 GiB {'in parts' if parts else 'in one'}: {found / MIB:.1f} MiB")  # noqa: T201
    assert found < 50 * MIB


def test_a_full_tenant_is_told_before_it_sends(tmp_path: Path) -> None:
    """Parts take up room from the first on, so that uploads which nobody finishes cannot fill the store."""
    settings = Settings(home=tmp_path, max_stored_gib=4 / 1024)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        api = Api(tmp_path, client, client.app.state.db)  # type: ignore[attr-defined]
        api.executor.close()
        assert send(api, 0, MIB).status_code == 202
        other = os.urandom(3 * MIB + 1)
        target = f"/v1/blobs/sha256/{hashlib.sha256(other).hexdigest()}"
        assert "quota" in problem(client.put(target, content=other), 413)["detail"]
        assert "quota" in problem(client.put(target, content=(other[i : i + MIB] for i in range(0, len(other), MIB))), 413)["detail"]
        assert "quota" in problem(send(api, 0, 2 * MIB, total=len(other), content=other, target=target), 413)["detail"]
        assert send(api, MIB, len(CONTENT)).status_code == 201  # its own parts do not count twice
        assert api.client.put(TARGET, content=CONTENT).status_code == 200
