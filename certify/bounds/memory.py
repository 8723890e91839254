"""What a method of bound propagation will need, estimated before it starts, so that it can be left out instead of killed."""

from __future__ import annotations

from functools import cached_property

from certify.bounds.footprint import Footprint, footprint
from certify.graph.graph import Graph

_NUMBER = 8  # float64
# The process with torch, Ray and onnxruntime loaded, and a little of everything else: 0.35 to 0.40 GiB were seen.
_BASE = 2**29
# Copies of a weight as uploaded (file, array, two in float32, one in float64, onnxruntime's), and in the form that is bounded (array,
# module, the engine's, its magnitudes, the scout's two, one while copying); optimising has an engine of its own.
_UPLOADED, _BOUNDED, _BOUNDED_AGAIN = 32, 52, 24
# Intervals, values and rounding errors of all tensors; what the scout keeps of up to 40 balls.
_ENDS, _BALLS = 64, 320
# With gradients: slopes, and for each the best and the gradient and two moments of the optimiser, in float32 on either side; the slope in
# float64 and what it was clamped from. Other functions than ReLU have four times as many, and lines through all of them.
_BENT, _CURVED = 72, 1200
# Matrices of less than a megabyte leave gaps.
_GAPS = 1.15

_CHEAP = ("crown-ibp", "ibp")


def needed(found: Footprint, method: str) -> int:
    """Bytes that a worker needs at most for a network by a method, for one example; an engineering estimate, not a bound.

    IBP holds intervals; CROWN-IBP walks back from the logits only, CROWN from every tensor that is relaxed; alpha-CROWN has gradients, and
    so keeps every matrix of every walk.

    Args:
        found: of the network.
        method: one of `certify.bounds.engine.METHODS`.
    """
    held = _UPLOADED * found.parameters + _BOUNDED * found.weights + _ENDS * found.values
    most = 0 if method == "ibp" else found.output
    if method in ("crown", "alpha-crown"):
        held += _BALLS * found.values
        most = max(most, found.walk)
    if method == "alpha-crown":
        held += _BOUNDED_AGAIN * found.weights + _BENT * found.bent + _CURVED * found.curved
        most += found.kept
    return _BASE + round(_GAPS * (held + _NUMBER * most))


class Allowance:
    """Which of the methods that were asked for may be used on a network.

    Args:
        graph: the network.
        asked: methods, cheapest first.
        limit: bytes that a worker has.
    """

    def __init__(self, graph: Graph, asked: tuple[str, ...], limit: int) -> None:
        self._graph, self._asked, self._limit = graph, asked, limit
        self._failed: list[str] = []

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that fit; if none does, the tightest cheaper one that does; none when not even IBP does."""
        fitting = tuple(filter(self._fits, self._asked))
        cheaper = _CHEAP[1:] if "crown-ibp" in self._asked else _CHEAP
        return fitting or tuple(filter(self._fits, cheaper))[:1]

    def give_up(self, method: str = "") -> None:
        """A method, or the tightest that is left, has run out of memory, whatever was estimated."""
        self._failed.append(method or self.methods[-1])

    @property
    def left_out(self) -> str:
        """A sentence about the methods that may not be used; empty when all may."""
        large = [method for method in self._asked if not self._affordable(method)]
        reasons = []
        if large:
            need, limit = self.needed(large[0]) / 2**30, self._limit / 2**30
            reasons.append(f"{' and '.join(large)} would need about {need:.1f} GiB, and a worker has {limit:.3g} GiB")
        if self._failed:
            reasons.append(f"{' and '.join(self._failed)} ran out of memory")
        used = f"{self.methods[-1]} was used" if self.methods else "nothing was proved"
        return f"{', and '.join(reasons)}, so {used}." if reasons else ""

    def needed(self, method: str) -> int:
        """See `needed`."""
        return needed(self._footprint, method)

    @cached_property
    def _footprint(self) -> Footprint:
        return footprint(self._graph)

    def _affordable(self, method: str) -> bool:
        return self.needed(method) <= self._limit

    def _fits(self, method: str) -> bool:
        return method not in self._failed and self._affordable(method)
