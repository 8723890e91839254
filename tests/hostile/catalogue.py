"""All hostile uploads."""

from __future__ import annotations

from tests.hostile import archives, batch, bombs, graphs, pickles, strangers, tables, weights
from tests.hostile.hostile import Hostile

CATALOGUE: list[Hostile] = [
    case for group in (pickles, archives, tables, strangers, weights, bombs, graphs, batch) for case in group.HOSTILE
]
