"""Gates and webhooks as they go over the wire; see `schemas`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, StrictBool, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from api.schemas import In, Name, Out
from certify.gate_rules import Rule
from certify.gates import Check, Judgement, together
from storage import records_gates as records
from storage.webhooks import EVENTS

_GATE, _JOB, _SCHEDULE, _RUN, _HOOK = (f"{prefix}_01m7yzga3vjs4sc5nysqyjjth0" for prefix in ("gat", "job", "sch", "run", "whk"))
_RULE = {"kind": "no-drop", "radius": 0.25, "baseline": "previous", "level_per_night": 0.01}
_SENTENCE = (
    "certifier 0 (smoothing, l2) fell significantly against job_01m7yzga1q4te48w96fhfppnxf at radius 0.25: 20 lost, 5 gained of 500"
    " examples (305 certified then, 290 now); one-sided exact McNemar p = 0.002, level 0.01 (0.01 a night, at most 3.65 false alarms"
    " expected in 365 nights)"
)
_CHECK = {"rule": 0, "kind": "no-drop", "certifier": 0, "judgement": "fail", "sentence": _SENTENCE, "numbers": {"lost": 20, "gained": 5}}
_WHEN = "2026-11-21T02:04:11Z"
_GATE_EXAMPLE: dict[str, Any] = {
    "id": _GATE, "name": "release", "rules": [_RULE], "schedule": _SCHEDULE, "job": None, "pinned_job": None, "created_at": _WHEN,
}  # fmt: skip
_OUTCOME_EXAMPLE: dict[str, Any] = {
    "id": "out_01m7yzga1q4te48w96fhfppnxf", "gate": _GATE, "gate_name": "release", "schedule": _SCHEDULE, "run": _RUN, "job": _JOB,
    "judgement": "fail", "sentence": _SENTENCE, "checks": [_CHECK], "created_at": _WHEN,
}  # fmt: skip
_HOOK_EXAMPLE: dict[str, Any] = {
    "id": _HOOK, "url": "https://ci.example.org/hooks/assay", "events": ["gate.failed"], "active": True, "created_at": _WHEN,
}  # fmt: skip
_DELIVERY_EXAMPLE: dict[str, Any] = {
    "id": "evt_01m7yzga1q4te48w96fhfppnxf", "event": "gate.failed", "state": "pending", "attempts": 2, "not_before": "2026-11-21T02:04:31Z",
    "last_error": "the receiver answered 503", "created_at": _WHEN, "delivered_at": None,
}  # fmt: skip


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


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

    model_config = _example({"name": "release", "schedule": _SCHEDULE, "rules": [_RULE]})

    name: Name
    rules: Annotated[list[dict[str, Any]], _Unread, Field(min_length=1, max_length=16, description="see docs/gates.md")]
    schedule: str | None = None
    job: str | None = None


class Pin(In):
    model_config = _example({"job": _JOB})

    job: str = Field(description="what the baseline `pinned` of the gate stands for from now on")


class GateOut(Out):
    model_config = _example(_GATE_EXAMPLE)

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

    model_config = _example(_OUTCOME_EXAMPLE)

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

    model_config = _example({"judgement": "fail", "outcomes": [_OUTCOME_EXAMPLE], "waiting": []})

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
    model_config = _example({"url": _HOOK_EXAMPLE["url"], "events": ["gate.failed", "gate.inconclusive"]})

    url: Annotated[str, Field(max_length=2000, examples=["https://ci.example.org/hooks/assay"])]
    events: Annotated[list[str], Field(min_length=1, max_length=len(EVENTS))] = Field(
        default=["gate.failed"], description=f"some of {', '.join(EVENTS)}"
    )


class WebhookChange(In):
    model_config = _example({"active": False})

    active: StrictBool = Field(description="false: nothing is sent, and what happens meanwhile is not kept")


class WebhookOut(Out):
    model_config = _example(_HOOK_EXAMPLE)

    id: str
    url: str
    events: list[str]
    active: bool
    created_at: datetime


class WebhookMade(WebhookOut):
    model_config = _example({**_HOOK_EXAMPLE, "secret": "whsec_" + 64 * "0"})

    secret: str = Field(description="what signs every delivery; shown only now")


class DeliveryOut(Out):
    """One event for one webhook. `id` is the event's own, the same in every attempt."""

    model_config = _example(_DELIVERY_EXAMPLE)

    id: str
    event: str
    state: records.DeliveryState
    attempts: int
    not_before: datetime
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None
