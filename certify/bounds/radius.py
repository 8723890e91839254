"""The largest radius that a verifier proves, in few calls. Only radii at which the full verification succeeded are ever returned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from certify.bounds.engine import MarginBound
from certify.bounds.scout import Probe

_PROBES = 40
# Below this share of the cap the search gives up: such a radius would be of no use and rounding would dominate it.
_SMALLEST = 1e-9
# The first step, as a share of the distance at which the linearised network errs.
_FIRST = 0.75
_HALVINGS = 40
# How far beyond its probe a line may end, in units of the root, for the two sides to be joined by a straight line.
_TELLING = 8.0


@dataclass(frozen=True)
class Found:
    """The largest verified radius, the bound that proved it, and whether it is the cap of the search."""

    radius: float
    bound: MarginBound
    at_cap: bool


def largest_radius(
    probe: Callable[[float], Probe], verify: Callable[[float], MarginBound], cap: float, tolerance: float, least: float = 0.0
) -> Found | None:
    """The largest radius in (least, cap] that `verify` proves, to about a relative `tolerance`; null when none was proved.

    Whatever is returned was itself verified, in full and beyond rounding; neither `probe` nor `verify` need be monotone.

    Args:
        probe: cheap margins, which say where to look.
        verify: the margin bound at a radius.
        cap: the largest radius asked for.
        tolerance: stop when the bracket is narrower than this share of the radius.
        least: a radius already proved; only more than a tolerance beyond it is tried.
    """
    radius, step = propose(probe, cap, tolerance, least), tolerance / 4
    while radius > max(least * (1 + tolerance), cap * _SMALLEST):
        bound = verify(radius)
        if bound.proved:
            return Found(radius, bound, radius == cap)
        radius, step = radius * (1 - step), min(0.75, 2 * step)
    return None


def propose(probe: Callable[[float], Probe], cap: float, tolerance: float, least: float = 0.0) -> float:
    """The largest radius that a verifier is likely to prove, by probes; 0 when there seems to be none."""
    curve = _Curve(max(least, cap * _SMALLEST), cap, tolerance)
    for _ in range(_PROBES):
        radius = curve.next()
        if radius is None:
            break
        curve.add(radius, probe(radius))
    return curve.low


class _Curve:
    """What probes told of the margin, a function of the radius that falls; its root is likely between `low` and `high`.

    Two estimates of the root: of the polynomial through the nearest margins, and of reach - radius, which falls almost straight
    through zero at the same place and is the better one once it is known on both sides.
    """

    def __init__(self, start: float, cap: float, tolerance: float) -> None:
        self._start, self._cap, self._tolerance = start, cap, tolerance
        self._probes: list[tuple[float, Probe]] = []
        self._stalled = 0
        self.low, self.high = 0.0, math.inf

    def add(self, radius: float, probe: Probe) -> None:
        before = self._width
        if probe.margin > 0:
            self.low = max(self.low, radius)
            self.high = min(self.high, max(probe.reach, radius)) if math.isfinite(probe.reach) else self.high
        else:
            # Lines that cross zero inside their own ball: a verifier comes to nearly the same place.
            inside = min(probe.reach, radius) * (1 - self._tolerance / 8)
            self.low, self.high = (inside if inside > self.low else self.low), min(self.high, radius)
        if math.isfinite(probe.margin):
            self._probes.append((radius, probe))
        crossing = self._crossing()
        if crossing is not None and self.low < crossing < self.high:
            self.low = crossing
            self.high = min(self.high, crossing * (1 + self._tolerance / 2))
        self.low = min(self.low, self._cap)
        self._stalled = 0 if self._width < before / 2 else self._stalled + 1

    @property
    def _width(self) -> float:
        return min(self.high, self._cap) / self.low - 1 if self.low > 0 else math.inf

    def next(self) -> float | None:
        """Where to look next; null when the bracket is narrow or nothing can be found."""
        if not self._probes:
            return self._start if math.isinf(self.high) else None
        upper = min(self.high, self._cap)
        if not self.low > 0 or self._width <= self._tolerance:
            return None
        if self._stalled > 2:
            self._stalled = 0
            return math.sqrt(self.low * upper)
        root, (ahead, behind) = self._root(upper), self._sides()
        # On the side from which less is known: an estimate between two probes is good.
        inside = bool(behind) and (not ahead or root - max(ahead)[0] > min(behind)[0] - root)
        guess = root * (1 - self._tolerance / 2 if inside else 1 + self._tolerance / 2)
        return min(max(guess, self.low * (1 + self._tolerance / 4)), upper)

    def _sides(self) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """Radius and reach of the probes whose lines end beyond their ball, and inside it."""
        ends = [(radius, probe.reach) for radius, probe in self._probes if 0 < probe.reach < math.inf]
        return [end for end in ends if end[0] < end[1]], [end for end in ends if end[0] > end[1]]

    def _crossing(self) -> float | None:
        """Where reach - radius falls through zero, a little inside, when two probes that say so are near enough."""
        ahead, behind = self._sides()
        if not ahead or not behind:
            return None
        (a, from_a), (b, from_b) = max(ahead), min(behind)
        root = a + (b - a) * (from_a - a) / ((from_a - a) + (b - from_b))
        near = abs(root - a) * abs(b - root) / root**2 <= self._tolerance / 2
        # Lines that end far away say nothing of the place: the root would seem to be wherever the other probe was.
        telling = from_a - a <= _TELLING * root
        return root * (1 - self._tolerance / 4) if near and telling else None

    def _root(self, upper: float) -> float:
        """Where the polynomial through the nearest margins crosses zero; the middle of the bracket where it does not."""
        (first, start), *others = self._probes
        if not others:
            return first + _FIRST * (start.reach - first) if math.isfinite(start.reach) else self._cap
        nodes = sorted(((radius, probe.margin) for radius, probe in self._probes), key=lambda node: abs(node[1]))[:3]
        slope = -start.margin / (start.reach - first) if len(nodes) == 2 and first < start.reach < math.inf else None
        curve = _through(nodes) if slope is None else _tangent((first, start.margin), slope, (others[0][0], others[0][1].margin))
        if curve(upper) > 0:
            return upper
        low, high = self.low, upper
        if curve(low) <= 0:
            return math.sqrt(low * high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if curve(middle) > 0 else (low, middle)
        return low


def _through(nodes: list[tuple[float, float]]) -> Callable[[float], float]:
    """The polynomial through two or three points (Lagrange)."""

    def value(r: float) -> float:
        return sum(y * math.prod((r - other) / (x - other) for other, _ in nodes if other != x) for x, y in nodes)

    return value


def _tangent(first: tuple[float, float], slope: float, second: tuple[float, float]) -> Callable[[float], float]:
    """The parabola through two points, with a slope at the first."""
    at, width = first[0], second[0] - first[0]
    bend = (second[1] - first[1] - slope * width) / width**2
    return lambda r: first[1] + (r - at) * (slope + bend * (r - at))
