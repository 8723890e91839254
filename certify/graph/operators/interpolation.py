"""Interpolation weights of Resize along one axis: as float32 runtimes make them, and in real arithmetic with a bound of their error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from certify.graph.operators.base import Array, Loose, Node

_UNIT = 2.0**-53


@dataclass(frozen=True)
class Matrix:
    """Interpolation weights, (wanted, size).

    Args:
        deployed: float32, from places in float32.
        weights: float64, from exact places; the same as `deployed` where that is exact.
        sizes: each weight is within `Loose.UNITS` of it from real arithmetic; null where all are exact.
        unknown: why the weights in real arithmetic are not these.
    """

    deployed: Array
    weights: Array
    sizes: Array | None = None
    unknown: str = ""


def loose(found: Mapping[str, Matrix]) -> Loose:
    """What is known of the weights of all axes."""
    return Loose(
        deployed={dim: made.deployed for dim, made in found.items()},
        sizes={dim: made.sizes for dim, made in found.items() if made.sizes is not None},
        unknown=next((made.unknown for made in found.values() if made.unknown), ""),
    )


def matrix(node: Node, size: int, wanted: int, scale: Fraction) -> Matrix:
    """Interpolation weights as the ONNX standard defines them."""
    mode = node.attributes.get("mode", b"nearest").decode()
    old = node.opset < 11 or node.type == "Upsample"
    place = "asymmetric" if old else node.attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    x = _coordinates(node, place, size, wanted, scale)
    exact = _Places.of(place, size, wanted, scale)
    if mode == "nearest":
        how = "floor" if old else node.attributes.get("nearest_mode", b"round_prefer_floor").decode()
        return _nearest(node, x, exact, size, how)
    if mode in ("linear", "bilinear"):
        return _linear(x, exact, size)
    if mode == "cubic" and not node.attributes.get("exclude_outside", 0):
        return _cubic(x, exact, size, float(node.attributes.get("cubic_coeff_a", -0.75)))
    raise node.reject(f"with mode {mode[:20]!r} is not supported", "use nearest, bilinear or bicubic interpolation")


@dataclass(frozen=True)
class _Places:
    """Where each value of the result lies among the values it is made of: numerators / denominator, exactly."""

    numerators: list[int]
    denominator: int

    @classmethod
    def of(cls, place: str, size: int, wanted: int, scale: Fraction) -> _Places:
        p, q = scale.numerator, scale.denominator
        rows = range(wanted)
        if place == "align_corners":
            return cls([row * (size - 1) for row in rows], max(1, wanted - 1))
        if place == "asymmetric":
            return cls([row * q for row in rows], p)
        if place == "pytorch_half_pixel" and wanted == 1:
            return cls([0], 1)
        # (row + 1/2) / scale - 1/2, and for the symmetric one what centres it: size / 2 - wanted / (2 scale).
        centred = size * p - wanted * q if place == "half_pixel_symmetric" else 0
        return cls([(2 * row + 1) * q - p + centred for row in rows], 2 * p)

    def rounded(self, how: str) -> Array:
        """Of each the integer that `nearest_mode` takes."""
        d = self.denominator
        taken: dict[str, Callable[[int], int]] = {
            "round_prefer_floor": lambda n: -((d - 2 * n) // (2 * d)),
            "round_prefer_ceil": lambda n: (2 * n + d) // (2 * d),
            "floor": lambda n: n // d,
            "ceil": lambda n: -(-n // d),
        }
        return np.array([taken[how](n) for n in self.numerators], np.int64)

    def clipped(self, size: int) -> _Places:
        last = (size - 1) * self.denominator
        return _Places([min(max(n, 0), last) for n in self.numerators], self.denominator)

    def apart(self, from_: Array) -> tuple[Array, Array]:
        """Each place minus an integer, rounded once, and where that is exact."""
        rests = [n - int(low) * self.denominator for n, low in zip(self.numerators, from_, strict=True)]
        found = np.array([rest / self.denominator for rest in rests])
        exact = [Fraction(value) * self.denominator == rest for value, rest in zip(found.tolist(), rests, strict=True)]
        return found, np.array(exact, bool)


def _nearest(node: Node, x: Array, exact: _Places, size: int, how: str) -> Matrix:
    rounding: dict[str, Callable[[Array], Array]] = {
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if how not in rounding:
        raise node.reject(f"with nearest_mode {how[:30]!r} is not supported")
    taken = np.clip(rounding[how](x), 0, size - 1).astype(int)
    made = np.zeros((len(x), size), np.float32)
    made[np.arange(len(x)), taken] = 1.0
    same = np.array_equal(taken, np.clip(exact.rounded(how), 0, size - 1))
    return Matrix(made, made, unknown="" if same else "takes another neighbour in float32 than in real arithmetic")


def _linear(x: Array, exact: _Places, size: int) -> Matrix:
    x, exact = np.clip(x, 0, size - 1), exact.clipped(size)
    last = max(size - 2, 0)
    low = np.minimum(np.floor(x), last).astype(int)
    deployed = _between(size, low, x - low)
    low = np.minimum(exact.rounded("floor"), last)
    share, sure = exact.apart(low)
    sure &= (1 - (1 - share) == share) & (share + (1 - share) == 1)
    weights = _between(size, low, share)
    if np.all(sure):
        return Matrix(deployed.astype(np.float32), weights)
    # A share is rounded once, and so is one minus it.
    sizes = np.where(weights > 0, np.where(sure[:, None], weights, 1.0), 0.0)
    return Matrix(deployed.astype(np.float32), weights, sizes)


def _between(size: int, low: Array, share: Array) -> Array:
    made, rows = np.zeros((len(low), size)), np.arange(len(low))
    np.add.at(made, (rows, low), 1 - share)
    np.add.at(made, (rows, np.minimum(low + 1, size - 1)), share)
    return made


def _cubic(x: Array, exact: _Places, size: int, a: float) -> Matrix:
    """Keys' convolution kernel over four neighbours; those beyond the edge are the edge."""
    low = np.floor(x).astype(int)
    deployed = _around(size, low, lambda neighbour: _keys(np.abs(x - (low + neighbour)), a))
    floor = exact.rounded("floor")
    weights = _around(size, floor, lambda neighbour: _keys(np.abs(exact.apart(floor + neighbour)[0]), a))
    # A distance t <= 2 is rounded once, and the slope of the kernel is below 56 |a| + 36; its terms, below 64 |a| + 32 together, are
    # rounded 8 times at most, and 4 neighbours are added up.
    off = _UNIT * (2 * (56 * abs(a) + 36) + 12 * (64 * abs(a) + 32))
    sizes = _around(size, floor, lambda neighbour: np.full(len(x), off / Loose.UNITS))
    return Matrix(deployed.astype(np.float32), weights, sizes + np.abs(weights))


