"""Upper bounds of the largest singular value. Never power iteration, which bounds from below."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from certify.lipschitz.constant import NoConstant, Work, finite, gamma

Array = np.ndarray[Any, Any]

# Relative, for the backward error of LAPACK: a moderate multiple of the dimension times 1e-16, and dimensions stay below 1025.
SLACK = 1e-9
EXACT_SIDE = 1024
_SQUARINGS = 9


def matrix_norm(
    a: Array,  # (rows, columns)
    work: Work | None = None,
) -> float:
    """At least the largest singular value, rounding included.

    Up to 1024 on the smaller side it is the largest singular value but for 1e-9; then Gram iteration, at most a percent above; where
    `work` does not suffice for that, the square root of the largest row sum times the largest column sum of magnitudes.

    Raises:
        NoConstant: an entry is not finite.
    """
    work = work or Work(math.inf)
    a = np.ascontiguousarray(a, np.float64)
    if a.size == 0:
        return 0.0
    largest = finite(float(np.abs(a).max()))
    if largest == 0.0:
        return 0.0
    # A power of two, so that nothing is rounded: squares neither overflow nor vanish.
    scale = 2.0 ** math.frexp(largest)[1]
    return finite(scale * _norm(a / scale, work))


def _norm(a: Array, work: Work) -> float:
    side, length = min(a.shape), max(a.shape)
    if side == 1:
        return math.sqrt(float(np.sum(a * a))) * (1 + 4 * gamma(length))
    cost = 2.0 * side * side * length + 20.0 * side**3
    if side <= EXACT_SIDE and work.affords(cost):
        work.spend(cost)
        if length <= 2 * EXACT_SIDE:
            return float(np.linalg.svd(a, compute_uv=False)[0]) * (1 + SLACK)
        return _by_eigenvalues(a)
    cost = 2.0 * side * side * length + _SQUARINGS * 2.0 * side**3
    if work.affords(cost):
        work.spend(cost)
        return float(gram_norm(a, _SQUARINGS))
    # The Frobenius norm is another bound that costs nothing.
    return min(magnitude_norm(a), math.sqrt(float(np.sum(a * a))) * (1 + 4 * gamma(a.size)))


def magnitude_norm(a: Array) -> float:
    """At least the norm of the matrix of magnitudes |a|: the square root of its largest row sum times its largest column sum."""
    size = np.abs(a)
    rows, columns = size.sum(axis=-1).max(initial=0.0), size.sum(axis=-2).max(initial=0.0)
    return finite(math.sqrt(float(rows)) * math.sqrt(float(columns)) * (1 + 4 * gamma(max(a.shape))))


def _by_eigenvalues(a: Array) -> float:
    gram, error = _gram(a)
    return math.sqrt(float(np.linalg.eigvalsh(gram)[-1]) * (1 + SLACK) + float(error)) * (1 + SLACK)


def _gram(a: Array) -> tuple[Array, Array]:
    """a a^H or a^H a, whichever is smaller, and by how much each is off at most in the Frobenius norm; (..., side, side) and (...)."""
    wide = a.shape[-2] <= a.shape[-1]
    b = a if wide else np.swapaxes(a, -1, -2)  # a transpose without conjugation has the same singular values
    gram = b @ np.swapaxes(b.conj(), -1, -2)
    length = b.shape[-1] * (4 if np.iscomplexobj(b) else 1) + 8
    error: Array = gamma(length) * np.square(np.abs(b)).sum(axis=(-1, -2))
    return gram, error


def gram_norm(
    a: Array,  # (..., rows, columns), real or complex
    squarings: int = _SQUARINGS,
) -> Array:
    """At least the largest singular value of each matrix, (...): Gram iteration with the rounding of each product carried along.

    With G the Gram matrix, the norm to the power 2^(t+1) is at most the Frobenius norm of G^(2^t), after any number t of squarings. If
    the computed G is off by d, its square is off by 2 d |G| + d^2 + gamma_n |G|^2, all in the Frobenius norm.

    Raises:
        NoConstant: an entry is not finite.

    Source: Delattre, Barthelemy, Araujo, Allauzen 2023, theorem 1.
    """
    gram, error = _gram(np.asarray(a))
    side = gram.shape[-1]
    product = gamma(side * (4 if np.iscomplexobj(gram) else 1) + 8)
    exponent = np.zeros(gram.shape[:-2])  # log2 of what was divided out, to the power that belongs to the start
    size = _frobenius(gram)
    for step in range(squarings):
        # A power of two, so that dividing by it rounds nothing.
        scale = np.exp2(np.ceil(np.log2(np.maximum(size, 1e-300))))
        gram, error, size = gram / scale[..., None, None], error / scale, size / scale
        exponent += np.log2(scale) / 2.0**step
        gram, error = gram @ gram, 2 * error * size + error**2 + product * size**2
        size = _frobenius(gram)
    total = (size + error) * (1 + 1e-12)
    found: Array = np.exp2((exponent + np.log2(np.maximum(total, 1e-300)) / 2.0**squarings) / 2) * (1 + SLACK)
    if not np.all(np.isfinite(found)):
        raise NoConstant("", "its norm is beyond float64: check the weights")
    return found


def _frobenius(a: Array) -> Array:
    found: Array = np.sqrt(np.square(np.abs(a)).sum(axis=(-1, -2))) * (1 + 4 * gamma(a.shape[-1] * a.shape[-2]))
    return found


def eigenvalue_cost(side: int, length: int) -> float:
    """Of one complex matrix: its Gram matrix, and eigenvalues, which take as long as 20 products of numbers for each entry and row."""
    return 8.0 * side * side * length + 20.0 * side**3


def largest_norm(
    stack: Array,  # (count, rows, columns), real or complex
    floor: float = 0.0,
    work: Work | None = None,
) -> float:
    """At least the largest of `floor` and the norms of all matrices, whose smaller side is at most 1024.

    Two squarings bound each norm from above; only where that bound exceeds what was found already, eigenvalues are computed, and
    only these are spent from `work`.
    """
    side, length = min(stack.shape[-2:]), max(stack.shape[-2:])
    if side == 1:
        return max(floor, float(_frobenius(stack).max(initial=0.0)))
    upper = gram_norm(stack, 2)
    best = floor
    order = np.argsort(-upper)
    for start in range(0, len(order), 8):
        chosen = [i for i in order[start : start + 8] if upper[i] > best]
        if not chosen:
            break
        gram, error = _gram(stack[chosen])
        if work is not None:
            work.spend(len(chosen) * eigenvalue_cost(side, length))
        squares = np.linalg.eigvalsh(gram)[:, -1] * (1 + SLACK) + error
        best = max(best, math.sqrt(max(0.0, float(squares.max()))) * (1 + SLACK))
    return finite(best)
