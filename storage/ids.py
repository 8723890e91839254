"""Prefixed ids that sort by the time they were made: `job_01kae3...`."""

from __future__ import annotations

import secrets
import time
from typing import Literal

Prefix = Literal["ten", "key", "mdl", "dat", "job", "shd", "sch", "run", "gat", "out", "whk", "evt", "aud", "ldg"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_RANDOM_BITS = 80
_LENGTH = 26  # ceil((48 + 80) / 5), the layout of a ULID


def new_id(prefix: Prefix) -> str:
    """A new id: the prefix, 48 bits of milliseconds, 80 random bits. Ids of one prefix sort by millisecond."""
    number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    digits = [_ALPHABET[(number >> (5 * place)) & 31] for place in reversed(range(_LENGTH))]
    return f"{prefix}_{''.join(digits)}"
