"""From cheap methods to tight ones: each radius is tried with the next method only while it is undecided."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

from torch import Tensor

from certify.bounds.engine import BoundsEngine, MarginBound
from certify.bounds.radius import Found, largest_radius
from certify.bounds.scout import Probe
from certify.errors import Cancelled, NumericalError

# alpha-CROWN starts from CROWN and may only gain on it; its bound counts beside CROWN's own.
LADDERS = {
    "ibp": ("ibp",),
    "crown-ibp": ("crown-ibp",),
    "crown": ("crown",),
    "alpha-crown": ("crown", "alpha-crown"),
    "best": ("ibp", "crown-ibp", "crown", "alpha-crown"),
}


class Scouting(Protocol):
    """Says cheaply where a radius may be found, for one example at a time; see `certify.bounds.scout`."""

    def begin(self) -> None: ...

    def probe(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        radius: float,
        method: str,
    ) -> Probe: ...


class OutOfTime(Exception):
    """The wall-clock limit of one example has passed."""


class Ladder:
    """Proves a margin at a radius by the cheapest of its methods that can; every answer is the full verification by one of them.

    For one example at a time. A method that failed at a radius is not tried again at a larger one: that costs power where bounds are
    not monotone, never soundness.

    Args:
        engine: proves margins.
        scout: says where to look for the largest radius.
        methods: cheapest first.
        should_stop: polled before every bound; True raises `Cancelled`.
        is_late: polled likewise; True raises `OutOfTime`.
    """

    def __init__(
        self,
        engine: BoundsEngine,
        scout: Scouting,
        methods: tuple[str, ...],
        should_stop: Callable[[], bool] = lambda: False,
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine, self._scout, self._methods = engine, scout, methods
        self._should_stop, self._is_late = should_stop, is_late
        self._failed: dict[str, float] = {}

    def begin(self) -> None:
        """Forget what was learnt about the last example."""
        self._failed.clear()
        self._scout.begin()

    def margin(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        radius: float,
    ) -> MarginBound:
        """The first bound that proves the radius, or the best of those that do not.

        Raises:
            NumericalError: no method could answer; the last one's fault.
        """
        best: MarginBound | None = None
        fault: NumericalError | None = None
        for method in self._methods:
            last = method == self._methods[-1]
            if not last and radius >= self._failed.get(method, math.inf):
                best = best or MarginBound(math.nan, 0.0, method)
                continue
            try:
                bound = self._bound(x, label, radius, method)
            except NumericalError as error:
                fault = error
                continue
            if bound.proved:
                return bound
            self._failed[method] = min(radius, self._failed.get(method, math.inf))
            if best is None or math.isnan(best.lower) or bound.lower > best.lower:
                best = bound
        if best is None:
            assert fault is not None
            raise fault
        return best

    def largest(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        cap: float,
        tolerance: float,
    ) -> Found | None:
        """The largest radius up to `cap` that a method proves; each looks only beyond where the cheaper one before it ended.

        Raises:
            NumericalError: no method could answer; the last one's fault.
        """
        best: Found | None = None
        faults: list[NumericalError] = []
        for method in self._methods:
            probe, verify = partial(self._probe, x, label, method=method), partial(self._bound, x, label, method=method)
            try:
                found = largest_radius(probe, verify, cap, tolerance, best.radius if best else 0.0)
            except NumericalError as error:
                faults.append(error)
                continue
            best = found or best
            if best and best.at_cap:
                break
        if len(faults) == len(self._methods):
            raise faults[-1]
        return best

    def _probe(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        radius: float,
        method: str,
    ) -> Probe:
        self._poll()
        found = self._scout.probe(x, label, radius, method)
        if not math.isnan(found.margin):
            return found
        bound = self._bound(x, label, radius, method)  # where the scout fails, the engine may not
        return Probe(bound.lower - bound.tau)

    def _bound(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        radius: float,
        method: str,
    ) -> MarginBound:
        self._poll()
        return self._engine.margin(x, label, radius, method)

    def _poll(self) -> None:
        if self._should_stop():
            raise Cancelled
        if self._is_late():
            raise OutOfTime
