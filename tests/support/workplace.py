"""A database, an artifact store and a tenant with real bytes in them: what a dispatcher works on."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from certify.spec import parse_spec
from storage import artifacts, catalog, jobs, results, tenants
from storage.database import Database
from storage.records import ArtifactState, Job
from tests.support.onnx_models import mlp
from workers.dispatcher import Dispatcher
from workers.executor import Executor
from workers.settings import WorkerSettings

FEATURES, CLASSES = 24, 4
SECRET = b"s" * 32
BOUNDS = {"kind": "bounds", "method": "crown", "norm": "linf", "epsilon": 0.01}


def smoothing(sigma: float = 0.25, n: int = 2_000, **more: Any) -> dict[str, Any]:
    return {"kind": "smoothing", "sigma": sigma, "n": n, "alpha": 0.01, **more}


def dataset(count: int = 6, *, features: int = FEATURES, seed: int = 1) -> bytes:
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    np.savez(file, x=rng.uniform(0, 1, (count, features)).astype(np.float32), y=rng.integers(0, CLASSES, count))
    return file.getvalue()


@dataclass
class Workplace:
    """One tenant's view. `folder` is the home that a dispatcher process would be given."""

    folder: Path
    db: Database
    store: artifacts.Artifacts
    tenant: str
    settings: WorkerSettings
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, **settings: Any) -> Workplace:
        folder.mkdir(exist_ok=True)
        values = {"home": folder, "database_url": f"sqlite:///{folder}/assay.db", "artifacts": str(folder / "artifacts")}
        chosen = WorkerSettings(**{**values, "poll_seconds": 0.02, "lease_seconds": 3.0, "executor": "local", **settings})
        db = Database(chosen.database_url)
        db.migrate()
        environment = {
            f"ASSAY_{name.upper()}": str(getattr(chosen, name)) for name in (*values, "poll_seconds", "lease_seconds", "executor")
        }
        return cls(folder, db, artifacts.Artifacts(chosen.artifacts), tenants.ensure_tenant(db, "acme").id, chosen, environment)

    def blob(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.folder / sha256
        path.write_bytes(data)
        self.store.put_file(path, sha256)
        artifacts.record_blob(self.db, self.tenant, sha256, len(data))
        return sha256

    def dispatcher(self, executor: Executor) -> Dispatcher:
        return Dispatcher(self.db, self.store, executor, self.settings)

    def stock(self, dispatcher: Dispatcher, *, count: int = 6) -> None:
        """Upload a model and a dataset, and let the dispatcher inspect them."""
        self.model = catalog.register_model(
            self.db, self.tenant, name="m", blob=self.blob(mlp([FEATURES, 16, CLASSES])), value_range=(0.0, 1.0)
        ).id
        self.data = catalog.register_dataset(self.db, self.tenant, name="d", blob=self.blob(dataset(count))).id
        turn(dispatcher, self.inspected)
        assert catalog.get_model(self.db, self.tenant, self.model).state is ArtifactState.READY

    def inspected(self) -> bool:
        found = (catalog.get_model(self.db, self.tenant, self.model), catalog.get_dataset(self.db, self.tenant, self.data))
        return all(artifact.state is not ArtifactState.INSPECTING for artifact in found)

    def submit(self, *certifiers: dict[str, Any], **spec: Any) -> Job:
        wanted = parse_spec({"certifiers": certifiers or (smoothing(), BOUNDS), **spec})
        return jobs.create_job(self.db, self.tenant, model_id=self.model, dataset_id=self.data, spec=wanted, secret=SECRET)[0]

    def job(self, job: Job) -> Job:
        return jobs.get_job(self.db, self.tenant, job.id)

    def lines(self, job: Job) -> list[str]:
        """Every certificate as its stored bytes, but for the time it took."""
        return [c.model_copy(update={"seconds": 0.0}).line() for c in results.iter_certificates(self.db, self.tenant, job.id)]


def turn(dispatcher: Dispatcher, done: Callable[[], bool], seconds: float = 60.0) -> None:
    """Turn the dispatcher's loop until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        dispatcher.step()


def wait(done: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for other processes until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
