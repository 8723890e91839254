"""What a tenant can know of itself: what it uses and may use, and who changed what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.paging import Cursor, Limit, page
from api.schemas import PageOut
from api.schemas_keys import AuditOut, UsageOut
from api.security import CanRead, Conf, Db, IsAdmin
from storage import audit, quotas

router = APIRouter(prefix="/v1", tags=["account"])
Action = Annotated[str | None, Query(max_length=60, pattern=r"^[a-z-]+(\.[a-z-]+)?$", examples=["key.created"])]


@router.get("/usage")
def get_usage(db: Db, conf: Conf, tenant: CanRead) -> UsageOut:
    """Jobs and bytes of the tenant, with their limits, and the rate limit of each key."""
    return UsageOut.of(quotas.usage(db, tenant, conf.quota), conf.rate_per_minute)


@router.get("/audit")
def list_audit(
    request: Request, response: Response, db: Db, tenant: IsAdmin, limit: Limit = 20, cursor: Cursor = None, action: Action = None
) -> PageOut[AuditOut]:
    """Who changed what, newest first. `action` is one action (`key.created`) or a noun (`key`)."""
    found = audit.list_entries(db, tenant, limit=limit, cursor=cursor, action=action)
    return page(found, AuditOut.model_validate, request, response)
