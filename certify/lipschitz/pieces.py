"""Pieces of one tensor put side by side, as exporters write circular padding: one step that picks from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from certify.lipschitz.forms import Step
from certify.lipschitz.parts import Chain, Picks, Spread


def joined(step: Step, steps: Mapping[str, Step]) -> tuple[str, Chain] | None:
    """A tensor and the one part that makes the output of `step` of it; null where the inputs are not pieces of one tensor.

    Args:
        step: that puts its inputs side by side.
        steps: by output, the linear ones.
    """
    if len(step.inputs) < 2:
        return None
    ways = [_ways(source, chain, steps) for source, chain in zip(step.inputs, step.chains, strict=True)]
    base = next((name for name in ways[0] if all(name in way for way in ways)), None)
    part = None if base is None else _together([way[base] for way in ways])
    return None if base is None or part is None else (base, (part,))


def _ways(source: str, chain: Chain, steps: Mapping[str, Step]) -> dict[str, Chain]:
    """From which tensors, by which parts: from the input itself, and from what the input was cut out of."""
    found, before = {source: chain}, steps.get(source)
    if before is not None and len(before.inputs) == 1:
        found[before.inputs[0]] = (*before.chains[0], *chain)
    return found


def _together(chains: Sequence[Chain]) -> Spread | None:
    """One part that picks all that these pick, each for other places along one axis; null where they do something else."""
    whole: Spread | None = None
    for chain in chains:
        piece = _one(chain)
        if piece is None or not isinstance(piece.make, Picks):
            return None
        if whole is None:
            whole = piece
            continue
        assert isinstance(whole.make, Picks)
        a, b = whole.make.places, piece.make.places
        same = (whole.before, whole.length, whole.after, whole.made) == (piece.before, piece.length, piece.after, piece.made)
        if not same or np.any((a >= 0) & (b >= 0)):
            return None
        whole = Spread(whole.before, whole.length, whole.after, whole.made, Picks(np.maximum(a, b), whole.length))
    return whole


def _one(chain: Chain) -> Spread | None:
    """Picks along the same axis, one after another, as one; null for anything else."""
    found: Spread | None = None
    for part in chain:
        if not isinstance(part, Spread) or not isinstance(part.make, Picks):
            return None
        if found is None:
            found = part
            continue
        assert isinstance(found.make, Picks)
        if (found.before, found.made, found.after) != (part.before, part.length, part.after):
            return None
        first, then = found.make.places, part.make.places
        places = np.where(then >= 0, first[np.maximum(then, 0)], -1)
        found = Spread(found.before, found.length, found.after, part.made, Picks(places, found.length))
    return found
