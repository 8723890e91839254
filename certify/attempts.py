"""When two certifiers are the same one tried again: what attempts are counted by."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from certify.spec import Part

# How hard, how fast and in which units it tries, and on whose word: another value is another throw of the same certifier.
EFFORT = frozenset(
    {
        "alpha",
        "batch_size",
        "bound",
        "calibrated_on",
        "error_rate",
        "ledger",
        "looks",
        "n",
        "n0",
        "norm",
        "precision",
        "radii",
        "sampling",
        "search",
        "tolerance",
        "version",
    }
)


def tried_as(certifier: Part) -> str:
    """SHA-256 of what makes a certifier this one: its fields, those inside too, without `EFFORT`.

    Seed, examples, name and the other certifiers of a spec are no part of it, so that none of them restarts the count.
    """
    kept = _without_effort(certifier.model_dump(mode="json"))
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_effort(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_effort(one) for name, one in value.items() if name not in EFFORT}
    return value
