"""A few fixed orthonormal directions, by which most balls that cannot overlap are told apart without looking at their centres.

The directions are the smoothest cosines over the axes of an input (DCT-II): images differ most in those. They are exact mathematics, with
no seed and no factorisation whose signs could differ between machines, so shadows that one machine stored serve every other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from certify.regions import Shadow

DIRECTIONS = 8
Array = np.ndarray[Any, Any]
# A computed direction is within 1e-12 of the exact one: arguments below 8 pi are off by 2e-14, and three cosines are multiplied at most.
_DIRECTION_ERROR = 1e-11
_AXES = 3


def shadows(
    x: Array,  # (N, *input), float32
) -> list[Shadow]:
    """What each input looks like in the fixed directions.

    Their distances are at most those of the inputs, up to the errors given. Inputs of fewer than 8 elements have as many directions as
    elements; the other coordinates are 0.

    Args:
        x: finite inputs of one shape.
    """
    rows = directions(tuple(x.shape[1:]))
    flat = x.reshape(len(x), -1).astype(np.float64)
    seen = np.zeros((len(x), DIRECTIONS))
    seen[:, : len(rows)] = flat @ rows.T
    # Sums of n products in any order are off by n * 2^-53 of the product of the norms; eight of them, doubled.
    share = _DIRECTION_ERROR + flat.shape[1] * 2.0**-50
    errors = np.linalg.norm(flat, axis=1) * share * (1 + 1e-6)
    return [Shadow(coordinates=tuple(c), error=e) for c, e in zip(seen.tolist(), errors.tolist(), strict=True)]


@lru_cache(maxsize=8)
def directions(shape: tuple[int, ...]) -> Array:
    """The directions for inputs of that shape, (at most 8, elements), float64: orthonormal up to rounding, smoothest first."""
    sizes = _few(shape)
    waves = sorted(product(*(range(min(size, DIRECTIONS)) for size in sizes)), key=lambda wave: (sum(wave), wave))
    made = [_outer([_cosine(size, m) for size, m in zip(sizes, wave, strict=True)]) for wave in waves[:DIRECTIONS]]
    return np.array(made)


def _few(shape: Sequence[int]) -> list[int]:
    """Axes of more than one element, the first ones merged until three are left."""
    sizes = [size for size in shape if size > 1] or [1]
    return sizes if len(sizes) <= _AXES else [math.prod(sizes[: 1 - _AXES]), *sizes[1 - _AXES :]]


def _cosine(size: int, wave: int) -> Array:
    if wave == 0:
        return np.full(size, math.sqrt(1.0 / size))
    made: Array = math.sqrt(2.0 / size) * np.cos(np.pi * wave * (2.0 * np.arange(size) + 1.0) / (2.0 * size))
    return made


def _outer(parts: Sequence[Array]) -> Array:
    made = np.ones(1)
    for part in parts:
        made = np.multiply.outer(made, part).reshape(-1)
    return made