def _around(size: int, low: Array, weight: Callable[[int], Array]) -> Array:
    """Four neighbours of each place, with their weights."""
    made, rows = np.zeros((len(low), size)), np.arange(len(low))
    for neighbour in range(-1, 3):
        np.add.at(made, (rows, np.clip(low + neighbour, 0, size - 1)), weight(neighbour))
    return made


def _keys(t: Array, a: float) -> Array:
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, far)


def _coordinates(node: Node, place: str, size: int, wanted: int, scale: Fraction) -> Array:
    """Where each value of the result lies, in float32 as runtimes do it."""
    # A place that is an integer but for rounding falls on the same side.
    rows, factor, half = np.arange(wanted, dtype=np.float32), np.float32(float(scale)), np.float32(0.5)
    places: dict[str, Callable[[], Any]] = {
        "asymmetric": lambda: rows / factor,
        "align_corners": lambda: rows * np.float32(size - 1) / np.float32(max(1, wanted - 1)),
        "half_pixel": lambda: (rows + half) / factor - half,
        "pytorch_half_pixel": lambda: (rows + half) / factor - half if wanted > 1 else np.zeros(1, np.float32),
        "half_pixel_symmetric": lambda: size / 2 * (1 - wanted / (factor * size)) + (rows + half) / factor - half,
    }
    if place not in places:
        raise node.reject(f"with coordinate_transformation_mode {place[:30]!r} is not supported")
    found: Array = places[place]()
    return found
