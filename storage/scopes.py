"""What a key may do. The names are part of the interface: they stand in keys, in the OpenAPI document and in refusals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from certify.errors import InputError, Problem

Scope = Literal["read", "models:write", "datasets:write", "jobs:write", "schedules:write", "gates:write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ADMIN: Scope = "admin"


def allows(held: Iterable[str], needed: Iterable[str]) -> bool:
    """Whether one of the needed scopes is held. `admin` implies every scope; nothing else implies another. Nothing needed: only admin."""
    found = set(held)
    return ADMIN in found or not found.isdisjoint(needed)


def checked(scopes: Sequence[str]) -> tuple[Scope, ...]:
    """The scopes in their usual order, each once.

    Raises:
        InputError: none, or one that does not exist.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        detail = f"has no scope {', '.join(unknown)}" if unknown else "is empty"
        raise InputError(Problem(field="scopes", detail=detail, mend=f"use some of {', '.join(SCOPES)}"))
    return tuple(scope for scope in SCOPES if scope in scopes)
