"""What holds for the whole run."""

from __future__ import annotations

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Set aside what thousands of collected tests keep: bounds collect garbage after each engine, and would look at all of it each time."""
    gc.collect()
    gc.freeze()
