"""Gates and webhooks as they go over the wire; see `schemas`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from api.schemas import In, Name, Out
from certify.gate_rules import Rule
from certify.gates import Check, Judgement, together
from storage import records_gates as records
from storage.webhooks import EVENTS


class _Unread:
    """Described as the rules they are, but read by `certify.gate_rules`, which names wrong fields as users wrote them."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler(list[dict[str, Any]])

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(TypeAdapter(list[Rule]).core_schema)


class NewGate(In):
    """Rules for every run of a schedule that ends from now on, or for one job: exactly one of `schedule` and `job`."""

    name: Name
    rules: Annotated[list[dict[str, Any]], _Unread, Field(min_length=1, max_length=16, description="see docs/gates.md")]
    schedule: str | None = None
    job: str | None = None


class Pin(In):
    job: str = Field(description="what the baseline `pinned` of the gate stands for from now on")


class GateOut(Out):
    id: str
    name: str
    rules: list[Rule]
    schedule: str | None
    job: str | None
    pinned_job: str | None = Field(description="null: the first run with an answer that the gate judged")
    created_at: datetime

    @classmethod
    def of(cls, gate: records.Gate) -> GateOut:
        values = {**vars(gate), "schedule": gate.schedule_id, "job": gate.job_id, "pinned_job": gate.pinned_job_id}
        return cls.model_validate({**values, "rules": gate.rules.rules})


class OutcomeOut(Out):
    """What became of one run or job at one gate, in a sentence; `checks` has each rule for each certifier."""

    id: str
    gate: str
    gate_name: str
    schedule: str | None
    run: str | None
    job: str
    judgement: Judgement
    sentence: str
    checks: list[Check]
    created_at: datetime

    @classmethod
    def of(cls, found: records.Outcome) -> OutcomeOut:
        ids = {"gate": found.gate_id, "schedule": found.schedule_id, "run": found.run_id, "job": found.job_id}
        return cls.model_validate({**vars(found), **ids})


class JobGatesOut(Out):
    """The newest outcome of each gate that judged the job. `judgement` is the strongest of them: fail, inconclusive, pass.

    It is null while a gate has still to judge, and where there is no gate.
    """

    judgement: Judgement | None
    outcomes: list[OutcomeOut]
    waiting: list[GateOut]

    @classmethod
    def of(cls, found: records.JobGates) -> JobGatesOut:
        newest = newest_of_each(found)
        judgement = together(one.judgement for one in newest) if newest and not found.waiting else None
        return cls(judgement=judgement, outcomes=[OutcomeOut.of(one) for one in newest], waiting=[GateOut.of(one) for one in found.waiting])


def newest_of_each(found: records.JobGates) -> list[records.Outcome]:
    """A job that answered several runs was judged once for each; the last one counts. By the age of the gates, oldest first."""
    newest = {one.gate_id: one for one in reversed(found.outcomes)}
    return [newest[gate_id] for gate_id in sorted(newest)]


class NewWebhook(In):
    url: Annotated[str, Field(max_length=2000, examples=["https://ci.example.org/hooks/assay"])]
    events: Annotated[list[str], Field(min_length=1, max_length=len(EVENTS))] = Field(
        default=["gate.failed"], description=f"some of {', '.join(EVENTS)}"
    )


class WebhookChange(In):
    active: bool = Field(description="false: nothing is sent, and what happens meanwhile is not kept")


class WebhookOut(Out):
    id: str
    url: str
    events: list[str]
    active: bool
    created_at: datetime


class WebhookMade(WebhookOut):
    secret: str = Field(description="what signs every delivery; shown only now")


class DeliveryOut(Out):
    """One event for one webhook. `id` is the event's own, the same in every attempt."""

    id: str
    event: str
    state: records.DeliveryState
    attempts: int
    not_before: datetime
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None
