"""Bytes by their SHA-256, in a folder or an S3-compatible store, and who may use them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import obstore
import sqlalchemy as sa
from obstore.store import LocalStore, ObjectStore, from_url

from certify.errors import InputError
from storage.database import Database, insert_once
from storage.errors import DamagedArtifact, NotFound
from storage.private import private_folder
from storage.quotas import check_bytes
from storage.records import Quota
from storage.scoped import owned
from storage.tables import blobs

_PARTS = "parts"
_READ = 2**20
_PIECE = 5 * 2**20  # the smallest that S3 takes
_AT_ONCE = 2


class Artifacts:
    """A content-addressed store: what is read back is checked against its name, so nothing damaged is ever certified."""

    def __init__(self, place: str) -> None:
        self._folder = None if "://" in place else Path(place)
        if self._folder is None:
            self._store: ObjectStore = from_url(place)
        else:
            private_folder(self._folder)
            self._store = LocalStore(self._folder, automatic_cleanup=True)

    def put_file(self, path: Path, sha256: str) -> None:
        """Keep the bytes of a file under their digest; a second time changes nothing, except that damaged content is replaced.

        Raises:
            InputError: the bytes have another digest.
        """
        self.put_chunks(_read(path), sha256)

    def put_chunks(self, chunks: Iterator[bytes], sha256: str) -> None:
        """The same for bytes that come in pieces; a few MiB are held at a time, whatever the size.

        Raises:
            InputError: the bytes have another digest; nothing was kept.
        """
        checked = _checked(chunks, sha256)
        if self._sound(sha256):
            _exhaust(checked)
        else:
            # Not put(mode="create"): it holds the whole content in memory. Whoever writes at the same time writes the same bytes.
            self._write(_key(sha256), checked)

    def get(self, sha256: str) -> bytes:
        """The bytes.

        Raises:
            NotFound: nothing is stored under the digest.
            DamagedArtifact: what is stored is damaged.
        """
        try:
            data = bytes(obstore.get(self._store, _key(sha256)).bytes())
        except FileNotFoundError:
            raise _missing(sha256) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _damaged(sha256)
        return data

    @contextmanager
    def open(self, sha256: str) -> Iterator[Any]:
        """The bytes as an open file, checked, read-only and at its start; memory does not grow with their size.

        It is the object itself where the store is a folder, and a temporary copy elsewhere.

        Raises:
            NotFound: nothing is stored under the digest.
            DamagedArtifact: what is stored is damaged.
        """
        try:
            opened = self._opened(sha256)
        except FileNotFoundError:
            raise _missing(sha256) from None
        with opened as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise _damaged(sha256)
            file.seek(0)
            yield file

    def _opened(self, sha256: str) -> AbstractContextManager[Any]:
        # Without a buffer of Python's: whoever inherits the descriptor reads on where the file itself stands.
        if self._folder is not None:
            return (self._folder / _key(sha256)).open("rb", buffering=0)
        return _copied(obstore.get(self._store, _key(sha256)).stream(min_chunk_size=_READ))

    def head(self, sha256: str, length: int = 64) -> bytes:
        """The first bytes; empty when the content is empty or missing."""
        try:
            size = obstore.head(self._store, _key(sha256))["size"]
        except FileNotFoundError:
            return b""
        return bytes(obstore.get_range(self._store, _key(sha256), start=0, length=min(size, length))) if size else b""

    def exists(self, sha256: str) -> bool:
        try:
            obstore.head(self._store, _key(sha256))
        except FileNotFoundError:
            return False
        return True

    def put_part(self, place: str, path: Path) -> None:
        """Keep a piece of an upload under a name of the caller's."""
        self._write(f"{_PARTS}/{place}", _read(path))

    def part(self, place: str) -> Iterator[bytes]:
        """The bytes of a piece, some at a time. Raises FileNotFoundError."""
        yield from obstore.get(self._store, f"{_PARTS}/{place}").stream(min_chunk_size=_READ)

    def delete_parts(self, places: Sequence[str]) -> None:
        """Forget pieces; one that is not there is no error."""
        for place in places:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, f"{_PARTS}/{place}")

    def parts_before(self, age: timedelta) -> list[str]:
        """Names of the pieces that are older."""
        old = (
            o["path"] for found in obstore.list(self._store, prefix=_PARTS) for o in found if datetime.now(UTC) - o["last_modified"] > age
        )
        return [path.removeprefix(f"{_PARTS}/") for path in old]

    def _write(self, key: str, chunks: Iterator[bytes]) -> None:
        """All of it appears under the key at once, or, when the chunks end in an error, nothing."""
        with obstore.open_writer(self._store, key, buffer_size=_PIECE, max_concurrency=_AT_ONCE) as writer:
            for chunk in chunks:
                writer.write(chunk)

    def _sound(self, sha256: str) -> bool:
        """The content is there and undamaged."""
        try:
            chunks = obstore.get(self._store, _key(sha256)).stream(min_chunk_size=_READ)
            _exhaust(_checked(chunks, sha256))
        except (FileNotFoundError, InputError):
            return False
        return True


def _missing(sha256: str) -> NotFound:
    return NotFound.at("blob", f"the store has no content {sha256}", "upload it again")


def _damaged(sha256: str) -> DamagedArtifact:
    return DamagedArtifact.at("blob", f"the stored content {sha256} is damaged", "upload it again")


@contextmanager
def _copied(chunks: Iterable[bytes]) -> Iterator[Any]:
    """A file without a name that holds the chunks, at its start."""
    with TemporaryFile(prefix="assay-blob-") as copy:
        for chunk in chunks:
            copy.write(chunk)
        copy.flush()
        copy.raw.seek(0)
        yield copy.raw


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_READ):
            yield chunk


def _checked(chunks: Iterable[bytes], sha256: str) -> Iterator[bytes]:
    """The same chunks; the error comes before the end is told, so that what reads them keeps nothing."""
    actual = hashlib.sha256()
    for chunk in chunks:
        actual.update(chunk)
        yield chunk
    if actual.hexdigest() != sha256:
        raise InputError.at("sha256", f"the content has SHA-256 {actual.hexdigest()}", "upload it under that digest")


def _exhaust(chunks: Iterator[bytes]) -> None:
    for _ in chunks:
        pass


def record_blob(db: Database, tenant_id: str, sha256: str, size: int, quota: Quota | None = None) -> bool:
    """Note that a tenant may use a blob; true when that is new.

    Raises:
        StorageFull: it is new, and more than the quota allows. None: its room was taken before.
    """
    with db.begin() as connection:
        values = {"tenant_id": tenant_id, "sha256": sha256, "size": size, "created_at": db.now(connection)}
        new = insert_once(connection, blobs, values)
        if new and quota is not None:
            check_bytes(connection, tenant_id, 0, quota)
        return new


def blob_size(db: Database, tenant_id: str, sha256: str) -> int | None:
    """The size of a blob that this tenant uploaded; null when it has not, even if another tenant has."""
    with db.read() as connection:
        size: int | None = connection.execute(
            sa.select(blobs.c.size).where(owned(blobs, tenant_id) & (blobs.c.sha256 == sha256))
        ).scalar_one_or_none()
        return size


def _key(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256}"
