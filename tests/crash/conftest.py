"""What is about the database alone is killed on SQLite and on PostgreSQL."""

from __future__ import annotations

from tests.storage.conftest import empty_url, pg_server

__all__ = ["empty_url", "pg_server"]
