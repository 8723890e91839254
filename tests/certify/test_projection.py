"""The filter by shadows: it loses no pair that overlaps, whatever the inputs; one that stretches does."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

from certify import projection
from certify.memory import Memory
from certify.projection import DIRECTIONS, directions, shadows
from certify.regions import Shadow
from tests.support.regions import candidate, squared

Array = np.ndarray[Any, Any]
SHAPES = [(1,), (3,), (8,), (64,), (1, 8, 8), (3, 32, 32), (2, 3, 4, 5, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_directions_are_orthonormal(shape: tuple[int, ...]) -> None:
    rows = directions(shape)
    assert rows.shape == (min(DIRECTIONS, int(np.prod(shape))), int(np.prod(shape)))
    assert np.abs(rows @ rows.T - np.eye(len(rows))).max() < 1e-13


def test_directions_are_within_their_error_of_the_exact_ones() -> None:
    """Against 80-bit cosines, at the largest arguments there are."""
    for size in (9, 784, 150_528):
        rows, i = directions((size,)), np.arange(size, dtype=np.longdouble)
        pi = 4 * np.arctan(np.longdouble(1))
        for wave, row in enumerate(rows):
            exact = np.sqrt(np.longdouble(2 if wave else 1) / size) * np.cos(pi * wave * (2 * i + 1) / (2 * size))
            assert float(np.linalg.norm((row - exact).astype(np.float64))) < 1e-13


@pytest.mark.parametrize("shape", SHAPES)
def test_shadows_are_never_farther_apart_than_the_inputs(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    flat = np.ones(shape, "<f4")  # differences along a direction itself, where nothing is lost
    x = np.stack([*rng.normal(0, 1e3, (6, *shape)).astype("<f4"), 1e6 * flat, 1e6 * flat + 1, 0 * flat])
    for (a, one), (b, other) in combinations(zip(x, shadows(x), strict=True), 2):
        apart = np.linalg.norm(np.array(one.coordinates) - other.coordinates) - one.error - other.error
        exact = squared(a.tobytes(), b.tobytes())
        assert apart <= 0 or apart**2 <= exact * (1 + 1e-12)


def lost(stretch: float, monkeypatch: pytest.MonkeyPatch | None = None) -> int:
    """How many pairs of open balls that overlap, or just do not touch, a filter misses when its directions are stretched."""
    if monkeypatch:
        plain = shadows
        made = lambda x: [Shadow(coordinates=tuple(stretch * c for c in s.coordinates), error=s.error) for s in plain(x)]  # noqa: E731
        monkeypatch.setattr("tests.support.regions.shadows", made)
    rng, missed = np.random.default_rng(5), 0
    for size, far in product((1, 2, 12, 64), (0.01, 1.0)):
        points = (rng.normal(0, 1, (30, size)) + 50 * far).astype("<f4")
        memory = Memory()
        asked = [candidate(point, i, float(rng.uniform(0.01, far)), sigma=0.1 + i) for i, point in enumerate(points)]
        for one in asked:
            memory.add(one, 0)
        for one in asked:
            near = {region.number for region in memory.near(one)}
            for region in memory.regions:
                touching = float(squared(one.centre, region.centre)) < (one.radius + region.radius) ** 2
                missed += touching and region.number not in near
    return missed


def test_no_overlapping_pair_is_ever_filtered_out() -> None:
    assert lost(1.0) == 0


def test_a_filter_that_stretches_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lost(1.5, monkeypatch) > 10


def test_shadows_tell_most_balls_apart() -> None:
    """The filter filters: of small balls around images in unlike tones few are left."""
    rng = np.random.default_rng(2)
    tones = rng.uniform(0, 1, (200, 1, 1, 1)) * np.ones((1, 28, 28)) + rng.normal(0, 0.1, (200, 1, 28, 28))
    memory = Memory()
    asked = [candidate(x, 0, 0.3, example=i) for i, x in enumerate(tones.astype("<f4"))]
    for one in asked:
        memory.add(one, 0)
    assert sum(len(memory.near(one)) for one in asked) < 0.1 * len(asked) ** 2


def test_equal_shapes_share_their_directions() -> None:
    assert projection.directions((1, 8, 8)) is projection.directions((1, 8, 8))
