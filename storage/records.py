"""What the other rooms get to see: plain frozen values. Database rows never leave `storage`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from certify.errors import Problem
from certify.facts import DatasetFacts, ModelFacts
from certify.report import Report
from certify.run import Plan
from certify.spec import Spec

T = TypeVar("T")
GIB = 2**30


class ArtifactState(StrEnum):
    """A model or dataset: waiting for inspection, usable, refused with reasons, or not inspected.

    `rejected` is about the file: it was read, and its reasons say what to change. `failed` is about the machine: three inspections
    ran out of time, were ended or were lost, and nothing is known about the file. Both are inspected again when somebody asks.
    """

    INSPECTING = "inspecting"
    READY = "ready"
    REJECTED = "rejected"
    FAILED = "failed"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    FINALIZING = "finalizing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class ShardState(StrEnum):
    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """Whose rows they are. A limit is None where the service's own holds."""

    id: str
    name: str
    created_at: datetime
    max_queued_jobs: int | None
    max_stored_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What one tenant may have at a time: jobs that have not ended, and bytes."""

    max_queued_jobs: int = 200
    max_stored_bytes: int = 100 * GIB


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a tenant has, and what it may have. Bytes count once for each content, unfinished uploads included."""

    queued_jobs: int
    stored_bytes: int
    quota: Quota


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A bearer key without its secret, of which only `last4` can still be shown.

    `previous_until` is when the secret before the last rotation ends or ended, None when it ended at once.
    """

    id: str
    tenant_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    last4: str
    previous_until: datetime | None


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who changes something: a key in a request, or the server itself (`key_id` None)."""

    key_id: str | None
    request_id: str


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One change: who made it (`key_id` None: the command line of the server), what was done, to what, in which request."""

    id: str
    key_id: str | None
    action: str
    target: str
    detail: dict[str, Any]
    request_id: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Model:
    """One version of a named model. `facts` once ready, `rejection` once rejected; `blob` is the SHA-256 of its bytes.

    `condition` says why it is inspected again, or why it failed, "" otherwise. `reader` is the version of what inspected it, None
    while that is not known.
    """

    id: str
    tenant_id: str
    name: str
    version: int
    blob: str
    size: int
    value_range: tuple[float, float] | None
    state: ArtifactState
    facts: ModelFacts | None
    rejection: tuple[Problem, ...]
    condition: str
    reader: str | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One version of a named dataset; see `Model`."""

    id: str
    tenant_id: str
    name: str
    version: int
    blob: str
    size: int
    state: ArtifactState
    facts: DatasetFacts | None
    rejection: tuple[Problem, ...]
    condition: str
    reader: str | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is, counted when it is read.

    `certificates_done` is what is stored plus what live workers say they have answered; it falls back when a worker is lost.
    `verdicts` counts the stored rows by verdict, attacks by whether they `found` anything; it is empty where many jobs are listed.
    `rate` is in certificates per second since the first shard started; both `rate` and `eta_seconds` are None while unknown.
    """

    certificates_total: int
    certificates_done: int
    shards_total: int
    shards_done: int
    samples_done: int
    rate: float | None
    eta_seconds: float | None
    verdicts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model x one dataset x one spec.

    `attempt` numbers the different specs that this tenant has tried on the same model and dataset bytes; `attempts` says of each
    certifier which throw of it this is among all of them, None where it draws no noise. `noise_key` (hex) is None until the job
    has ended; `noise_commitment`, its SHA-256, is there from the start (None when the seed is public). `started_at` is
    when its first shard was leased. `condition` says what the job waits for, "" if nothing.
    """

    id: str
    tenant_id: str
    name: str
    model_id: str
    dataset_id: str
    model_digest: str
    dataset_digest: str
    spec: Spec
    spec_digest: str
    attempt: int
    attempts: tuple[int | None, ...]
    noise_commitment: str | None
    noise_key: str | None
    state: JobState
    plan: Plan | None
    progress: Progress
    condition: str
    error: tuple[Problem, ...]
    report: Report | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """A piece of a job: positions first <= i < last in the selected examples, for one certifier of the spec."""

    ix: int
    certifier: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class ShardLease:
    """The right to compute one shard until the lease ends, and all that is needed to do so.

    `epoch` is the fencing token: a write under an older epoch is refused. `attempts` counts leases of this shard, this one
    included; `attempt` is that of the certifier, 1 where it draws no noise.
    """

    id: str
    job_id: str
    tenant_id: str
    ix: int
    certifier: int
    first: int
    last: int
    epoch: int
    attempts: int
    model_digest: str
    dataset_digest: str
    value_range: tuple[float, float] | None
    spec: Spec
    noise_key: bytes
    attempt: int
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class InspectionLease:
    """The right to inspect one model or dataset until the lease ends. `value_range` is None for datasets."""

    kind: Literal["model", "dataset"]
    id: str
    blob: str
    value_range: tuple[float, float] | None
    epoch: int


@dataclass(frozen=True, kw_only=True)
class LeaseStatus:
    """What a heartbeat tells the worker."""

    cancel_requested: bool


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """Some of a list, and where it goes on; `next_cursor` is None on the last page."""

    items: tuple[T, ...]
    next_cursor: str | None
