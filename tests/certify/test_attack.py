"""The attack finds what is there, no nearer than it is, and reports distances rounded up."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from certify.attacks.apgd import apgd
from certify.attacks.base import Attack
from certify.attacks.geometry import direction, project
from certify.attacks.pgd import pgd
from certify.attacks.search import minimal_distance
from certify.norms import Norm
from tests.support.linear import LinearTruth

ORDER = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}


def lengths(delta: Tensor, norm: Norm) -> Tensor:
    return torch.linalg.vector_norm(delta.flatten(1), ORDER[norm], dim=1)


def steps(seed: int, *shape: int) -> Tensor:
    """Random steps of very different lengths, one with ties, one with a single entry and one of zeros."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(shape, generator=generator, dtype=torch.float64)
    delta *= torch.logspace(-2, 2, shape[0], dtype=torch.float64).reshape(-1, *(1,) * (len(shape) - 1))
    delta[-1] = delta[-1].sign()
    delta[-2] = 0.0
    delta[-2].flatten()[0] = -7.0
    delta[-3] = 0.0
    return delta


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("shape", [(40, 1), (40, 7), (40, 2, 3, 4)])
@pytest.mark.parametrize("radius", [0.03, 1.0, 5.0])
def test_the_projection_is_the_nearest_point_of_the_ball(norm: Norm, shape: tuple[int, ...], radius: float) -> None:
    delta = steps(1, *shape)
    found = project(delta.clone(), norm, radius)
    assert found.shape == delta.shape
    assert bool((lengths(found, norm) <= radius * (1 + 1e-12)).all())
    inside = lengths(delta, norm) <= radius
    assert 0 < int(inside.sum()) < len(delta)
    torch.testing.assert_close(found[inside], delta[inside], rtol=0, atol=1e-15)
    torch.testing.assert_close(project(found.clone(), norm, radius), found, rtol=1e-12, atol=1e-15)
    # p is the nearest point of a convex set iff (delta - p).(z - p) <= 0 for all its points z; over a ball the largest
    # (delta - p).z is radius times the dual norm.
    rest = (delta - found).flatten(1)
    largest = radius * lengths(rest, norm.dual)
    assert bool((largest <= (rest * found.flatten(1)).sum(1) + 1e-10 * (1 + largest)).all())


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("shape", [(30, 1), (30, 7), (30, 5, 8)])
def test_the_direction_climbs_and_is_no_longer_than_one(norm: Norm, shape: tuple[int, ...]) -> None:
    gradient = steps(2, *shape)
    steepest = direction(gradient, norm)
    climb = (steepest * gradient).flatten(1).sum(1)
    flat = (gradient == 0).flatten(1).all(1)
    assert bool((climb[~flat] > 0).all())
    assert not bool(steepest[flat].any())
    assert bool((lengths(steepest, norm) <= 1 + 1e-6).all())
    # No step of length one climbs faster than the dual norm; below twenty entries a sparse step reaches it too.
    fastest = lengths(gradient, norm.dual)
    assert bool((climb <= fastest * (1 + 1e-6)).all())
    if norm is not Norm.L1 or gradient[0].numel() < 20:
        torch.testing.assert_close(climb, fastest, rtol=1e-6, atol=0)


@pytest.mark.parametrize("attack", [pgd, apgd])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("norm", list(Norm))
def test_on_a_linear_model_one_is_found_just_beyond_the_exact_distance_and_none_within(
    norm: Norm, normalised: bool, attack: Attack
) -> None:
    truth = LinearTruth.random(8, 2, seed=9, normalised=normalised)  # one rival, so that the attack cannot choose another
    module = truth.model().module("cpu", torch.float64)
    for x in truth.examples(6, seed=2).x:
        label = int(module(x.double().unsqueeze(0)).argmax())
        exact = truth.distance(x.numpy(), label, norm)
        inside, beyond = (
            attack(module, x, label, norm=norm, radius=float(exact) * share, generator=torch.Generator().manual_seed(0))
            for share in (1 - 1e-9, 1.03)
        )
        assert inside is None
        assert beyond is not None
        assert exact <= Fraction(beyond.distance_upper) <= exact * Fraction(1.03) * (1 + Fraction(1, 10**9))


