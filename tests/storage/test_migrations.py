"""The schema: what the migrations build is what the code expects, on both databases, however many processes start at once."""

from __future__ import annotations

import json
import subprocess
import sys

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from certify.attempts import tried_as
from certify.spec import parse_spec
from storage import audit
from storage.database import Database, migrations
from storage.tables import metadata
from tests.support.shop import Shop


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


def test_jobs_of_before_keep_their_keys_and_are_counted(db: Database) -> None:
    """As in 0004, whose keys had no salt: the certifier of an old job is one that was tried."""
    shop = Shop.open(db, "old")
    entries = [{"kind": "smoothing", "sigma": 0.25}, {"kind": "lipschitz"}, {"kind": "smoothing", "sigma": 0.25, "n": 500}]
    first, second = shop.submit(certifiers=entries), shop.submit(seed=1, certifiers=entries[:1])
    with db.begin() as connection:
        before = connection.execute(sa.text("SELECT noise_key FROM jobs ORDER BY id")).scalars().all()
        command.downgrade(migrations(connection), "0004")
        command.upgrade(migrations(connection), "head")
        assert connection.execute(sa.text("SELECT noise_key FROM jobs ORDER BY id")).scalars().all() == before
        kept = connection.execute(sa.text("SELECT attempts FROM jobs ORDER BY id")).scalars().all()
        certifiers = set(connection.execute(sa.text("SELECT certifier FROM throws")).scalars())
        assert connection.execute(sa.text("SELECT count(*) FROM noise_salts")).scalar_one() == 0
    assert [json.loads(text) for text in kept] == [[1, None, 2], [3]]
    assert certifiers == {tried_as(parse_spec({"certifiers": entries}).certifiers[0])}
    assert shop.offer(certifiers=entries)[0].id == first.id
    shop.cancel(audit.SERVER)
    again = shop.submit(seed=1, certifiers=entries[:1])
    assert again.id != second.id
    assert (again.noise_commitment, again.attempts) == (second.noise_commitment, (3,))
    assert shop.submit(seed=2, certifiers=entries[:1]).attempts == (4,)
