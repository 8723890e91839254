"""The rules of the ledger: answers are consistent in every order, and no two regions that answer differently share a point."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from certify import memory
from certify.memory import Memory, answering, contains, disagreeing, distance, overlap, resolve
from certify.regions import Candidate, Region, Resolution, region_of
from certify.rounding import step_down, step_up
from tests.support.regions import Pass, candidate, crowd, in_conflict, share_a_point, squared


def region(point: list[float], answer: int, radius: float, *, number: int = 1, sigma: float = 0.5, revoked: bool = False) -> Region:
    one = candidate(point, answer, radius, sigma=sigma)
    made = region_of(one, Resolution(how="stored", answer=answer, radius=radius), number, "job_1", 0)
    return replace(made, revoked=revoked)


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1.0, 1e20])
@pytest.mark.parametrize("dimension", [1, 5, 784])
def test_a_distance_is_enclosed_by_its_two_roundings(scale: float, dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    for _ in range(20):
        a, b = (rng.normal(0, scale, dimension).astype("<f4") for _ in range(2))
        a[:: 1 + dimension // 3] *= np.float32(1e-7)  # differences that float64 cannot hold exactly
        low, high = distance(a.tobytes(), b.tobytes())
        exact = squared(a.tobytes(), b.tobytes())
        assert Fraction(low) ** 2 <= exact <= Fraction(high) ** 2
        assert low > 0
        assert high / low - 1 < 5e-15


def test_the_same_point_is_at_no_distance_and_no_other_is() -> None:
    zero, minus, least = (np.array([v, 1.0], "<f4").tobytes() for v in (0.0, -0.0, 1e-45))
    assert distance(zero, minus) == (0.0, 0.0)
    low, high = distance(zero, least)
    assert 0 < low < high


def test_membership_and_overlap_are_decided_to_the_last_bit() -> None:
    a, b = np.array([0.1, 0.2, 0.3], "<f4"), np.array([0.7, 0.15, 0.9], "<f4")
    near = math.sqrt(float(squared(a.tobytes(), b.tobytes())))
    for radius in (step_down(near, 3), step_down(near), near, step_up(near), step_up(near, 3)):
        one = region(a.tolist(), 0, radius)
        exact = squared(a.tobytes(), b.tobytes())
        assert contains(one, b.tobytes()) == (exact < Fraction(radius) ** 2)
        half = region(b.tolist(), 1, radius / 2), region(a.tolist(), 0, radius / 2)
        assert overlap(*half) == share_a_point(*half) == (exact < Fraction(radius) ** 2)


def test_balls_that_touch_are_disjoint() -> None:
    """3-4-5: the distance is exactly 5, and open balls of radii 2 and 3 share nothing."""
    stored, touching = region([0, 0], 0, 2.0), candidate([3, 4], 1, 3.0)
    assert not overlap(stored, region([3, 4], 1, 3.0))
    found = resolve(touching, [stored])
    assert found.answer == 1
    assert 3.0 - 1e-14 < found.radius <= 3.0


def test_what_would_overlap_is_shrunk_to_what_is_left() -> None:
    found = resolve(candidate([3, 4], 1, 4.0), [region([0, 0], 0, 2.0)])
    assert found.how == "shrunk"
    assert found.by is not None
    assert 3.0 - 1e-14 < found.radius < 3.0
    assert "cut by region 1" in found.reason
    # Of the same class nothing is cut, and of revoked regions neither.
    assert resolve(candidate([3, 4], 0, 4.0), [region([0, 0], 0, 2.0)]).radius == 4.0
    assert resolve(candidate([3, 4], 1, 4.0), [region([0, 0], 0, 2.0, revoked=True)]).radius == 4.0


def test_inside_a_region_of_another_class_the_region_answers() -> None:
    for answer in (1, None):
        found = resolve(candidate([0, 3], answer, 0.5 if answer else 0.0), [region([0, 0], 0, 4.0)])
        assert (found.how, found.answer) == ("answered", 0)
        assert 1.0 - 1e-14 < found.radius <= 1.0
        assert not found.keeps


def test_inside_a_region_of_its_own_class_a_ball_is_kept_but_never_beyond_a_rival() -> None:
    """Its ball may leave the region it lies in, and meet one that the region does not touch."""
    near = [region([0, 0], 0, 2.0), region([5, 0], 1, 2.5, number=2)]
    assert not overlap(*near)
    found = resolve(candidate([1, 0], 0, 3.0), near)
    assert (found.how, found.answer) == ("shrunk", 0)
    assert 1.5 - 1e-14 < found.radius <= 1.5
    assert resolve(candidate([1, 0], 0, 0.25), near).how == "stored"


def test_where_nothing_is_left_it_abstains_and_is_not_stored() -> None:
    run = Pass.of([candidate([0, 0], 0, 5.0), candidate([3, 4], 1, 1.0, sigma=0.5), candidate([9, 9], None, 0.0)])
    assert [found.how for found in run.found] == ["stored", "abstained", "unanswered"]
    assert run.found[1].radius == 0.0
    assert "reaches up to it" in run.found[1].reason
    assert len(run.memory.regions) == 1


def test_the_same_input_keeps_what_it_was_stored_with() -> None:
    """More samples, another sigma, another class, another sign of zero: a later job enlarges nothing."""
    run = Pass.of([candidate([0.0, 1.0], 0, 1.0), candidate([-0.0, 1.0], 0, 9.0, sigma=1.0), candidate([0.0, 1.0], 1, 0.1, sigma=0.5)])
    assert [(found.how, found.answer, found.radius) for found in run.found[1:]] == [("answered", 0, 1.0)] * 2
    assert len(run.memory.regions) == 1


def test_two_proofs_of_one_classifier_that_disagree_revoke_the_stored_one() -> None:
    for point in ([0.5, 0.0], [0.0, 0.0]):
        run = Pass.of([candidate([0, 0], 0, 1.0, sigma=0.5), candidate(point, 1, 1.0, sigma=0.5)])
        assert run.found[1].how == "abstained"
        assert [one.number for one in run.found[1].revokes] == [1]
        assert run.memory.regions[0].revoked
        assert answering(candidate([0, 0], None, 0).centre, run.memory.regions) is None
        again = run.memory.add(candidate([0, 0], 0, 2.0, sigma=0.5), 0)
        assert again.how == "abstained"  # the revoked input is not thrown again
        assert "revoked" in again.reason


def two_inputs() -> list[Candidate]:
    """Nearby inputs whose own searches found different sigmas and different classes: frozen, both balls are proved, and they overlap."""
    return [candidate([0.0, 0.0], 0, 1.0, sigma=0.25), candidate([0.5, 0.0], 1, 1.5, sigma=1.0)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_inputs_that_frozen_answers_differently_are_answered_consistently_in_both_orders(order: tuple[int, int]) -> None:
    asked = [two_inputs()[i] for i in order]
    run = Pass.of(asked)
    first, second = run.found
    assert first.answer == asked[0].answer == second.answer  # whoever comes first decides: the order matters, and is kept
    assert second.radius <= first.radius - 0.5
    assert in_conflict(run.memory.regions) == []


@pytest.mark.parametrize("seed", range(6))
def test_no_two_regions_that_answer_differently_share_a_point(seed: int) -> None:
    run = Pass.of(crowd(seed, 150))
    assert in_conflict(run.memory.regions) == []
    assert disagreeing(run.memory.regions) == []
    assert {found.how for found in run.found} == {"stored", "shrunk", "answered", "abstained", "unanswered"}
    for asked, found in zip(crowd(seed, 150), run.found, strict=True):
        assert found.radius <= asked.radius or found.how == "answered"
        if found.how == "answered" and not found.by.revoked:  # type: ignore[union-attr]
            # The ball that is claimed lies in the region that answers it.
            by = found.by
            assert by is not None
            assert squared(asked.centre, by.centre) <= (Fraction(by.radius) - Fraction(found.radius)) ** 2


def test_every_answer_in_force_is_that_of_the_ledger() -> None:
    run = Pass.of(crowd(9, 200))
    revoked = {one.digest for one in run.memory.regions if one.revoked}
    seen = 0
    for asked, found in zip(crowd(9, 200), run.found, strict=True):
        own = found.by.digest if found.how == "answered" and found.by else asked.digest
        if found.answer is not None and own not in revoked:
            by = answering(asked.centre, run.memory.regions)
            assert by is not None
            assert by.answer == found.answer
            seen += 1
    assert seen > 50
    assert revoked


def test_without_shrinking_regions_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the tests above, and of the check that finalisation makes."""

    def careless(asked: Candidate, rivals: object, inside: object) -> Resolution:
        return Resolution(how="stored", answer=asked.answer, radius=asked.radius)

    monkeypatch.setattr(memory, "_shrunk", careless)
    run = Pass.of(crowd(0, 150))
    assert len(in_conflict(run.memory.regions)) > 3
    assert [(a.number, b.number) for a, b in disagreeing(run.memory.regions)] == in_conflict(run.memory.regions)


def test_rounding_the_other_way_lets_regions_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Pass.of([candidate([0.1, 0.2], 0, 0.3), candidate([0.7, 0.9], 1, 5.0, sigma=0.5)])
    assert in_conflict(run.memory.regions) == []
    monkeypatch.setattr(memory, "step_down", step_up)
    run = Pass.of([candidate([0.1, 0.2], 0, 0.3), candidate([0.7, 0.9], 1, 5.0, sigma=0.5)])
    assert in_conflict(run.memory.regions) == [(1, 2)]


def test_the_rough_look_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = crowd(3, 120)
    quick = Pass.of(asked).found
    monkeypatch.setattr(memory, "_relevant", lambda _, near: list(near))
    monkeypatch.setattr(Memory, "near", lambda self, _: self.regions)
    assert Pass.of(asked).found == quick
