"""Datasets and their versions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.caching import KEEPABLE, keepable
from api.openapi import also
from api.paging import Cursor, Limit, page
from api.schemas import DatasetOut, NewDataset, PageOut
from api.security import By, CanRead, CanWriteDatasets, Db, Store
from api.sniff import sniff_dataset
from storage import catalog
from storage.artifacts import blob_size
from storage.records import ArtifactState

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.post("", status_code=202, responses=also(404))
def create_dataset(body: NewDataset, response: Response, db: Db, store: Store, tenant: CanWriteDatasets, by: By) -> DatasetOut:
    """Register uploaded bytes as the next version of a dataset. A worker inspects it; then it is ready, rejected or failed."""
    if blob_size(db, tenant, body.blob) is not None:
        sniff_dataset(store.head(body.blob))
    dataset = catalog.register_dataset(db, tenant, name=body.name, blob=body.blob, by=by)
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    return DatasetOut.of(dataset)


@router.get("")
def list_datasets(
    request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None, name: str | None = None
) -> PageOut[DatasetOut]:
    """Datasets, newest first."""
    return page(catalog.list_datasets(db, tenant, limit=limit, cursor=cursor, name=name), DatasetOut.of, request, response)


@router.get("/{dataset_id}", responses=KEEPABLE)
def get_dataset(dataset_id: str, request: Request, db: Db, tenant: CanRead) -> DatasetOut:
    """One dataset with its facts, or the reason why it was rejected or failed."""
    dataset = catalog.get_dataset(db, tenant, dataset_id)
    keepable(request, dataset.state is not ArtifactState.INSPECTING)
    return DatasetOut.of(dataset)


@router.post("/{dataset_id}/inspect", status_code=202, responses=also(404))
def inspect_dataset_again(dataset_id: str, db: Db, tenant: CanWriteDatasets, by: By) -> DatasetOut:
    """Have a dataset that was rejected or failed inspected once more; any other stays as it is."""
    return DatasetOut.of(catalog.inspect_dataset_again(db, tenant, dataset_id, by=by))


@router.get("/{dataset_id}/versions")
def list_dataset_versions(
    dataset_id: str, request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None
) -> PageOut[DatasetOut]:
    """All versions of the dataset's name, newest first."""
    name = catalog.get_dataset(db, tenant, dataset_id).name
    return page(catalog.list_datasets(db, tenant, limit=limit, cursor=cursor, name=name), DatasetOut.of, request, response)
