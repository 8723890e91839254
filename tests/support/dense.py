"""Linear maps as dense matrices, made of their definitions, to hold norms against."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch

from certify.lipschitz.kernel import Kernel
from certify.lipschitz.parts import Filtered, Part

Array = np.ndarray[Any, Any]


def largest(matrix: Array) -> float:
    """The largest singular value, as LAPACK finds it."""
    return float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0


def matrix_of(part: Part, length: int) -> Array:
    """Column by column what the part makes of unit vectors."""
    made: Array = part.apply(torch.eye(length, dtype=torch.float64)).reshape(length, -1).numpy().T
    return made


def kernel_matrix(kernel: Kernel) -> Array:
    """Entry by entry from the definition of a kernel."""
    groups, out, into, count = kernel.taps.shape
    matrix = np.zeros((math.prod(kernel.target), math.prod(kernel.source)))
    positions = list(itertools.product(*(range(made) for made in kernel.made)))
    for (row, position), tap in itertools.product(enumerate(positions), range(count)):
        place, outside = [], False
        for axis, size in enumerate(kernel.sizes):
            at = kernel.strides[axis] * position[axis] + int(kernel.offsets[tap, axis])
            outside = outside or (not kernel.wraps[axis] and not 0 <= at < size)
            place.append(at % size)
        if outside:
            continue
        column = int(np.ravel_multi_index(place, kernel.sizes)) if place else 0
        for g, o, i in itertools.product(range(groups), range(out), range(into)):
            target, source = (g * out + o) * len(positions) + row, (g * into + i) * math.prod(kernel.sizes) + column
            matrix[target, source] += kernel.taps[g, o, i, tap]
    return matrix


def random_filter(rng: np.random.Generator, *, positive: bool = False, plain: bool = False) -> Filtered | None:
    """A small convolution of any geometry; null when its window does not fit. `plain`: one channel, no strides, dilations, groups."""
    axes = int(rng.integers(1, 4))

    def draw(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(v) for v in rng.integers(low, high, size=axes))

    sizes, lengths = draw(1, {1: 12, 2: 7, 3: 4}[axes]), draw(1, 4)
    strides, dilations = ((1,) * axes,) * 2 if plain else (draw(1, 4), draw(1, 3))
    begins, ends = draw(0, 4), draw(0, 4)
    groups, into, out = (1, 1, 1) if plain else (int(v) for v in rng.integers(1, 3, size=3))
    made = tuple(
        (n + b + e - (k - 1) * d - 1) // s + 1 for n, b, e, k, s, d in zip(sizes, begins, ends, lengths, strides, dilations, strict=True)
    )
    if min(made) < 1:
        return None
    weight = rng.normal(size=(groups * out, into, *lengths))
    return Filtered(np.abs(weight) if positive else weight, sizes, made, strides, dilations, begins, ends, groups)
