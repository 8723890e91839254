"""Deciding radii takes far fewer samples than n = 100,000 for every example, and decides the same: on a published classifier's pA."""

from __future__ import annotations

import pytest

from tests.support.published_law import SIGMA, N, law, survey
from tests.support.votes import smoothing

# Half a point of certified accuracy, 2.5 of the 500 images.
POINTS = 0.005


@pytest.mark.parametrize("family", [1, 500])
@pytest.mark.parametrize(
    ("radii", "fewer"), [((0.25,), 25), ((0.5,), 25), ((0.75,), 25), ((1.0,), 25), ((0.25, 0.5, 0.75, 1.0), 8)], ids=str
)
def test_asked_radii_take_few_samples_and_cost_no_accuracy(radii: tuple[float, ...], fewer: float, family: int) -> None:
    asked = survey(smoothing(sigma=SIGMA, radii=radii), family=family, repeats=8, seed=1)
    fixed = survey(smoothing(sigma=SIGMA, sampling="fixed"), family=family, repeats=8, seed=2)
    assert asked.samples.mean() <= fixed.samples.mean() / fewer
    for radius in radii:
        assert asked.accuracy(radius) == pytest.approx(fixed.accuracy(radius), abs=POINTS)


@pytest.mark.parametrize("tolerance", [0.05, 0.2])
def test_the_largest_radius_stays_within_its_tolerance_on_average(tolerance: float) -> None:
    adaptive = survey(smoothing(sigma=SIGMA, tolerance=tolerance), repeats=4, seed=1)
    fixed = survey(smoothing(sigma=SIGMA, sampling="fixed"), repeats=4, seed=2)
    assert adaptive.samples.mean() <= 0.7 * fixed.samples.mean()
    assert adaptive.radius.mean() >= (1 - tolerance) * fixed.radius.mean()


def test_the_law_is_that_of_the_published_log() -> None:
    p, correct = law()
    assert (len(p), int(correct.sum()), int((p == 0.5).sum())) == (500, 326, 83)
    # Certified accuracy as published; at radius 0 it is that of fresh votes near pA = 1/2, which may fall either way.
    fixed = survey(smoothing(sigma=SIGMA, n=N, sampling="fixed", alpha=0.01, error_rate="per-example"), repeats=4)
    for radius, share in {0.25: 0.546, 0.5: 0.414, 0.75: 0.320, 1.0: 0.234}.items():
        assert fixed.accuracy(radius) == pytest.approx(share, abs=0.004)
