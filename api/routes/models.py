"""Models and their versions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.caching import KEEPABLE, keepable
from api.openapi import also
from api.paging import Cursor, Limit, page
from api.schemas import ModelOut, NewModel, PageOut
from api.security import By, CanRead, CanWriteModels, Db, Store
from api.sniff import sniff_model
from storage import catalog
from storage.artifacts import blob_size
from storage.records import ArtifactState

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post("", status_code=202, responses=also(404))
def create_model(body: NewModel, response: Response, db: Db, store: Store, tenant: CanWriteModels, by: By) -> ModelOut:
    """Register uploaded bytes as the next version of a model. A worker inspects it; then it is ready, rejected or failed."""
    if blob_size(db, tenant, body.blob) is not None:
        sniff_model(store.head(body.blob))
    model = catalog.register_model(db, tenant, name=body.name, blob=body.blob, value_range=body.range, by=by)
    response.headers["Location"] = f"/v1/models/{model.id}"
    return ModelOut.of(model)


@router.get("")
def list_models(
    request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None, name: str | None = None
) -> PageOut[ModelOut]:
    """Models, newest first."""
    return page(catalog.list_models(db, tenant, limit=limit, cursor=cursor, name=name), ModelOut.of, request, response)


@router.get("/{model_id}", responses=KEEPABLE)
def get_model(model_id: str, request: Request, db: Db, tenant: CanRead) -> ModelOut:
    """One model with its facts, or the reason why it was rejected or failed."""
    model = catalog.get_model(db, tenant, model_id)
    keepable(request, model.state is not ArtifactState.INSPECTING)
    return ModelOut.of(model)


@router.post("/{model_id}/inspect", status_code=202, responses=also(404))
def inspect_model_again(model_id: str, db: Db, tenant: CanWriteModels, by: By) -> ModelOut:
    """Have a model that was rejected or failed inspected once more; any other stays as it is."""
    return ModelOut.of(catalog.inspect_model_again(db, tenant, model_id, by=by))


@router.get("/{model_id}/versions")
def list_model_versions(
    model_id: str, request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None
) -> PageOut[ModelOut]:
    """All versions of the model's name, newest first."""
    name = catalog.get_model(db, tenant, model_id).name
    return page(catalog.list_models(db, tenant, limit=limit, cursor=cursor, name=name), ModelOut.of, request, response)
