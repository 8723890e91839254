"""A tenant with a ready model and dataset, and the certificates its workers would hand in: what tests of the queue start from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from certify.certificate import BoundsEvidence, Certificate, Provenance, Versions
from certify.facts import DatasetFacts, ModelFacts
from certify.norms import Norm
from certify.run import Plan
from certify.spec import Spec, parse_spec
from certify.verdict import Verdict
from storage import artifacts, catalog, jobs, tenants
from storage.database import Database
from storage.records import Actor, Job, ShardLease, ShardPlan

SECRET = b"s" * 32
MODEL_FACTS = ModelFacts(input_shape=(4,), classes=3, parameters=10, operators=(), support=(), largest_tensor=4)
BOUNDS = {"kind": "bounds", "method": "ibp", "norm": "linf", "epsilon": 0.1}


def dataset_facts(count: int) -> DatasetFacts:
    return DatasetFacts(count=count, input_shape=(4,), low=0.0, high=1.0, label_low=0, label_high=2)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def spec(**changes: Any) -> Spec:
    return parse_spec({"certifiers": [BOUNDS], **changes})


@dataclass(frozen=True)
class Shop:
    db: Database
    tenant: str
    model: str
    dataset: str

    @classmethod
    def open(cls, db: Database, name: str, *, count: int = 8) -> Shop:
        tenant = tenants.ensure_tenant(db, name).id
        shop = cls(db, tenant, ready_model(db, tenant), ready_dataset(db, tenant, count=count))
        return shop

    def submit(self, **changes: Any) -> Job:
        return self.offer(**changes)[0]

    def offer(self, *, model: str | None = None, secret: bytes = SECRET, **changes: Any) -> tuple[Job, bool]:
        return jobs.create_job(
            self.db, self.tenant, model_id=model or self.model, dataset_id=self.dataset, spec=spec(**changes), secret=secret
        )

    def cancel(self, by: Actor) -> None:
        """Stop the newest job."""
        newest = jobs.list_jobs(self.db, self.tenant, limit=1).items[0]
        jobs.request_cancel(self.db, self.tenant, newest.id, by)

    def planned(self, *, parts: int = 4, size: int = 2, **changes: Any) -> Job:
        """A running job of `parts` shards of `size` examples each."""
        job = self.submit(**changes)
        assert jobs.plan_job(self.db, job.id, Plan(family=1, batch_sizes=(1,)), shard_plans(parts, size))
        return self.job(job.id)

    def job(self, job_id: str) -> Job:
        return jobs.get_job(self.db, self.tenant, job_id)


def shard_plans(parts: int, size: int) -> list[ShardPlan]:
    return [ShardPlan(ix=ix, certifier=0, first=ix * size, last=(ix + 1) * size) for ix in range(parts)]


def ready_model(db: Database, tenant: str, *, name: str = "cnn", blob: str = "", value_range: tuple[float, float] | None = None) -> str:
    blob = blob or digest("model")
    artifacts.record_blob(db, tenant, blob, 100)
    model = catalog.register_model(db, tenant, name=name, blob=blob, value_range=value_range)
    lease = catalog.lease_inspection(db, "inspector", 60)
    assert lease is not None
    assert lease.id == model.id
    catalog.finish_inspection(db, lease, MODEL_FACTS)
    return model.id


def ready_dataset(db: Database, tenant: str, *, count: int = 8) -> str:
    blob = digest(f"dataset of {count}")
    artifacts.record_blob(db, tenant, blob, 200)
    dataset = catalog.register_dataset(db, tenant, name="digits", blob=blob)
    lease = catalog.lease_inspection(db, "inspector", 60)
    assert lease is not None
    assert lease.id == dataset.id
    catalog.finish_inspection(db, lease, dataset_facts(count))
    return dataset.id


def answers(lease: ShardLease, *, device: str = "cpu") -> Sequence[Certificate]:
    """The certificates of a shard; `device` tells who computed them."""
    return [_answer(lease, example, device) for example in range(lease.first, lease.last)]


def _answer(lease: ShardLease, example: int, device: str) -> Certificate:
    return Certificate(
        example=example,
        certifier=lease.certifier,
        kind="bounds",
        statement="real-arithmetic",
        label=1,
        prediction=1,
        correct=True,
        verdict=Verdict.CERTIFIED,
        reason="",
        norm=Norm.LINF,
        radius=0.1 + example / 7,
        epsilon_verified=True,
        alpha=None,
        evidence=BoundsEvidence(method="ibp", margin_lower=0.3, tau=1e-9, dtype="float64"),
        provenance=Provenance(
            model=lease.model_digest,
            dataset=lease.dataset_digest,
            spec=lease.spec.digest(),
            noise_key=None,
            seed=0,
            device=device,
            dtype="float64",
            batch_size=None,
            versions=Versions(assay="0", torch="0", numpy="0"),
        ),
        seconds=0.1,
    )
