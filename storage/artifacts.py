"""Bytes by their SHA-256, in a folder or an S3-compatible store, and who may use them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import obstore
import sqlalchemy as sa
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, ObjectStore, from_url

from certify.errors import InputError, Problem
from storage.database import Database, insert_once
from storage.errors import DamagedArtifact, NotFound
from storage.tables import blobs


class Artifacts:
    """A content-addressed store: what is read back is checked against its name, so nothing damaged is ever certified."""

    def __init__(self, place: str) -> None:
        self._store: ObjectStore = from_url(place) if "://" in place else LocalStore(Path(place), mkdir=True)

    def put_file(self, path: Path, sha256: str) -> None:
        """Keep the bytes of a file under their digest; a second time changes nothing, except that damaged content is replaced.

        Raises:
            InputError: the bytes have another digest.
        """
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != sha256:
            raise InputError(Problem(field="sha256", detail=f"the content has SHA-256 {actual}", mend="upload it under that digest"))
        try:
            obstore.put(self._store, _key(sha256), path, mode="create")
        except AlreadyExistsError:
            if not self._sound(sha256):
                obstore.put(self._store, _key(sha256), path)

    def get(self, sha256: str) -> bytes:
        """The bytes.

        Raises:
            NotFound: nothing is stored under the digest.
            DamagedArtifact: what is stored is damaged.
        """
        try:
            data = bytes(obstore.get(self._store, _key(sha256)).bytes())
        except FileNotFoundError:
            raise NotFound.at("blob", f"the store has no content {sha256}", "upload it again") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedArtifact.at("blob", f"the stored content {sha256} is damaged", "upload it again")
        return data

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

    def _sound(self, sha256: str) -> bool:
        actual = hashlib.sha256()
        for chunk in obstore.get(self._store, _key(sha256)).stream():
            actual.update(chunk)
        return actual.hexdigest() == sha256


def record_blob(db: Database, tenant_id: str, sha256: str, size: int) -> bool:
    """Note that a tenant may use a blob; true when that is new."""
    with db.begin() as connection:
        values = {"tenant_id": tenant_id, "sha256": sha256, "size": size, "created_at": db.now(connection)}
        return insert_once(connection, blobs, values)


def blob_size(db: Database, tenant_id: str, sha256: str) -> int | None:
    """The size of a blob that this tenant uploaded; null when it has not, even if another tenant has."""
    with db.read() as connection:
        size: int | None = connection.execute(
            sa.select(blobs.c.size).where((blobs.c.tenant_id == tenant_id) & (blobs.c.sha256 == sha256))
        ).scalar_one_or_none()
        return size


def _key(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256}"
