"""Bytes as the inspector gets them: in a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryFile
from typing import Any

from certify.facts import DatasetFacts, ModelFacts
from storage.records import InspectionLease
from workers.sandbox import inspect


def never() -> bool:
    return False


def inspected(
    lease: InspectionLease, data: bytes, seconds: float = 120, should_stop: Callable[[], bool] = never, **more: Any
) -> ModelFacts | DatasetFacts:
    """`inspect` of these bytes."""
    with TemporaryFile(buffering=0) as file:
        file.write(data)
        file.seek(0)
        return inspect(lease, file, seconds, should_stop, **more)
