"""Keys of the caller's tenant."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Request, Response

from api.paging import Cursor, Limit, page
from api.schemas import PageOut
from api.schemas_keys import KeyMadeOut, KeyOut, NewKey, RotateKey
from api.security import By, Db, IsAdmin
from storage import keys

router = APIRouter(prefix="/v1/api-keys", tags=["keys"])


@router.post("", status_code=201)
def create_key(body: NewKey, response: Response, db: Db, tenant: IsAdmin, by: By) -> KeyMadeOut:
    """Make a key. Its token is shown only in this response; the key can do no more than the one that makes it."""
    key, token = keys.create_key(db, tenant, body.name, body.scopes, body.end, by)
    response.headers["Location"] = f"/v1/api-keys/{key.id}"
    response.headers["Cache-Control"] = "no-store"
    return KeyMadeOut.made(key, token)


@router.get("")
def list_keys(request: Request, response: Response, db: Db, tenant: IsAdmin, limit: Limit = 20, cursor: Cursor = None) -> PageOut[KeyOut]:
    """Keys, newest first, revoked ones included."""
    return page(keys.list_keys(db, tenant, limit=limit, cursor=cursor), KeyOut.model_validate, request, response)


@router.get("/{key_id}")
def get_key(key_id: str, db: Db, tenant: IsAdmin) -> KeyOut:
    """One key, and when it was last used."""
    return KeyOut.model_validate(keys.get_key(db, tenant, key_id))


@router.delete("/{key_id}")
def revoke_key(key_id: str, db: Db, tenant: IsAdmin, by: By) -> KeyOut:
    """End a key for good, at once. Asking again changes nothing."""
    return KeyOut.model_validate(keys.revoke_key(db, tenant, key_id, by))


@router.post("/{key_id}/rotate")
def rotate_key(
    key_id: str, response: Response, db: Db, tenant: IsAdmin, by: By, body: Annotated[RotateKey, Body(default_factory=RotateKey)]
) -> KeyMadeOut:
    """Give a key a new secret, shown only in this response. The old one ends at once, or after `grace_seconds`."""
    response.headers["Cache-Control"] = "no-store"
    return KeyMadeOut.made(*keys.rotate_key(db, tenant, key_id, timedelta(seconds=body.grace_seconds), by))
