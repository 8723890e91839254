"""Tanh and sigmoid under lines that hold on every interval: the slopes are auto-LiRPA's, the heights are ours.

auto-LiRPA puts chords and tangents through points that it looks up, and both its lines have intervals on which they cut the function: 0.3
cuts intervals off at 500 and uses the chord of what is left (wrong by 66 was seen), 0.7 takes intervals for at least 1e-8 wide (by 2.5e-9).
But any slope is sound with the right height: the least of f(x) - slope x for a line below, the largest for one above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Curve(NamedTuple):
    """An increasing function with f' = steepest / cosh(x / stretch)^2."""

    function: Callable[[Tensor], Tensor]
    steepest: float
    stretch: float

    def heights(
        self,
        slope: Tensor,  # (*any, *shape)
        low: Tensor,  # (*shape)
        high: Tensor,  # (*shape)
    ) -> Tensor:
        """f(x) - slope x at four places of [low, high], (4, *any, *shape); nowhere is it below their least or above their greatest.

        These are the ends and wherever f' is the slope. Rounding is not included; NaN where an end or the slope is not finite.
        """
        with torch.no_grad():
            # Not by atanh of the root of 1 - slope / steepest, which knows nothing of small slopes; below 1 no place has the slope.
            place = self.stretch * torch.acosh((self.steepest / slope).clamp(min=1).sqrt())
            low, high = low.expand_as(slope), high.expand_as(slope)
            places = torch.stack([low, high, torch.clamp(place, low, high), torch.clamp(-place, low, high)])
        return self.function(places) - slope * places


CURVES = {"Tanh": Curve(torch.tanh, 1.0, 1.0), "Sigmoid": Curve(torch.sigmoid, 0.25, 2.0)}


def repaired(base: Any, curve: Curve) -> Any:
    """auto-LiRPA's class of node for the curve, with our heights."""

    class Repaired(base):  # type: ignore[misc]
        def bound_relax(self, x: Any, *given: Any, **options: Any) -> None:
            super().bound_relax(x, *given, **options)
            self.lb = curve.heights(self.lw, x.lower, x.upper).amin(0)
            self.ub = curve.heights(self.uw, x.lower, x.upper).amax(0)

    # Nodes are known by the name of their class.
    Repaired.__name__ = Repaired.__qualname__ = base.__name__
    return Repaired
