"""Norms of matrices: never below the largest singular value, and close to it."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from certify.lipschitz import spectral
from certify.lipschitz.constant import NoConstant, Work
from certify.lipschitz.spectral import gram_norm, largest_norm, magnitude_norm, matrix_norm
from tests.support.dense import Array, largest

RNG = np.random.default_rng(3)

MATRICES: dict[str, Array] = {
    "small": RNG.normal(size=(5, 7)),
    "tall": RNG.normal(size=(300, 20)),
    "long, by eigenvalues": RNG.normal(size=(3000, 30)),
    "a row": RNG.normal(size=(1, 50)),
    "orthogonal": np.linalg.qr(RNG.normal(size=(64, 64)))[0],
    "of rank one": np.outer(RNG.normal(size=40), RNG.normal(size=50)),
    "badly conditioned": 1.0 / (np.arange(60)[:, None] + np.arange(60) + 1.0),
    "huge": RNG.normal(size=(20, 30)) * 1e150,
    "tiny": RNG.normal(size=(20, 30)) * 1e-160,
    "graded": np.diag(10.0 ** -np.arange(0, 30)) @ RNG.normal(size=(30, 30)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_norm_is_never_below_and_hardly_above(name: str) -> None:
    matrix = MATRICES[name]
    assert largest(matrix) * (1 - 1e-14) <= matrix_norm(matrix) <= largest(matrix) * (1 + 1e-8)
    assert largest(matrix) <= magnitude_norm(matrix) * (1 + 1e-12)


def test_no_digit_is_missing() -> None:
    """Against forty digits: what LAPACK finds is below the truth in about half of the cases, the bound in none."""
    below = 0
    for seed in range(30):
        matrix = np.random.default_rng(seed).normal(size=(4, 5))
        with mpmath.workdps(40):
            exact = max(mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False))
            below += largest(matrix) < exact
            stack = matrix[None].astype(np.complex128)
            assert exact <= min(matrix_norm(matrix), float(gram_norm(matrix)), largest_norm(stack), magnitude_norm(matrix))
            assert exact <= spectral._by_eigenvalues(matrix)
    assert below > 3


@pytest.mark.parametrize("name", [name for name in MATRICES if name not in ("huge", "tiny")])
@pytest.mark.parametrize("squarings", [0, 1, 4, 9])
def test_every_gram_iterate_is_an_upper_bound(name: str, squarings: int) -> None:
    matrix = MATRICES[name]
    rank = min(matrix.shape)
    found = float(gram_norm(matrix, squarings))
    assert largest(matrix) * (1 - 1e-14) <= found <= largest(matrix) * rank ** (2.0 ** -(squarings + 2)) * (1 + 1e-4)
    assert largest(1j * matrix) * (1 - 1e-14) <= float(gram_norm(1j * matrix, squarings))


def test_beyond_1024_gram_iteration_is_an_upper_bound_and_without_work_sums_are() -> None:
    matrix = np.random.default_rng(0).normal(size=(1030, 1040))
    truth = largest(matrix)
    assert truth <= matrix_norm(matrix) <= 1.01 * truth
    assert matrix_norm(matrix, Work(1e6)) == pytest.approx(min(magnitude_norm(matrix), float(np.linalg.norm(matrix))), rel=1e-9)
    assert matrix_norm(matrix, Work(1e6)) >= truth


def test_the_largest_of_many_is_found() -> None:
    stack = RNG.normal(size=(50, 6, 9)) + 1j * RNG.normal(size=(50, 6, 9))
    truth = max(largest(matrix) for matrix in stack)
    assert truth <= largest_norm(stack) <= truth * (1 + 1e-8)
    assert largest_norm(stack, floor=100.0) == 100.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_norm(bad: float) -> None:
    matrix = np.ones((3, 3))
    matrix[1, 1] = bad
    with pytest.raises(NoConstant):
        matrix_norm(matrix)


def test_power_iteration_would_fail_here() -> None:
    """The negative control: an estimate from below fails the assertion that every norm above passes."""
    below = 0
    for name in ("small", "tall", "long, by eigenvalues", "graded", "badly conditioned"):
        matrix = MATRICES[name]
        v = np.ones(matrix.shape[1])
        for _ in range(5):
            v = matrix.T @ (matrix @ (v / np.linalg.norm(v)))
        v /= np.linalg.norm(v)
        below += float(np.linalg.norm(matrix @ v)) < largest(matrix) * (1 - 1e-14)
    assert below >= 3


def test_what_is_left_to_spend_goes_down() -> None:
    work = Work(1e9)
    matrix_norm(RNG.normal(size=(50, 50)), work)
    assert 0 < 1e9 - work.left < 1e7
