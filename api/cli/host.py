"""The database of this host, for the few commands that work on it themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.database import Database


@contextmanager
def database() -> Iterator[Database]:
    """That of ASSAY_DATABASE_URL, or of ASSAY_HOME, brought to the newest schema. Loaded only here: other commands start faster."""
    from storage.database import Database
    from storage.private import private_folder
    from storage.settings import Settings

    settings = Settings.load()
    private_folder(settings.home)
    db = Database(settings.database_url)
    try:
        db.migrate()
        yield db
    finally:
        db.close()
