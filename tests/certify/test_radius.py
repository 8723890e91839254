"""The search for the largest radius: only what was verified is returned, it is near the best, and few calls are needed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from certify.bounds.engine import MarginBound
from certify.bounds.radius import Found, largest_radius
from certify.bounds.scout import Probe

Margin = Callable[[float], float]


class Verifier:
    """A margin as a function of the radius, counted."""

    def __init__(self, margin: Margin, reach: Margin | None = None) -> None:
        self.margin, self.reach = margin, reach
        self.verified: list[float] = []
        self.probed: list[float] = []

    def verify(self, radius: float) -> MarginBound:
        self.verified.append(radius)
        return MarginBound(self.margin(radius), 1e-12, "crown")

    def probe(self, radius: float) -> Probe:
        self.probed.append(radius)
        return Probe(self.margin(radius), self.reach(radius) if self.reach else math.nan)

    def search(self, cap: float, tolerance: float, least: float = 0.0) -> Found | None:
        return largest_radius(self.probe, self.verify, cap, tolerance, least)


def crown_like(root: float, bend: float) -> tuple[Margin, Margin]:
    """A margin that falls the faster the larger the ball, as unstable neurons grow; its lines, frozen, are straight."""

    def margin(r: float) -> float:
        return 1.0 - (1 - bend) * (r / root) - bend * (r / root) ** 2

    def reach(r: float) -> float:
        # At r the lines fall by this much for each unit of radius: the total fall less what the relaxation itself lost.
        steepness = (1 - bend) / root + bend * r / root**2 * 0.5
        return r + margin(r) / steepness

    return margin, reach


@pytest.mark.parametrize("tolerance", [0.05, 0.01, 0.001, 1e-4])
@pytest.mark.parametrize("lines", [True, False])
@given(root=st.floats(1e-6, 10.0), bend=st.floats(0.0, 1.0), cap=st.floats(0.01, 10.0))
@example(root=1.0, bend=1.0, cap=1.25)  # the first lines end a billion times farther than the root
def test_it_comes_near_the_best_radius_with_few_calls(tolerance: float, lines: bool, root: float, bend: float, cap: float) -> None:
    margin, reach = crown_like(root, bend)
    verifier = Verifier(margin, reach if lines else None)
    found = verifier.search(cap, tolerance)
    assert found is not None
    assert found.bound.proved
    assert found.radius in verifier.verified
    assert found.at_cap == (found.radius == cap)
    assert min(root, cap) * (1 - 1.5 * tolerance) <= found.radius <= cap
    assert len(verifier.verified) <= 4
    assert len(verifier.probed) <= (12 if lines else 40)


def test_two_probes_and_one_verification_do_for_one_percent() -> None:
    for root in (0.01, 0.05, 0.2):
        verifier = Verifier(*crown_like(root, 0.5))
        found = verifier.search(1.0, 0.01)
        assert found is not None
        assert len(verifier.verified) == 1
        assert len(verifier.probed) <= 4  # the first at almost no distance, where no neuron is unstable and a bound costs little


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.floats(0.001, 0.3))
def test_whatever_is_returned_was_verified_whoever_lies(answers: list[bool], tolerance: float) -> None:
    told = iter(answers)

    def erratic(radius: float) -> float:
        return 1.0 if next(told, False) else -1.0

    verifier = Verifier(lambda radius: 0.05 - radius)
    found = largest_radius(lambda radius: Probe(erratic(radius), 0.3), verifier.verify, 1.0, tolerance)
    if found is not None:
        assert found.radius in verifier.verified
        assert found.radius < 0.05


def test_nothing_is_found_where_nothing_is_proved() -> None:
    for margin in (-1.0, math.nan, -math.inf):
        assert Verifier(lambda radius, m=margin: m).search(1.0, 0.01) is None
    assert Verifier(lambda radius: math.inf).search(1.0, 0.01) is None, "infinity proves nothing"


def test_a_verifier_that_is_stricter_than_the_probe_is_asked_again_further_in() -> None:
    verifier = Verifier(lambda radius: 0.08 - radius)
    found = largest_radius(lambda radius: Probe(0.1 - radius, 0.1), verifier.verify, 1.0, 0.01)
    assert found is not None
    assert 0.06 < found.radius < 0.08
    assert len(verifier.verified) < 10


def test_only_what_lies_beyond_the_least_radius_is_tried() -> None:
    verifier = Verifier(*crown_like(0.1, 0.3))
    assert verifier.search(1.0, 0.01, least=0.0995) is None
    assert verifier.verified == []
    found = verifier.search(1.0, 0.01, least=0.05)
    assert found is not None
    assert 0.099 <= found.radius < 0.1
    assert min(verifier.probed) >= 0.05
