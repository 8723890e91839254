"""Jobs whose rows wait for a ledger, and what a ledger holds: what tests of the pass start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from certify.certificate import Certificate, InstanceEvidence, Provenance, SearchEvidence, Tried, Versions
from certify.memory import resolve
from certify.norms import Norm
from certify.regions import NOT_ASKED, Candidate, Region, Resolve, Rule
from certify.run import Plan
from certify.spec import InstanceSmoothingSpec, parse_spec
from certify.verdict import Verdict
from storage import jobs, ledger, results, shards
from storage.database import Database
from storage.guard import guard
from storage.ledger_rows import list_ledgers
from storage.records import Job, JobState, ShardLease, ShardPlan
from storage.records_ledgers import Ledger
from storage.scoped import owned
from storage.tables import regions
from tests.support.shop import Shop

SIGMAS = (0.25, 0.5)
MEMORY: dict[str, Any] = {"kind": "instance-smoothing", "statement": "memory", "sigmas": list(SIGMAS), "n": 1000}


def rule(**changes: Any) -> Rule:
    (certifier,) = parse_spec({"certifiers": [{**MEMORY, **changes}]}).certifiers
    assert isinstance(certifier, InstanceSmoothingSpec)
    return Rule.of(certifier, "service")


def row(lease: ShardLease, asked: Candidate) -> Certificate:
    """The row of the sampling for a candidate."""
    certified = asked.answer is not None
    votes = InstanceEvidence(
        sigma=asked.sigma,
        n0=10,
        n=100,
        looks=(100,),
        shares=(1.0,),
        look_counts=((100, 0),),
        counts_selection=(10, 0, 0),
        counts=(100, 0, 0),
        pA_lower=0.9,
        pB_upper=0.1,
        dimension=4,
        search=SearchEvidence(samples=10, tried=(Tried(sigma=asked.sigma, top=10),)),
        selector=None,
    )
    return Certificate(
        example=asked.example,
        certifier=lease.certifier,
        kind="instance-smoothing",
        statement="S1-frozen",
        label=0,
        prediction=asked.answer,
        correct=asked.answer == 0,
        verdict=Verdict.CERTIFIED if certified else Verdict.ABSTAINED,
        reason=f"Votes. {NOT_ASKED}",
        norm=Norm.L2,
        radius=asked.radius,
        epsilon_verified=None,
        alpha=asked.alpha,
        evidence=votes,
        provenance=Provenance(
            model=lease.model_digest,
            dataset=lease.dataset_digest,
            spec=lease.spec.digest(),
            noise_key=None,
            seed=0,
            device="cpu",
            dtype="float32",
            batch_size=1,
            versions=Versions(assay="0", torch="0", numpy="0"),
        ),
        seconds=0.1,
        example_digest=asked.digest,
    )


@dataclass(frozen=True)
class Books:
    """A tenant's jobs on one ledger, which is asked through a database that refuses statements that say not whose rows they mean."""

    shop: Shop
    asked: Database

    @classmethod
    def open(cls, db: Database, name: str = "acme") -> Books:
        asked = Database(db.url)
        guard(asked)
        return cls(Shop.open(db, name, count=200), asked)

    def close(self) -> None:
        self.asked.close()

    def sampled(self, asked: Sequence[Candidate], *, seed: int = 0, parts: int = 1, sigmas: Sequence[float] = SIGMAS) -> Job:
        """A job of which every example is sampled, and that waits to be finalised."""
        job = self.shop.submit(certifiers=[{**MEMORY, "sigmas": list(sigmas)}], seed=seed, examples={"stop": len(asked)})
        step = -(-len(asked) // parts)
        cut = [ShardPlan(ix=i, certifier=0, first=i * step, last=min(len(asked), (i + 1) * step)) for i in range(parts)]
        assert jobs.plan_job(self.shop.db, job.id, Plan(family=1, batch_sizes=(1,)), cut)
        for _ in cut:
            lease = shards.lease_shard(self.shop.db, "w", 60)
            assert lease is not None
            shards.finish_shard(self.shop.db, lease, [row(lease, one) for one in asked[lease.first : lease.last]])
        waiting = self.shop.job(job.id)
        assert waiting.state is JobState.FINALIZING
        return waiting

    def take(self, job: Job, asked: Sequence[Candidate], how: Resolve = resolve, sigmas: Sequence[float] = SIGMAS) -> bool:
        return ledger.apply(self.asked, self.shop.tenant, job.id, 0, rule(sigmas=list(sigmas)), asked, how)

    def rows(self, job: Job) -> list[Certificate]:
        return list(results.iter_certificates(self.shop.db, self.shop.tenant, job.id))

    def ledger(self) -> Ledger:
        (found,) = list_ledgers(self.asked, self.shop.tenant, limit=10).items
        return found

    def regions(self) -> list[Region]:
        """All of them, whole."""
        c = regions.c
        query = sa.select(regions).where(owned(regions, self.shop.tenant)).order_by(c.ledger_id, c.number)
        with self.shop.db.read() as connection:
            found = connection.execute(query).mappings().all()
        names = [name for name in Region.__dataclass_fields__ if name not in ("job", "revoked")]
        return [Region(**{name: one[name] for name in names}, job=one["job_id"], revoked=one["revoked_at"] is not None) for one in found]
