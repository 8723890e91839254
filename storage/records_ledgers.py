"""Ledgers of certified regions, as the other rooms see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The regions of one model under one rule. `regions` counts them, revoked ones included; `version` counts what changed them.

    `rule` is the certifier without what only says how hard it tried, and the kind of noise key.
    """

    id: str
    tenant_id: str
    model_digest: str
    rule_digest: str
    rule: dict[str, Any]
    regions: int
    version: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class StoredRegion:
    """A region without its centre, which `digest` names: the SHA-256 of the input, little-endian float32.

    `job`, `certifier` and `example` name its certificate, `version` the state of the ledger that it first belonged to.
    """

    number: int
    job: str
    certifier: int
    example: int
    digest: str
    answer: int
    radius: float
    sigma: float
    alpha: float
    version: int
    created_at: datetime
    revoked_at: datetime | None
    revoked_because: str | None
