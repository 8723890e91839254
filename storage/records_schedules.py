"""Schedules and their runs as the other rooms see them; see `records`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypedDict

from certify.spec import Spec


class Overlap(StrEnum):
    """What a tick does while the job of an earlier tick of the schedule is still at work."""

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL_PREVIOUS = "cancel_previous"
    ALLOW = "allow"


class CatchUp(StrEnum):
    """Which of the ticks are made up for that nobody fired in time."""

    NONE = "none"
    LATEST = "latest"
    ALL = "all"


class RunState(StrEnum):
    """What became of a tick. Only `waiting` changes later."""

    WAITING = "waiting"
    SUBMITTED = "submitted"
    REUSED = "reused"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Ref:
    """A model or dataset: one version by its `id`, or by name; `version` None stands for the newest at the tick."""

    id: str | None = None
    name: str | None = None
    version: int | None = None


@dataclass(frozen=True, kw_only=True)
class Template:
    """The job that every tick asks for."""

    model: Ref
    dataset: Ref
    spec: Spec
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`next_at` is the first tick that nobody has decided yet, None while paused; `revision` counts the changes made to it."""

    id: str
    tenant_id: str
    name: str
    cron: str
    zone: str
    template: Template
    overlap: Overlap
    catch_up: CatchUp
    deadline_seconds: int | None
    paused: bool
    next_at: datetime | None
    revision: int
    created_at: datetime
    updated_at: datetime


class Changes(TypedDict, total=False):
    """What a change of a schedule may name; what is not named stays."""

    name: str
    cron: str
    zone: str
    template: Template
    overlap: Overlap
    catch_up: CatchUp
    deadline_seconds: int | None
    paused: bool


@dataclass(frozen=True, kw_only=True)
class ScheduleRun:
    """One tick and what became of it, with the reason as a sentence.

    `job_id` is there exactly when the state is submitted (a new job) or reused (the job that answers the unchanged question).
    `created_at` is when the tick was decided. `manual`: somebody asked for it; then `scheduled_for` is when.
    """

    id: str
    tenant_id: str
    schedule_id: str
    scheduled_for: datetime
    manual: bool
    state: RunState
    reason: str
    job_id: str | None
    reused: bool
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class ScheduleCounts:
    """Of all tenants, for metrics. `late_seconds`: how long the oldest undecided tick has been due; grows while no scheduler works."""

    active: int
    paused: int
    late_seconds: float
    runs: dict[RunState, int]