@pytest.mark.parametrize("norm", list(Norm))
def test_on_a_linear_model_it_comes_near_the_exact_distance_and_never_below(norm: Norm) -> None:
    truth = LinearTruth.random(6, 4, seed=7, normalised=True)
    module = truth.model().module("cpu", torch.float64)
    for x in truth.examples(4, seed=1).x:
        label = int(module(x.double().unsqueeze(0)).argmax())
        exact = truth.distance(x.numpy(), label, norm)
        found = minimal_distance(module, x, label, norm=norm, max_radius=10.0, generator=torch.Generator().manual_seed(0))
        assert found is not None
        assert Fraction(found.distance_upper) >= exact
        assert found.distance_upper <= float(exact) * 1.05
        assert int(module(found.x.unsqueeze(0)).argmax()) != label


@pytest.mark.parametrize("attack", [pgd, apgd])
@pytest.mark.parametrize("norm", list(Norm))
def test_the_value_range_is_respected(norm: Norm, attack: Attack) -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    module = truth.model().module("cpu", torch.float64)
    x = truth.examples(1, seed=1).x[0]
    label = int(module(x.double().unsqueeze(0)).argmax())
    found = attack(module, x, label, norm=norm, radius=5.0, generator=torch.Generator().manual_seed(0), value_range=(0.0, 1.0))
    assert found is not None
    assert 0.0 <= float(found.x.min()) <= float(found.x.max()) <= 1.0
    assert found.distance_upper <= 5.0 * (1 + 1e-9)


@pytest.mark.parametrize("kept", [1, 3, 50])
def test_an_l1_step_has_as_many_entries_as_asked(kept: int) -> None:
    gradient = torch.randn((4, 40), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = direction(gradient, Norm.L1, torch.full((4,), float(kept)))
    assert (step != 0).sum(1).tolist() == [min(kept, 40)] * 4
    torch.testing.assert_close(lengths(step, Norm.L1), torch.ones(4, dtype=torch.float64))
    largest = gradient.abs().sort(dim=1, descending=True).values[:, : min(kept, 40)].sum(1)
    torch.testing.assert_close((gradient.abs() * (step != 0)).sum(1), largest)


def test_it_finds_the_nearest_of_many_rivals_where_the_largest_logit_is_not_the_nearest() -> None:
    """The rival with the largest logit is far away: its logit hardly moves. A lesser one is near."""
    weight = torch.zeros((4, 6), dtype=torch.float64)
    weight[1, 0], weight[2, 1], weight[3, 2] = 0.01, 0.02, 10.0
    bias = torch.tensor([1.0, 0.9, 0.8, -1.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = minimal_distance(
        lambda x: x @ weight.T + bias, torch.zeros(6), 0, norm=Norm.LINF, max_radius=20.0, generator=generator, steps=10
    )  # fmt: skip
    assert found is not None
    assert 0.2 <= found.distance_upper <= 0.2 * 1.01


def test_a_search_that_is_told_to_stop_stops() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        minimal_distance(
            lambda x: x[:, :2], torch.zeros(3), 0, norm=Norm.L2, max_radius=1.0, generator=torch.Generator().manual_seed(0), poll=stop
        )  # fmt: skip


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_a_small_target_inside_the_ball_needs_small_steps(norm: Norm) -> None:
    """A disc of a fiftieth of the radius: steps that never shrink jump over it."""
    target = torch.tensor([0.31, -0.17], dtype=torch.float64)

    def classify(x: Tensor) -> Tensor:
        return torch.stack([(x - target).square().sum(1) - 0.02**2, torch.zeros(len(x), dtype=x.dtype)], dim=1)

    found = apgd(classify, torch.zeros(2), 0, norm=norm, radius=1.0, generator=torch.Generator().manual_seed(0), steps=100, restarts=1)
    assert found is not None
    assert float((found.x - target).norm()) < 0.02
