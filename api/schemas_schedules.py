"""Schedules as they go over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, TypeAdapter, WithJsonSchema, field_validator, model_validator

from api.schemas import In, Label, Name, Out
from storage.cron import Cron
from storage.records_schedules import CatchUp, Overlap, Ref, RunState, Schedule, ScheduleRun, Template

CronText = Annotated[
    str, Field(max_length=200, description="five fields, or @hourly, @daily, @weekly, @monthly, @yearly", examples=["0 2 * * *"])
]
Zone = Annotated[str, Field(max_length=100, description="IANA name of the zone on whose clock it runs", examples=["Europe/Berlin"])]
Deadline = Annotated[
    int | None, Field(ge=1, le=2**31 - 1, description="skip a tick that could not be started within so many seconds; null: never too late")
]


class Version(In):
    """One version of a model or dataset by `id`, or by `name` the `version`, `latest` for the newest at each tick."""

    id: Annotated[str, Field(max_length=40)] | None = None
    name: Name | None = None
    version: int | str | None = None

    @field_validator("version")
    @classmethod
    def _known(cls, value: int | str | None) -> int | str | None:
        if not (value is None or value == "latest" or (isinstance(value, int) and 1 <= value < 2**31)):
            raise ValueError(f"is {str(value)[:50]!r}; use the number of a version, or latest")
        return value

    @model_validator(mode="after")
    def _one(self) -> Version:
        if (self.id is None) == (self.name is None) or (self.id is not None and self.version is not None):
            raise ValueError('names no version; send an id, or {"name": ..., "version": "latest"}')
        return self

    def ref(self) -> Ref:
        return Ref(id=self.id, name=self.name, version=self.version if isinstance(self.version, int) else None)


def _from_id(given: Any) -> Any:
    return {"id": given} if isinstance(given, str) else given


_ID = {"type": "string", "maxLength": 40, "examples": ["mdl_01kae3h6x5q8s1v0w2y4z6a7b9"]}
_NUMBER = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 2**31 - 1}, {"const": "latest"}], "default": "latest"}
_NAME = TypeAdapter(Name).json_schema()
Reference = Annotated[
    Version,
    BeforeValidator(_from_id),
    WithJsonSchema(
        {
            "description": "an id pins one version; a name follows the newest at each tick, unless `version` says which",
            "anyOf": [
                _ID,
                {"type": "object", "properties": {"id": _ID}, "required": ["id"], "additionalProperties": False},
                {"type": "object", "properties": {"name": _NAME, "version": _NUMBER}, "required": ["name"], "additionalProperties": False},
            ],
        }
    ),
]


class NewTemplate(In):
    """The job that every tick asks for."""

    model: Reference
    dataset: Reference
    spec: dict[str, Any] = Field(
        description="see Spec in docs/design.md", examples=[{"certifiers": [{"kind": "smoothing", "sigma": 0.25}]}]
    )
    name: Label = Field(default="", description="name of the jobs; the schedule's when empty")


class NewSchedule(In):
    name: Name
    cron: CronText
    zone: Zone = "UTC"
    template: NewTemplate
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LATEST
    deadline_seconds: Deadline = None
    paused: StrictBool = False


def _unnamed() -> Any:
    """A field that may be left out, which is not the same as null."""

    def no_default(schema: dict[str, Any]) -> None:
        schema.pop("default", None)

    return Field(default=None, json_schema_extra=no_default)


class ScheduleChanges(In):
    """What is not named stays as it is."""

    name: Name = _unnamed()
    cron: CronText = _unnamed()
    zone: Zone = _unnamed()
    template: NewTemplate = _unnamed()
    overlap: Overlap = _unnamed()
    catch_up: CatchUp = _unnamed()
    deadline_seconds: Deadline = _unnamed()
    paused: StrictBool = _unnamed()


class VersionOut(Out):
    """See Version: `id` or `name` is null."""

    id: str | None
    name: str | None
    version: int | str | None

    @classmethod
    def of(cls, ref: Ref) -> VersionOut:
        return cls(id=ref.id, name=ref.name, version="latest" if ref.name is not None and ref.version is None else ref.version)


class TemplateOut(Out):
    model: VersionOut
    dataset: VersionOut
    spec: dict[str, Any]
    name: str

    @classmethod
    def of(cls, template: Template) -> TemplateOut:
        return cls(
            model=VersionOut.of(template.model),
            dataset=VersionOut.of(template.dataset),
            spec=template.spec.model_dump(mode="json"),
            name=template.name,
        )


class ScheduleOut(Out):
    """`next_at` is the first tick that is not decided yet, null while paused. `revision` is its ETag."""

    id: str
    name: str
    cron: str
    zone: str
    english: str
    template: TemplateOut
    overlap: Overlap
    catch_up: CatchUp
    deadline_seconds: int | None
    paused: bool
    next_at: datetime | None
    revision: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, schedule: Schedule) -> ScheduleOut:
        said = Cron(schedule.cron, schedule.zone).english()
        return cls.model_validate({**vars(schedule), "template": TemplateOut.of(schedule.template), "english": said})


class ScheduleRunOut(Out):
    """One tick and what became of it; `reason` says why in a sentence. `job` is there when the state is submitted or reused."""

    id: str
    schedule: str
    scheduled_for: datetime
    manual: bool
    state: RunState
    reason: str
    job: str | None
    reused: bool
    created_at: datetime

    @classmethod
    def of(cls, run: ScheduleRun) -> ScheduleRunOut:
        return cls.model_validate({**vars(run), "schedule": run.schedule_id, "job": run.job_id})


class TickOut(Out):
    """A moment, and the same moment on the clock of the zone."""

    at: datetime
    local: datetime


class PreviewOut(Out):
    cron: str
    zone: str
    english: str
    ticks: list[TickOut]
