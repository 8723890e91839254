"""An engine that says which method found no memory, and leaves no matrices behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from certify.bounds.engine import BoundsEngine, MarginBound
from certify.bounds.ladder import Scouting
from certify.bounds.scout import Probe
from certify.heap import collect, out_of_memory

T = TypeVar("T")


class OutOfMemory(Exception):
    """There was no memory for what a method needs; `method` is empty where it was needed for something else."""

    def __init__(self, method: str = "") -> None:
        super().__init__(method)
        self.method = method


def frugally(method: str, compute: Callable[[], T]) -> T:
    """What `compute` gives.

    Raises:
        OutOfMemory: it found no memory. What it had made is free by then.
    """
    try:
        return compute()
    except Exception as error:
        if not out_of_memory(error):
            raise
    finally:
        # An engine that has optimised is a circle of references, which holds every matrix of every walk.
        if method == "alpha-crown":
            collect()
    # Not inside the handler, where the error still holds what its frames have made.
    raise OutOfMemory(method)


class Frugal:
    """An engine and its scout as they are, but for `OutOfMemory` from each of their calls.

    Args:
        engine: proves margins.
        scout: says where to look.
    """

    def __init__(self, engine: BoundsEngine, scout: Scouting) -> None:
        self._engine, self._scout, self.version = engine, scout, engine.version

    def begin(self) -> None:
        self._scout.begin()

    def margin(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        radius: float,
        method: str,
    ) -> MarginBound:
        return frugally(method, lambda: self._engine.margin(x, label, radius, method))

    def probe(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        radius: float,
        method: str,
    ) -> Probe:
        return frugally(method, lambda: self._scout.probe(x, label, radius, method))
