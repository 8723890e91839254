"""Uploads in parts: any process goes on where another stopped, nothing false is ever stored, and what nobody finishes goes away."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from certify.errors import InputError
from storage import tenants, uploads
from storage.artifacts import Artifacts, blob_size
from storage.database import Database
from storage.tables import upload_parts
from storage.uploads import OutOfPlace, Part, Upload

MIB = 2**20
CONTENT = os.urandom(3 * MIB + 17)
SHA = hashlib.sha256(CONTENT).hexdigest()
Add = Callable[[int, int], Upload]


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "store"))


@pytest.fixture
def tenant(db: Database) -> str:
    return tenants.ensure_tenant(db, "acme").id


@pytest.fixture
def add(db: Database, store: Artifacts, tenant: str, tmp_path: Path) -> Add:
    def _add(first: int, last: int, total: int = len(CONTENT)) -> Upload:
        (tmp_path / "part").write_bytes(CONTENT[first:last])
        return uploads.add_part(db, store, tenant, SHA, Part(first=first, last=last, total=total), tmp_path / "part")

    return _add


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file())


def test_parts_become_the_content_and_are_gone(db: Database, store: Artifacts, tenant: str, add: Add, tmp_path: Path) -> None:
    assert uploads.find_upload(db, tenant, SHA) == Upload(parts=(), total=0)
    assert add(0, MIB).next == MIB
    add(MIB, 2 * MIB)
    upload = add(2 * MIB, len(CONTENT))
    assert upload.complete
    assert uploads.assemble(db, store, tenant, SHA, upload)
    assert store.get(SHA) == CONTENT
    assert blob_size(db, tenant, SHA) == len(CONTENT)
    assert files(tmp_path) == [SHA]
    assert uploads.find_upload(db, tenant, SHA).parts == ()


def test_a_part_is_taken_where_the_next_begins_or_again_where_it_lies(db: Database, tenant: str, add: Add) -> None:
    add(0, MIB)
    add(0, MIB)
    here = uploads.find_upload(db, tenant, SHA)
    for part, text in (
        (Part(first=2 * MIB, last=3 * MIB, total=len(CONTENT)), f"send from byte {MIB} on"),
        (Part(first=5, last=2 * MIB, total=len(CONTENT)), f"send from byte {MIB} on"),
        (Part(first=0, last=2 * MIB, total=len(CONTENT)), f"send from byte {MIB} on"),
        (Part(first=MIB, last=2 * MIB, total=len(CONTENT) + 1), "began with"),
    ):
        with pytest.raises(OutOfPlace, match=text):
            uploads.check_part(here, part)
    with pytest.raises(InputError, match="at least"):
        uploads.check_part(here, Part(first=MIB, last=MIB + 5, total=len(CONTENT)))


def test_two_that_write_at_one_byte_do_not_mix(db: Database, store: Artifacts, tenant: str, add: Add, tmp_path: Path) -> None:
    """Both looked before either wrote; the second is refused and leaves nothing."""
    add(0, MIB)
    with pytest.raises(OutOfPlace):
        add(0, 2 * MIB)
    assert files(tmp_path) == [f"0-{MIB}"]
    assert uploads.find_upload(db, tenant, SHA).received == MIB


def test_false_bytes_are_refused_and_forgotten(db: Database, store: Artifacts, tenant: str, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x" * 8 * MIB)
    upload = uploads.add_part(db, store, tenant, SHA, Part(first=0, last=8 * MIB, total=8 * MIB), tmp_path / "part")
    with pytest.raises(InputError, match="has SHA-256"):
        uploads.assemble(db, store, tenant, SHA, upload)
    assert files(tmp_path) == []
    assert not store.exists(SHA)
    assert blob_size(db, tenant, SHA) is None
    assert uploads.find_upload(db, tenant, SHA).parts == ()


def test_who_died_before_putting_them_together_is_followed(db: Database, tenant: str, add: Add) -> None:
    add(0, 2 * MIB)
    upload = add(2 * MIB, len(CONTENT))
    assert (upload.received, upload.next) == (len(CONTENT), 2 * MIB)
    assert add(2 * MIB, len(CONTENT)).complete


def test_a_lost_part_begins_the_upload_anew(db: Database, store: Artifacts, tenant: str, add: Add, tmp_path: Path) -> None:
    add(0, 2 * MIB)
    upload = add(2 * MIB, len(CONTENT))
    next((tmp_path / "store").rglob("0-*")).unlink()
    with pytest.raises(OutOfPlace, match="from byte 0"):
        uploads.assemble(db, store, tenant, SHA, upload)
    assert uploads.find_upload(db, tenant, SHA).next == 0
    add(0, 2 * MIB)
    assert uploads.assemble(db, store, tenant, SHA, add(2 * MIB, len(CONTENT)))


def test_tenants_do_not_see_each_others_parts(db: Database, add: Add) -> None:
    add(0, MIB)
    assert uploads.find_upload(db, tenants.ensure_tenant(db, "other").id, SHA).parts == ()


def test_what_nobody_continues_is_forgotten_after_a_day(db: Database, store: Artifacts, tenant: str, add: Add, tmp_path: Path) -> None:
    add(0, MIB)
    orphan = tmp_path / "store" / "parts" / "ten_x" / SHA / "0-5"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"12345")
    assert uploads.drop_stale_uploads(db, store) == 0
    assert files(tmp_path) == [f"0-{MIB}", "0-5"]
    _age(db, tmp_path, uploads.KEPT + timedelta(minutes=1))
    add(MIB, 2 * MIB)  # one that goes on is kept whole, however slow it is
    assert uploads.drop_stale_uploads(db, store) == 0
    assert files(tmp_path) == [f"0-{MIB}", f"{MIB}-{2 * MIB}"]
    _age(db, tmp_path, uploads.KEPT + timedelta(minutes=1))
    assert uploads.drop_stale_uploads(db, store) == 1
    assert files(tmp_path) == []
    assert uploads.find_upload(db, tenant, SHA).parts == ()


def _age(db: Database, tmp_path: Path, by: timedelta) -> None:
    with db.begin() as connection:
        connection.execute(sa.update(upload_parts).values(created_at=db.now(connection) - by))
    for path in (tmp_path / "store" / "parts").rglob("*"):
        os.utime(path, (time.time() - by.total_seconds(),) * 2)
