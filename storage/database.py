"""The connection: one transaction at a time, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import postgresql, sqlite

from storage.errors import Busy
from storage.private import close_file, private_file, private_folder

# Any constant: it names the lock under which migrations run.
_MIGRATION_LOCK = 0x4153534159
# The API answers in at most 40 threads. What finds no connection waits its turn; after ten seconds it is told to come back.
_POOL = {"pool_size": 10, "max_overflow": 10, "pool_timeout": 10.0}
_WRITER_SECONDS = 20.0


class Database:
    """A database by URL: `sqlite:////path/assay.db` or `postgresql+psycopg://...`."""

    def __init__(self, url: str) -> None:
        self.url = url
        memory = sa.make_url(url).get_backend_name() == "sqlite" and sa.make_url(url).database in (None, "", ":memory:")
        self.engine = sa.create_engine(url, pool_pre_ping=True, **({} if memory else _POOL))
        # SQLite's own waiting is a lottery that polls; in one process writers queue here instead, and hold no connection meanwhile.
        self._writing = threading.Lock() if self.engine.dialect.name == "sqlite" else None
        if self.engine.dialect.name == "sqlite":
            if self.engine.url.database:
                _prepare_files(Path(self.engine.url.database))
            _prepare_sqlite(self.engine)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """One transaction that may write; committed at the end, rolled back on any exception.

        Raises:
            Busy: the database cannot be reached, or is too busy to answer in time.
        """
        with _turn(self._writing), _overload(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One transaction that only reads; on SQLite it waits for no writer. Raises Busy as `begin` does."""
        with _overload(), self.engine.connect().execution_options(assay_read=True) as connection, connection.begin():
            yield connection

    def now(self, connection: sa.Connection) -> datetime:
        """The database's clock on PostgreSQL, so that workers on several machines agree; this machine's on SQLite."""
        if self.engine.dialect.name == "postgresql":
            moment: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
            return moment.astimezone(UTC)
        return datetime.now(UTC)

    def migrate(self) -> None:
        """Bring the schema to the newest version. Safe when several processes start at once."""
        with self.begin() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            command.upgrade(migrations(connection), "head")

    def ping(self) -> None:
        """Raises when the database cannot be reached."""
        with self.read() as connection:
            connection.execute(sa.text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


def migrations(connection: sa.Connection) -> Config:
    """Alembic's configuration, bound to an open transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def locked(statement: sa.Select[Any], of: sa.Table | None = None) -> sa.Select[Any]:
    """Rows nobody else is taking. SQLite has no row locks and needs none: its writers are alone (BEGIN IMMEDIATE)."""
    return statement.with_for_update(skip_locked=True, key_share=True, of=of)


def held(statement: sa.Select[Any]) -> sa.Select[Any]:
    """Rows held until the transaction ends; waits for whoever has them.

    FOR NO KEY UPDATE: a foreign key check of another transaction holds KEY SHARE on the same row, and two that both did and then
    asked for plain FOR UPDATE would wait for each other for ever.
    """
    return statement.with_for_update(key_share=True)


def insert_once(connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> bool:
    """Insert a row unless its key is taken, also by a transaction that runs at the same time; true when it was inserted."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = dialect.insert(table).values(values).on_conflict_do_nothing().returning(sa.literal(1))
    return connection.execute(new).first() is not None


@contextmanager
def _turn(lock: threading.Lock | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    if not lock.acquire(timeout=_WRITER_SECONDS):
        raise _busy()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _overload() -> Iterator[None]:
    """No connection in time, a database that is locked, gone or starting: the caller's request was right and may be sent again."""
    try:
        yield
    except (sa.exc.TimeoutError, sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        raise _busy() from error


def _busy() -> Busy:
    return Busy.at("", "the database is too busy or cannot be reached", "try again in a moment")


def _prepare_files(path: Path) -> None:
    """The database's file, and its folder, for its owner alone; SQLite gives -wal and -shm the mode of the database."""
    if not path.parent.exists():
        private_folder(path.parent)
    private_file(path)
    for suffix in ("-wal", "-shm"):
        close_file(path.with_name(path.name + suffix))


def _prepare_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not start transactions of its own
        for pragma in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A plain BEGIN would take the write lock only at the first write, after what was read may have changed.
        reading = connection.get_execution_options().get("assay_read", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
