"""Bytes by their SHA-256: streamed, counted and hashed while they arrive; large ones in parts, so that a lost connection costs little."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from api.openapi import also
from api.problems import TooLarge, answer
from api.receive import received
from api.schemas import BlobOut, UploadOut
from api.security import CanReadBlobs, CanWriteBlobs, Conf, Db, Store
from certify.errors import InputError
from storage import uploads
from storage.artifacts import blob_size, record_blob
from storage.errors import NotFound
from storage.quotas import check_room
from storage.records import Quota
from storage.uploads import OutOfPlace, Part, Upload

router = APIRouter(prefix="/v1/blobs", tags=["blobs"])
BYTES = "application/octet-stream"
Hex = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content, in hex")]
ContentRange = Annotated[
    str | None,
    Header(
        alias="Content-Range",
        description="the body is one part: `bytes FIRST-LAST/TOTAL`, the last byte included",
        examples=["bytes 0-1048575/3000000"],
    ),
]
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", re.ASCII)


@router.put(
    "/sha256/{sha256}",
    status_code=201,
    response_model=BlobOut,
    responses={
        200: {"model": BlobOut, "description": "the tenant had it already"},
        202: {"model": UploadOut, "description": "a part; Upload-Offset says where the next one begins"},
        **also(409, why="the part does not continue the upload; Upload-Offset says what does"),
    },
    openapi_extra={"requestBody": {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def put_blob(
    sha256: Hex, request: Request, db: Db, store: Store, conf: Conf, tenant: CanWriteBlobs, content_range: ContentRange = None
) -> Response:
    """Upload the raw bytes whose SHA-256 is in the path. The same content again is no error.

    With `Content-Range` the body is one part of them. Parts follow each other from byte 0 on; each has at least 1 MiB but for the last,
    which puts them together. HEAD tells where to go on after a lost connection. Parts that nobody continues are forgotten after a day.
    """
    part = None if content_range is None else _part(content_range, conf.max_upload_bytes)
    if part is not None and part.last - part.first < part.total:
        return await _put_part(sha256, part, request, db, store, conf.quota, tenant)
    if await run_in_threadpool(blob_size, db, tenant, sha256) is None:
        await run_in_threadpool(check_room, db, tenant, _announced(request), conf.quota)
    async with received(request, limit=conf.max_upload_bytes, exact=part.total if part else None) as (path, size):
        await run_in_threadpool(store.put_file, path, sha256)
    return _there(sha256, size, new=await run_in_threadpool(record_blob, db, tenant, sha256, size, conf.quota))


async def _put_part(sha256: str, part: Part, request: Request, db: Db, store: Store, quota: Quota, tenant: str) -> Response:
    size = await run_in_threadpool(blob_size, db, tenant, sha256)
    if size is not None:
        return _there(sha256, size, new=False)
    try:
        before = await run_in_threadpool(uploads.find_upload, db, tenant, sha256)
        uploads.check_part(before, part)
        await run_in_threadpool(check_room, db, tenant, part.total - before.received, quota)
        async with received(request, limit=part.total, exact=part.last - part.first) as (path, _):
            upload = await run_in_threadpool(uploads.add_part, db, store, tenant, sha256, part, path, quota)
        if not upload.complete:
            return JSONResponse(UploadOut(sha256=sha256, received=upload.received, total=upload.total).model_dump(), 202, _how_far(upload))
        new = await run_in_threadpool(uploads.assemble, db, store, tenant, sha256, upload)
    except OutOfPlace as error:
        return answer(request, error, _how_far(await run_in_threadpool(uploads.find_upload, db, tenant, sha256)))
    return _there(sha256, upload.total, new=new)


@router.head("/sha256/{sha256}", response_class=Response)
def head_blob(sha256: Hex, request: Request, db: Db, tenant: CanReadBlobs) -> Response:
    """200 when this tenant has uploaded the content, so that it need not be sent again; else 404.

    `Upload-Offset` says from which byte to go on with an upload in parts; 0 when none of it is here.
    """
    size = blob_size(db, tenant, sha256)
    if size is None:
        missing = NotFound.at("sha256", f"no content {sha256} was uploaded", "upload it with PUT")
        return answer(request, missing, _how_far(uploads.find_upload(db, tenant, sha256)))
    return Response(headers={"X-Blob-Size": str(size)})


def _part(content_range: str, limit: int) -> Part:
    found = _RANGE.fullmatch(content_range.strip())
    if found is None:
        raise InputError.at(
            "Content-Range", f"{content_range[:60]!r} is no range", "write bytes FIRST-LAST/TOTAL, as in bytes 0-1048575/3000000"
        )
    first, last, total = map(int, found.groups())
    if not first <= last < total:
        raise InputError.at("Content-Range", f"bytes {first} to {last} of {total} do not exist", "count from 0, the last byte included")
    if total > limit:
        raise TooLarge.at("Content-Range", f"the upload has more than {limit} bytes", "make the file smaller")
    return Part(first=first, last=last + 1, total=total)


def _announced(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length[:20]) if length.isdecimal() else 0


def _there(sha256: str, size: int, *, new: bool) -> Response:
    return JSONResponse(BlobOut(sha256=sha256, size=size).model_dump(), 201 if new else 200)


def _how_far(upload: Upload) -> dict[str, str]:
    here = {"Range": f"bytes=0-{upload.next - 1}"} if upload.next else {}
    return {"Upload-Offset": str(upload.next), **here}
