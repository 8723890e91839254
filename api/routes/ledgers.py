"""Ledgers of certified regions: read only. Jobs with statement `memory` write them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.paging import Cursor, Limit, page
from api.schemas import PageOut
from api.schemas_ledgers import LedgerOut, RegionOut
from api.security import CanRead, Db
from storage import ledger_rows

router = APIRouter(prefix="/v1/ledgers", tags=["ledgers"])
Digest = Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the model's bytes")]


@router.get("")
def list_ledgers(
    request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None, model_digest: Digest = None
) -> PageOut[LedgerOut]:
    """Ledgers, newest first; those of one model if asked for."""
    found = ledger_rows.list_ledgers(db, tenant, limit=limit, cursor=cursor, model_digest=model_digest)
    return page(found, LedgerOut.of, request, response)


@router.get("/{ledger_id}")
def get_ledger(ledger_id: str, db: Db, tenant: CanRead) -> LedgerOut:
    """A ledger and its rule."""
    return LedgerOut.of(ledger_rows.get_ledger(db, tenant, ledger_id))


@router.get("/{ledger_id}/regions")
def list_regions(
    ledger_id: str, request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 100, cursor: Cursor = None
) -> PageOut[RegionOut]:
    """Its regions, oldest first, revoked ones among them with the reason."""
    return page(ledger_rows.list_regions(db, tenant, ledger_id, limit=limit, cursor=cursor), RegionOut.of, request, response)
