"""Gates and webhooks as the other rooms see them; see `records`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from certify.gate_rules import Rules
from certify.gates import Check, Judgement


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Rules for every run of a schedule, or for one job.

    `pinned_job_id` is what the baseline `pinned` stands for; null while that is the first run with an answer that the gate judged.
    """

    id: str
    tenant_id: str
    name: str
    rules: Rules
    schedule_id: str | None
    job_id: str | None
    pinned_job_id: str | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Tick:
    """The run of a schedule that a job belongs to, and when the schedule runs."""

    run_id: str
    scheduled_for: datetime
    manual: bool
    cron: str
    zone: str


@dataclass(frozen=True, kw_only=True)
class DueGate:
    """A gate and an ended job that it has not judged yet. `tick` is null for a gate on a job."""

    gate: Gate
    job_id: str
    tick: Tick | None

    @property
    def subject(self) -> str:
        """What is judged: the run or, for a gate on a job, the job."""
        return self.tick.run_id if self.tick else self.job_id


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run or job at one gate. `run_id` is null for a gate on a job."""

    id: str
    gate_id: str
    gate_name: str
    schedule_id: str | None
    run_id: str | None
    job_id: str
    judgement: Judgement
    sentence: str
    checks: tuple[Check, ...]
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class JobGates:
    """The outcomes of a job, newest first, and the gates that will judge it but have not yet."""

    outcomes: tuple[Outcome, ...]
    waiting: tuple[Gate, ...]


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """An address that is told of events. Its secret is shown when it is made and never again."""

    id: str
    tenant_id: str
    url: str
    events: tuple[str, ...]
    active: bool
    created_at: datetime


class DeliveryState(StrEnum):
    """One event for one webhook: waiting for its next attempt, being sent, taken by the receiver, or given up."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """`id` is the event's, the same in every attempt. `last_error` says how the last attempt failed."""

    id: str
    webhook_id: str
    event: str
    state: DeliveryState
    attempts: int
    not_before: datetime
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class DeliveryLease:
    """The right to send one event until the lease ends; `epoch` fences off earlier holders, `attempts` counts this one too."""

    id: str
    webhook_id: str
    url: str
    secret: str = field(repr=False)
    body: str
    epoch: int
    attempts: int
