"""Who is asking: bearer keys, and the shared things a route needs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from api.problems import Unauthorized
from storage.artifacts import Artifacts
from storage.database import Database
from storage.errors import Forbidden
from storage.records import Actor, ApiKey
from storage.scopes import ADMIN, allows
from storage.settings import Settings

_bearer = HTTPBearer(
    auto_error=False,
    description="A key `assay_<id>_<secret>`, made with: assay key create. Each operation names the scope that the key needs. Of several,"
    " one is enough; `admin` is enough for all.",
)


# These and the ones below are coroutines, though they wait for nothing: a plain function would take a turn in the pool of threads.
async def database(request: Request) -> Database:
    db: Database = request.app.state.db
    return db


async def artifacts(request: Request) -> Artifacts:
    store: Artifacts = request.app.state.artifacts
    return store


async def settings(request: Request) -> Settings:
    found: Settings = request.app.state.settings
    return found


Db = Annotated[Database, Depends(database)]
Store = Annotated[Artifacts, Depends(artifacts)]
Conf = Annotated[Settings, Depends(settings)]


async def key(request: Request, _described: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> ApiKey:
    """The caller's key, as the gatekeeper found it. What it did not see has none, so that no way around it leads anywhere.

    Raises:
        Unauthorized: there is none.
    """
    found: ApiKey | None = getattr(request.state, "key", None)
    if found is None:
        raise Unauthorized
    return found


async def tenant(caller: Annotated[ApiKey, Depends(key)], needed: SecurityScopes) -> str:
    """The caller's tenant, for a caller who has one of the scopes that the route states.

    Raises:
        Forbidden: the key has none of them. A route that states no scope is open to admin keys only.
    """
    if not allows(caller.scopes, needed.scopes):
        held, wanted = ", ".join(caller.scopes), " or ".join(needed.scopes or [ADMIN])
        raise Forbidden.at("Authorization", f"this needs the scope {wanted}; the key has {held}", "use or ask for a key with that scope")
    return caller.tenant_id


async def actor(request: Request, caller: Annotated[ApiKey, Depends(key)]) -> Actor:
    """Who asks, for the audit log."""
    return Actor(key_id=caller.id, request_id=request.state.request_id)


# The tenant's id, for a caller with the scope. A route takes exactly one of these as its parameter `tenant`: there is no other way to a
# tenant's rows, and the OpenAPI document shows the scope. Where two scopes stand, either is enough.
CanRead = Annotated[str, Security(tenant, scopes=["read"])]
CanWriteModels = Annotated[str, Security(tenant, scopes=["models:write"])]
CanWriteDatasets = Annotated[str, Security(tenant, scopes=["datasets:write"])]
CanReadBlobs = Annotated[str, Security(tenant, scopes=["read", "models:write", "datasets:write"])]
CanWriteBlobs = Annotated[str, Security(tenant, scopes=["models:write", "datasets:write"])]
CanWriteJobs = Annotated[str, Security(tenant, scopes=["jobs:write"])]
CanWriteSchedules = Annotated[str, Security(tenant, scopes=["schedules:write"])]
CanWriteGates = Annotated[str, Security(tenant, scopes=["gates:write"])]
IsAdmin = Annotated[str, Security(tenant, scopes=[ADMIN])]

By = Annotated[Actor, Depends(actor)]
