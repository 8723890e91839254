"""The API on a database of its own, with a worker beside it that is driven by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from storage.database import Database
from storage.keys import create_key
from storage.settings import Settings
from storage.tenants import ensure_tenant
from tests.support.files import dataset
from tests.support.onnx_models import small_cnn
from tests.support.service import Service, drive
from workers.executor import LocalExecutor


class Api:
    """A client with a key, and the dispatcher behind it."""

    def __init__(self, folder: Path, client: TestClient, db: Database) -> None:
        self.client, self.db = client, db
        self.client.headers["Authorization"] = f"Bearer {self.key('default')}"
        self.service = Service(folder)
        self.executor = LocalExecutor()
        self.dispatcher = self.service.dispatcher(self.executor)

    def key(self, tenant: str) -> str:
        return create_key(self.db, ensure_tenant(self.db, tenant).id, "test")[1]

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        assert self.client.put(f"/v1/blobs/sha256/{digest}", content=data).status_code in (200, 201)
        return digest

    def model(self, data: bytes | None = None, **more: Any) -> Any:
        return self.client.post(
            "/v1/models", json={"name": "m", "blob": self.put(small_cnn(mean=0.5) if data is None else data), "range": [0, 1], **more}
        )

    def dataset(self, data: bytes | None = None) -> Any:
        return self.client.post("/v1/datasets", json={"name": "d", "blob": self.put(dataset() if data is None else data)})

    def ready(self, model: bytes | None = None, data: bytes | None = None) -> tuple[str, str]:
        ids = self.model(model).json()["id"], self.dataset(data).json()["id"]
        self.service.inspected(self.dispatcher, *ids)
        return ids

    def finish(self, job_id: str) -> None:
        drive(self.dispatcher, lambda: self.client.get(f"/v1/jobs/{job_id}").json()["state"] in ("succeeded", "failed", "cancelled"))


@contextmanager
def opened(folder: Path) -> Iterator[Api]:
    """The API in a folder, until the block ends."""
    settings = Settings(home=folder)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        found = Api(folder, client, client.app.state.db)  # type: ignore[attr-defined]
        yield found
        found.executor.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with opened(tmp_path) as found:
        yield found
