"""Who is asking: bearer keys, and the shared things a route needs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.problems import Unauthorized
from storage.artifacts import Artifacts
from storage.database import Database
from storage.records import ApiKey
from storage.settings import Settings
from storage.tenants import authenticate

_bearer = HTTPBearer(auto_error=False, description="A key `assay_<id>_<secret>`, made with: assay key create")


def database(request: Request) -> Database:
    db: Database = request.app.state.db
    return db


def artifacts(request: Request) -> Artifacts:
    store: Artifacts = request.app.state.artifacts
    return store


def settings(request: Request) -> Settings:
    found: Settings = request.app.state.settings
    return found


Db = Annotated[Database, Depends(database)]
Store = Annotated[Artifacts, Depends(artifacts)]
Conf = Annotated[Settings, Depends(settings)]


def key(db: Db, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> ApiKey:
    """The caller's key.

    Raises:
        Unauthorized: none, unknown, revoked or expired.
    """
    found = authenticate(db, credentials.credentials) if credentials else None
    if found is None:
        raise Unauthorized.at(
            "Authorization", "no valid key was sent", "send 'Authorization: Bearer assay_...', made with: assay key create"
        )
    return found


def tenant(caller: Annotated[ApiKey, Depends(key)]) -> str:
    return caller.tenant_id


TenantId = Annotated[str, Depends(tenant)]
