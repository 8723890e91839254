"""Every test of this folder that takes `db` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.database import Database
from tests.support import postgres
from tests.support.shop import Shop


@pytest.fixture(scope="session")
def pg_server() -> Iterator[postgres.Server]:
    try:
        with postgres.server() as running:
            yield running
    except postgres.NoPostgres as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(f"NOT TESTED ON POSTGRESQL: {error}")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/assay.db"
    else:
        with request.getfixturevalue("pg_server").database() as url:
            yield url


@pytest.fixture
def db(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def shop(db: Database) -> Shop:
    """A tenant with a model and a dataset that are ready for jobs."""
    return Shop.open(db, "acme")
