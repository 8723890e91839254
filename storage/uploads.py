"""Uploads in parts: each part is kept in the store, so any process can go on with what another began, and a lost connection costs one part.

The parts of an upload follow each other without gap or overlap from its first byte; a part is only taken where the next one begins, or
again exactly where it lies. The last one puts them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from certify.errors import InputError
from storage.artifacts import Artifacts, blob_size, record_blob
from storage.database import Database, insert_once
from storage.errors import Conflict, StorageFull
from storage.quotas import check_bytes
from storage.records import Quota
from storage.scoped import everyones, owned
from storage.tables import upload_parts

KEPT = timedelta(hours=24)
# Fewer bytes in any but the last part would make many rows and objects of little use.
MIN_PART_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Part:
    """Bytes first <= i < last of an upload of `total` bytes."""

    first: int
    last: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What of an upload is here, in order. `total` is 0 while nothing is."""

    parts: tuple[Part, ...]
    total: int

    @property
    def received(self) -> int:
        return self.parts[-1].last if self.parts else 0

    @property
    def complete(self) -> bool:
        return bool(self.parts) and self.received == self.total

    @property
    def next(self) -> int:
        """Where to go on; the start of the last part when all is here but whoever was to put it together died."""
        return self.parts[-1].first if self.complete else self.received


class OutOfPlace(Conflict):
    """The part does not continue what is here of the upload."""

    code = "out-of-place"


def find_upload(db: Database, tenant_id: str, sha256: str) -> Upload:
    """How far a tenant's upload is; without parts when there is none."""
    with db.read() as connection:
        return _upload(connection, tenant_id, sha256)


def check_part(upload: Upload, part: Part) -> None:
    """Before the part is read.

    Raises:
        InputError: it is too small.
        OutOfPlace: it is not where the upload goes on, or the upload has another size.
    """
    if part.last < part.total and part.last - part.first < MIN_PART_BYTES:
        detail = f"is a part of {part.last - part.first} bytes"
        raise InputError.at("Content-Range", detail, f"send at least {MIN_PART_BYTES} bytes at a time, but for the last part")
    if part not in upload.parts and (part.first != upload.received or upload.total not in (0, part.total)):
        raise _out_of_place(part, upload)


def add_part(db: Database, store: Artifacts, tenant_id: str, sha256: str, part: Part, path: Path, quota: Quota | None = None) -> Upload:
    """Keep a part whose bytes are the file's; the same part again replaces it.

    Raises:
        OutOfPlace: another part was put there meanwhile; this one is not kept.
        StorageFull: the quota has no room for it; it is not kept.
    """
    place = _place(tenant_id, sha256, part)
    store.put_part(place, path)
    try:
        upload = _note_part(db, tenant_id, sha256, part, quota)
        if part not in upload.parts:
            raise _out_of_place(part, upload)
    except (OutOfPlace, StorageFull):
        store.delete_parts([place])
        raise
    return upload


def _note_part(db: Database, tenant_id: str, sha256: str, part: Part, quota: Quota | None) -> Upload:
    with db.begin() as connection:
        values = {"first": part.first, "length": part.last - part.first, "total": part.total, "created_at": db.now(connection)}
        new = insert_once(connection, upload_parts, {"tenant_id": tenant_id, "sha256": sha256, **values})
        if new and quota is not None:
            check_bytes(connection, tenant_id, 0, quota)
        return _upload(connection, tenant_id, sha256)


def assemble(db: Database, store: Artifacts, tenant_id: str, sha256: str, upload: Upload) -> bool:
    """Make the content of its parts, checked while they are read, and forget them; true when the tenant did not have it yet.

    Raises:
        InputError: the bytes have another digest; the parts are gone.
        OutOfPlace: a part was lost; the upload begins anew.
    """
    try:
        store.put_chunks(_chunks(store, tenant_id, sha256, upload), sha256)
    except FileNotFoundError:
        if blob_size(db, tenant_id, sha256) is not None:  # another process put the same parts together at the same time
            return False
        drop_upload(db, store, tenant_id, sha256)
        raise OutOfPlace.at("Content-Range", "continues an upload of which a part was lost", "send it again from byte 0 on") from None
    except InputError:
        drop_upload(db, store, tenant_id, sha256)
        raise
    new = record_blob(db, tenant_id, sha256, upload.total)
    drop_upload(db, store, tenant_id, sha256)
    return new


def drop_upload(db: Database, store: Artifacts, tenant_id: str, sha256: str) -> None:
    """Forget the parts of an upload. The bytes go first: whoever dies in between leaves rows, which are found again."""
    mine = owned(upload_parts, tenant_id) & (upload_parts.c.sha256 == sha256)
    with db.read() as connection:
        rows = connection.execute(sa.select(upload_parts).where(mine)).all()
    store.delete_parts([_place(tenant_id, sha256, Part(first=r.first, last=r.first + r.length, total=r.total)) for r in rows])
    with db.begin() as connection:
        connection.execute(sa.delete(upload_parts).where(mine & upload_parts.c.first.in_([row.first for row in rows])))


def drop_stale_uploads(db: Database, store: Artifacts) -> int:
    """Forget uploads that nobody has continued for a day; how many."""
    names = (upload_parts.c.tenant_id, upload_parts.c.sha256)
    with db.read() as connection:
        before = db.now(connection) - KEPT
        found = connection.execute(everyones(sa.select(*names, sa.func.max(upload_parts.c.created_at)).group_by(*names))).all()
    stale = [(tenant_id, sha256) for tenant_id, sha256, newest in found if newest < before]
    for tenant_id, sha256 in stale:
        drop_upload(db, store, tenant_id, sha256)
    # Bytes whose process died before it noted them.
    known = {f"{tenant_id}/{sha256}" for tenant_id, sha256, _ in found}
    store.delete_parts([place for place in store.parts_before(KEPT) if place.rpartition("/")[0] not in known])
    return len(stale)


def _upload(connection: sa.Connection, tenant_id: str, sha256: str) -> Upload:
    query = sa.select(upload_parts).where(owned(upload_parts, tenant_id) & (upload_parts.c.sha256 == sha256)).order_by(upload_parts.c.first)
    parts: list[Part] = []
    for row in connection.execute(query):
        if row.first != (parts[-1].last if parts else 0) or (parts and row.total != parts[0].total):
            break
        parts.append(Part(first=row.first, last=row.first + row.length, total=row.total))
    return Upload(parts=tuple(parts), total=parts[0].total if parts else 0)


def _out_of_place(part: Part, upload: Upload) -> OutOfPlace:
    if upload.total not in (0, part.total):
        detail = f"says {part.total} bytes in all, but the upload began with {upload.total}"
        return OutOfPlace.at("Content-Range", detail, "send the same file")
    detail = f"begins at byte {part.first}, but the upload goes on at byte {upload.next}"
    return OutOfPlace.at("Content-Range", detail, f"send from byte {upload.next} on")


def _chunks(store: Artifacts, tenant_id: str, sha256: str, upload: Upload) -> Iterator[bytes]:
    for part in upload.parts:
        yield from store.part(_place(tenant_id, sha256, part))


def _place(tenant_id: str, sha256: str, part: Part) -> str:
    # The range is in the name: two processes that write different parts at one byte do not write over each other.
    return f"{tenant_id}/{sha256}/{part.first}-{part.last}"
