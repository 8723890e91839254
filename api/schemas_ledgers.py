"""Ledgers of certified regions over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from api.schemas import Out
from storage.records_ledgers import Ledger, StoredRegion


class LedgerOut(Out):
    """The certified regions of one model under one rule: the certifier without what only says how hard it tried.

    `regions` counts all of them, revoked ones too; `version` counts what changed them.
    """

    id: str
    model_digest: str
    rule_digest: str
    rule: dict[str, Any]
    regions: int
    version: int
    created_at: datetime

    @classmethod
    def of(cls, ledger: Ledger) -> LedgerOut:
        return cls.model_validate(ledger)


class RegionOut(Out):
    """An open l2 ball in which one class is answered, unless it was revoked. Its radius is in raw-input units, rounded down.

    `digest` names the input in its middle, `job`, `certifier` and `example` the certificate it came from.
    """

    number: int
    job: str
    certifier: int
    example: int
    digest: str
    answer: int
    radius: float
    sigma: float = Field(description="the noise level that was found for its centre")
    alpha: float
    version: int = Field(description="of the ledger, when it came")
    created_at: datetime
    revoked_at: datetime | None
    revoked_because: str | None

    @classmethod
    def of(cls, region: StoredRegion) -> RegionOut:
        return cls.model_validate(region)
