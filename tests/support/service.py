"""The service without its API: a database, artifacts, and a dispatcher driven step by step."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certify.certificate import Certificate
from certify.spec import parse_spec
from storage import catalog, jobs, results
from storage.artifacts import Artifacts, record_blob
from storage.database import Database
from storage.records import ArtifactState, Job
from storage.tenants import ensure_tenant
from tests.support.files import SPEC, dataset
from tests.support.onnx_models import small_cnn
from workers.dispatcher import Dispatcher
from workers.executor import Executor
from workers.settings import WorkerSettings

SECRET = b"s" * 32


@dataclass
class Service:
    folder: Path
    url: str = ""
    db: Database = field(init=False)
    artifacts: Artifacts = field(init=False)

    def __post_init__(self) -> None:
        self.db = Database(self.url or f"sqlite:///{self.folder / 'assay.db'}")
        self.db.migrate()
        self.artifacts = Artifacts(str(self.folder / "artifacts"))
        self.tenant = ensure_tenant(self.db, "default").id

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / digest
        path.write_bytes(data)
        self.artifacts.put_file(path, digest)
        record_blob(self.db, self.tenant, digest, len(data))
        return digest

    def upload(self, model: bytes | None = None, data: bytes | None = None) -> tuple[str, str]:
        """Ids of a model and a dataset, not inspected yet."""
        model_id = catalog.register_model(
            self.db, self.tenant, name="m", blob=self.put(model or small_cnn(mean=0.5)), value_range=(0.0, 1.0)
        ).id
        return model_id, catalog.register_dataset(self.db, self.tenant, name="d", blob=self.put(data or dataset())).id

    def dispatcher(self, executor: Executor, **settings: Any) -> Dispatcher:
        values = {"home": self.folder, "poll_seconds": 0.02, **settings}
        return Dispatcher(self.db, self.artifacts, executor, WorkerSettings(**values))

    def submit(self, model_id: str, dataset_id: str, spec: dict[str, Any] | None = None) -> Job:
        return jobs.create_job(
            self.db, self.tenant, model_id=model_id, dataset_id=dataset_id, spec=parse_spec(spec or SPEC), secret=SECRET
        )[0]

    def job(self, job: Job) -> Job:
        return jobs.get_job(self.db, self.tenant, job.id)

    def certificates(self, job: Job) -> list[Certificate]:
        return list(results.iter_certificates(self.db, self.tenant, job.id))

    def inspected(self, dispatcher: Dispatcher, model_id: str, dataset_id: str) -> None:
        def ready() -> bool:
            model, data = catalog.get_model(self.db, self.tenant, model_id), catalog.get_dataset(self.db, self.tenant, dataset_id)
            return ArtifactState.INSPECTING not in (model.state, data.state)

        drive(dispatcher, ready)


def drive(dispatcher: Dispatcher, done: Callable[[], bool], seconds: float = 90.0) -> None:
    """Turn the dispatcher's loop until something holds."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "the dispatcher did not get there in time"
        dispatcher.step()


def plain(certificates: list[Certificate]) -> list[str]:
    """Certificates as bytes, without the one field that may differ between runs."""
    return [c.model_copy(update={"seconds": 0.0}).line() for c in certificates]
