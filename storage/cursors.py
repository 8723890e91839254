"""Opaque cursors over a stable order."""

from __future__ import annotations

import base64
import json
from typing import Any

from certify.errors import InputError, Problem


def encode(*key: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode(cursor: str, length: int) -> tuple[Any, ...]:
    """The key of the last row seen.

    Raises:
        InputError: not a cursor that this service gave out.
    """
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, UnicodeDecodeError):
        key = None
    if not isinstance(key, list) or len(key) != length or not all(isinstance(part, (str, int)) for part in key):
        raise InputError(Problem(field="cursor", detail="is not a cursor of this list", mend="use next_cursor of the page before"))
    return tuple(key)
