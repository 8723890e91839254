"""What goes over the wire about keys, limits and the audit log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import Field, model_validator

from api.schemas import In, Moment, Name, Out
from storage import records
from storage.keys import LONGEST_GRACE, LONGEST_LIFE
from storage.scopes import Scope

_MAX_DAYS = LONGEST_LIFE.days - 1


class NewKey(In):
    """Without an end of its own the key ends with the key that makes it, which it cannot outlive."""

    name: Name = Field(description="what the key is for")
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20, examples=[["read", "jobs:write"]])]
    expires_at: Moment | None = Field(default=None, examples=[None])
    expires_in_days: Annotated[int, Field(ge=1, le=_MAX_DAYS)] | None = None

    @model_validator(mode="after")
    def _one_end(self) -> NewKey:
        if self.expires_at is not None and self.expires_in_days is not None:
            raise ValueError("expires_at and expires_in_days are two ends; give one of them")
        return self

    @property
    def end(self) -> datetime | None:
        if self.expires_in_days is not None:
            return datetime.now(UTC) + timedelta(days=self.expires_in_days)
        return self.expires_at


class RotateKey(In):
    grace_seconds: Annotated[int, Field(ge=0, le=int(LONGEST_GRACE.total_seconds()))] = Field(
        default=0, description="for how long the secret before stays good"
    )


class KeyOut(Out):
    """A key without its secret, of which `last4` are the last characters. `previous_until`: until when the secret before is good too."""

    id: str
    name: str
    scopes: list[str]
    last4: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    previous_until: datetime | None


class KeyMadeOut(KeyOut):
    """The only time that the token is shown."""

    token: str

    @classmethod
    def made(cls, key: records.ApiKey, token: str) -> KeyMadeOut:
        return cls.model_validate({**vars(key), "token": token})


class AuditOut(Out):
    """One change. `key_id` is null when it was made on the command line of the server or by the service itself."""

    id: str
    key_id: str | None
    action: str
    target: str
    detail: dict[str, Any]
    request_id: str
    created_at: datetime


class UsedOut(Out):
    used: int
    limit: int


class UsageOut(Out):
    """Jobs that have not ended; bytes of everything uploaded, each content once; how often each key may ask in a minute."""

    queued_jobs: UsedOut
    stored_bytes: UsedOut
    requests_per_minute: int

    @classmethod
    def of(cls, usage: records.Usage, requests_per_minute: int) -> UsageOut:
        return cls(
            queued_jobs=UsedOut(used=usage.queued_jobs, limit=usage.quota.max_queued_jobs),
            stored_bytes=UsedOut(used=usage.stored_bytes, limit=usage.quota.max_stored_bytes),
            requests_per_minute=requests_per_minute,
        )
