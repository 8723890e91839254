"""Leftovers go away by themselves while a dispatcher runs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from storage import idempotency, uploads
from storage.tables import idempotency as answers
from storage.tables import upload_parts
from tests.support.workplace import Workplace, wait
from workers import tidy
from workers.beside import beside
from workers.tidy import Tidy

SHA = "0" * 64


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """A tenant with half an upload and an answered request, both from the day before yesterday."""
    found = Workplace.make(tmp_path / "place")
    (tmp_path / "part").write_bytes(b"x" * uploads.MIN_PART_BYTES)
    part = uploads.Part(first=0, last=uploads.MIN_PART_BYTES, total=2 * uploads.MIN_PART_BYTES)
    uploads.add_part(found.db, found.store, found.tenant, SHA, part, tmp_path / "part")
    claim = idempotency.claim(found.db, found.tenant, "k", "a")
    assert isinstance(claim, idempotency.Claim)
    idempotency.keep_answer(found.db, claim, idempotency.StoredAnswer(status=200, headers=(), body="{}"))
    with found.db.begin() as connection:
        for table in (upload_parts, answers):
            connection.execute(sa.update(table).values(created_at=found.db.now(connection) - timedelta(days=2)))
    return found


def rows(place: Workplace) -> int:
    with place.db.read() as connection:
        return sum(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in (upload_parts, answers))


def test_the_dispatchers_thread_tidies(place: Workplace) -> None:
    assert rows(place) == 2
    with beside(place.db, place.settings):
        wait(lambda: rows(place) == 0)
    assert not any(path.is_file() for path in (place.folder / "artifacts").rglob("*"))


def test_it_looks_now_and_then_only(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(tidy, "drop_old_answers", lambda db: looks.append(1) or 0)
    tidy_ = Tidy(place.db, place.settings.artifacts)
    for _ in range(3):
        tidy_.step()
    assert len(looks) == 1
