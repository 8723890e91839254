"""Opaque cursors over a stable order."""

from __future__ import annotations

import base64
import json
from typing import Any

from certify.errors import InputError, Problem

_LARGEST_PAGE = 1000


def encode(of: str, *key: Any) -> str:
    """The key of the last row of a page, and which list it is a page of."""
    return base64.urlsafe_b64encode(json.dumps([of, *key]).encode()).decode().rstrip("=")


def checked(limit: int) -> int:
    """The limit of a page.

    Raises:
        InputError: not 1 to 1000.
    """
    if not 1 <= limit <= _LARGEST_PAGE:
        raise InputError(Problem(field="limit", detail=f"is {limit}", mend=f"use 1 to {_LARGEST_PAGE}"))
    return limit


def decode(cursor: str, of: str, *kinds: type) -> tuple[Any, ...]:
    """The key of the last row seen in the list, one part of each kind.

    Raises:
        InputError: not a cursor that this list gave out.
    """
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, list) or [type(part) for part in key] != [str, *kinds] or key[0] != of or not all(map(_storable, key)):
        raise InputError(Problem(field="cursor", detail="is not a cursor of this list", mend="use next_cursor of the page before"))
    return tuple(key[1:])


def _storable(part: Any) -> bool:
    """What a column could hold. Whoever makes up a cursor must not reach the database with what it cannot even compare."""
    return -(2**31) < part < 2**31 if isinstance(part, int) else part.isascii() and part.isprintable()
