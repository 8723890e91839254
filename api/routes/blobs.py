"""Bytes by their SHA-256: streamed, counted and hashed while they arrive."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from api.problems import TooLarge
from api.schemas import BlobOut
from api.security import CanReadBlobs, CanWriteBlobs, Db, Store
from certify.errors import InputError, Problem
from storage.artifacts import blob_size, record_blob
from storage.errors import NotFound

MAX_BYTES = 2 * 2**30

router = APIRouter(prefix="/v1/blobs", tags=["blobs"])
Hex = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


@router.put("/sha256/{sha256}", status_code=201, responses={200: {"description": "was already there"}})
async def put_blob(sha256: Hex, request: Request, response: Response, db: Db, store: Store, tenant: CanWriteBlobs) -> BlobOut:
    """Upload the raw bytes whose SHA-256 is in the path. The same content again is no error."""
    if int(request.headers.get("content-length") or 0) > MAX_BYTES:
        raise _too_large()
    with tempfile.NamedTemporaryFile(prefix="assay-upload-") as file:
        digest, size = hashlib.sha256(), 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BYTES:
                raise _too_large()
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != sha256:
            raise InputError(
                Problem(field="sha256", detail=f"the content has SHA-256 {digest.hexdigest()}", mend="upload it under that digest")
            )
        file.flush()
        await run_in_threadpool(store.put_file, FilePath(file.name), sha256)
    if not await run_in_threadpool(record_blob, db, tenant, sha256, size):
        response.status_code = 200
    return BlobOut(sha256=sha256, size=size)


@router.head("/sha256/{sha256}")
def head_blob(sha256: Hex, db: Db, tenant: CanReadBlobs) -> Response:
    """200 when this tenant has uploaded the content, so that it need not be sent again; else 404."""
    size = blob_size(db, tenant, sha256)
    if size is None:
        raise NotFound.at("sha256", f"no content {sha256} was uploaded", "upload it with PUT")
    return Response(headers={"X-Blob-Size": str(size)})


def _too_large() -> TooLarge:
    return TooLarge.at("body", f"the upload has more than {MAX_BYTES} bytes", "make the file smaller")
