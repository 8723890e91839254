"""Bytes are stored under the digest they have, and never handed out with another."""

from __future__ import annotations

from pathlib import Path

import pytest

from certify.errors import AssayError, InputError
from storage import artifacts, tenants
from storage.artifacts import Artifacts
from storage.database import Database
from storage.errors import NotFound
from tests.support.shop import digest

CONTENT = "a model"


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "store"))


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / "upload"
    path.write_text(CONTENT)
    return path


def stored_file(tmp_path: Path) -> Path:
    return tmp_path / "store" / "sha256" / digest(CONTENT)[:2] / digest(CONTENT)


def test_what_goes_in_comes_out(store: Artifacts, upload: Path, tmp_path: Path) -> None:
    assert not store.exists(digest(CONTENT))
    store.put_file(upload, digest(CONTENT))
    store.put_file(upload, digest(CONTENT))
    assert store.exists(digest(CONTENT))
    assert store.get(digest(CONTENT)) == CONTENT.encode()
    assert stored_file(tmp_path).exists()


def test_a_false_digest_stores_nothing(store: Artifacts, upload: Path) -> None:
    with pytest.raises(InputError, match=digest(CONTENT)):
        store.put_file(upload, digest("something else"))
    assert not store.exists(digest("something else"))


def test_missing_content_is_not_found(store: Artifacts) -> None:
    with pytest.raises(NotFound):
        store.get(digest("never uploaded"))


def test_damaged_content_is_never_read(store: Artifacts, upload: Path, tmp_path: Path) -> None:
    store.put_file(upload, digest(CONTENT))
    stored_file(tmp_path).write_text("a modem")
    with pytest.raises(AssayError, match="damaged"):
        store.get(digest(CONTENT))


def test_a_blob_belongs_to_those_who_uploaded_it(db: Database) -> None:
    mine, theirs = tenants.ensure_tenant(db, "mine").id, tenants.ensure_tenant(db, "theirs").id
    assert artifacts.record_blob(db, mine, digest("x"), 7)
    assert not artifacts.record_blob(db, mine, digest("x"), 7)
    assert artifacts.blob_size(db, mine, digest("x")) == 7
    assert artifacts.blob_size(db, theirs, digest("x")) is None
