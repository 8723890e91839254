"""The ladder asks the cheap method first, keeps to the full verification of one, and survives the faults of the others."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from certify.bounds.engine import MarginBound
from certify.bounds.ladder import LADDERS, Ladder
from certify.bounds.scout import Probe
from certify.errors import NumericalError

X = torch.zeros(2)


class Scripted:
    """An engine whose methods prove up to given radii; a method without one fails."""

    version = "scripted"

    def __init__(self, **reach: float) -> None:
        self.reach = {name.replace("_", "-"): value for name, value in reach.items()}
        self.asked: list[tuple[str, float]] = []

    def margin(self, x: Tensor, label: int, radius: float, method: str) -> MarginBound:
        self.asked.append((method, radius))
        if method not in self.reach:
            raise NumericalError.at("method", f"{method} cannot bound this network")
        return MarginBound(self.reach[method] - radius, 1e-10, method)


class Blind:
    """A scout that fails everywhere, so that the engine is asked instead."""

    def begin(self) -> None:
        pass

    def probe(self, x: Tensor, label: int, radius: float, method: str) -> Probe:
        return Probe(math.nan)


class Sighted(Blind):
    """A scout that knows the engine's curve, but sees a share of `too_far` beyond it."""

    def __init__(self, engine: Scripted, too_far: float = 0.0) -> None:
        self.engine, self.too_far = engine, too_far

    def probe(self, x: Tensor, label: int, radius: float, method: str) -> Probe:
        end = self.engine.reach[method] * (1 + self.too_far)
        return Probe(end - radius, end)


def ladder(engine: Scripted, name: str = "best") -> Ladder:
    return Ladder(engine, Blind(), LADDERS[name])


def test_the_cheapest_method_that_proves_is_named() -> None:
    engine = Scripted(ibp=0.1, crown_ibp=0.2, crown=0.3, alpha_crown=0.4)
    climbing = ladder(engine)
    found = [climbing.margin(X, 0, radius) for radius in (0.05, 0.15, 0.25, 0.35)]
    assert [bound.method for bound in found] == ["ibp", "crown-ibp", "crown", "alpha-crown"]
    assert all(bound.proved for bound in found)
    assert not climbing.margin(X, 0, 0.45).proved


def test_a_method_that_failed_is_not_asked_about_larger_radii_until_the_next_example() -> None:
    engine = Scripted(ibp=0.1, crown_ibp=0.2, crown=0.3, alpha_crown=0.4)
    climbing = ladder(engine)
    climbing.margin(X, 0, 0.25)
    engine.asked.clear()
    climbing.margin(X, 0, 0.3)
    assert [method for method, _ in engine.asked] == ["crown", "alpha-crown"]
    climbing.begin()
    engine.asked.clear()
    climbing.margin(X, 0, 0.3)
    assert [method for method, _ in engine.asked] == ["ibp", "crown-ibp", "crown", "alpha-crown"]


def test_what_does_not_prove_keeps_the_best_bound_and_never_a_nan_over_a_number() -> None:
    assert ladder(Scripted(ibp=0.1, crown_ibp=0.3, crown=0.2, alpha_crown=0.0)).margin(X, 0, 0.5).method == "crown-ibp"
    bound = ladder(Scripted(ibp=math.nan, crown_ibp=0.3, crown=0.2, alpha_crown=math.nan)).margin(X, 0, 0.5)
    assert (bound.method, bound.lower) == ("crown-ibp", pytest.approx(-0.2))


def test_a_fault_of_one_method_leaves_the_others() -> None:
    climbing = ladder(Scripted(crown=0.3), "alpha-crown")
    assert climbing.margin(X, 0, 0.2).proved
    assert not climbing.margin(X, 0, 0.4).proved
    assert not climbing.margin(X, 0, 0.5).proved  # crown is not asked again, and alpha-crown fails
    with pytest.raises(NumericalError, match="alpha-crown cannot bound"):
        ladder(Scripted()).margin(X, 0, 0.1)


@pytest.mark.parametrize("tolerance", [0.1, 0.001])
def test_the_search_goes_on_from_where_the_cheaper_method_ended(tolerance: float) -> None:
    engine = Scripted(ibp=0.01, crown_ibp=0.2, crown=0.21, alpha_crown=0.37)
    found = ladder(engine).largest(X, 0, 1.0, tolerance)
    assert found is not None
    assert found.bound.method == "alpha-crown"
    assert 0.37 * (1 - 2 * tolerance) <= found.radius < 0.37
    for method, least in (("crown-ibp", 0.01), ("crown", 0.2), ("alpha-crown", 0.21)):
        assert all(radius > least * (1 - 2 * tolerance) for name, radius in engine.asked if name == method)
    assert sum(method == "alpha-crown" for method, _ in engine.asked) < 20


def test_the_engine_has_the_last_word_over_a_scout_that_sees_too_far() -> None:
    engine = Scripted(crown=0.21)
    found = Ladder(engine, Sighted(engine, 0.05), LADDERS["crown"]).largest(X, 0, 1.0, 0.01)
    assert found is not None
    assert 0.18 < found.radius < 0.21
    assert found.bound.proved
    assert engine.asked[-1] == ("crown", found.radius)


def test_a_good_scout_leaves_one_call_for_each_method() -> None:
    engine = Scripted(ibp=0.01, crown_ibp=0.2, crown=0.21, alpha_crown=0.37)
    found = Ladder(engine, Sighted(engine), LADDERS["best"]).largest(X, 0, 1.0, 0.01)
    assert found is not None
    assert 0.37 * 0.99 <= found.radius < 0.37
    assert [method for method, _ in engine.asked] == ["ibp", "crown-ibp", "crown", "alpha-crown"]


def test_a_search_that_reaches_the_cap_asks_no_tighter_method() -> None:
    engine = Scripted(ibp=0.5, crown_ibp=2.0, crown=3.0, alpha_crown=4.0)
    found = ladder(engine).largest(X, 0, 1.0, 0.01)
    assert found is not None
    assert (found.radius, found.at_cap, found.bound.method) == (1.0, True, "crown-ibp")
    assert {method for method, _ in engine.asked} == {"ibp", "crown-ibp"}


def test_a_search_survives_faults_and_raises_when_nothing_answers() -> None:
    found = ladder(Scripted(crown=0.3), "alpha-crown").largest(X, 0, 1.0, 0.01)
    assert found is not None
    assert found.bound.method == "crown"
    with pytest.raises(NumericalError, match="cannot bound"):
        ladder(Scripted()).largest(X, 0, 1.0, 0.01)


def test_whatever_is_returned_was_verified_even_when_the_verifier_is_not_monotone() -> None:
    class Jagged(Scripted):
        def margin(self, x: Tensor, label: int, radius: float, method: str) -> MarginBound:
            self.asked.append((method, radius))
            return MarginBound(1.0 if (int(radius * 1000) + 1) % 7 else -1.0, 1e-10, method)

    engine = Jagged(crown=1.0)
    found = ladder(engine, "crown").largest(X, 0, 0.98, 0.001)
    assert found is not None
    assert ("crown", found.radius) in engine.asked
    assert found.bound.proved
