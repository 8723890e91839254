"""The schema: what the migrations build is what the code expects, on both databases, however many processes start at once."""

from __future__ import annotations

import subprocess
import sys

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from storage.database import Database, migrations
from storage.tables import metadata


def tables(db: Database) -> set[str]:
    return set(sa.inspect(db.engine).get_table_names())


def test_migrated_schema_is_the_schema_of_the_code(db: Database) -> None:
    with db.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []


def test_the_partial_index_allows_one_living_job_only(db: Database) -> None:
    # compare_metadata does not look at the WHERE of an index, and here the WHERE is the rule.
    catalogue = "SELECT sql FROM sqlite_master WHERE name = 'uq_jobs_living'"
    if db.engine.dialect.name == "postgresql":
        catalogue = "SELECT indexdef FROM pg_indexes WHERE indexname = 'uq_jobs_living'"
    with db.read() as connection:
        definition = connection.execute(sa.text(catalogue)).scalar_one()
    assert "UNIQUE" in definition
    assert "WHERE" in definition
    assert "failed" in definition
    assert "cancelled" in definition


def test_down_and_up_again(db: Database) -> None:
    before = tables(db)
    with db.begin() as connection:
        command.downgrade(migrations(connection), "base")
    assert tables(db) == {"alembic_version"}
    db.migrate()
    assert tables(db) == before


def test_processes_that_start_together_migrate_once(empty_url: str) -> None:
    code = "import sys; from storage.database import Database; Database(sys.argv[1]).migrate()"
    starting = [subprocess.Popen([sys.executable, "-c", code, empty_url], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in starting:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    db = Database(empty_url)
    assert {"jobs", "shards", "certificates"} <= tables(db)
    db.close()
