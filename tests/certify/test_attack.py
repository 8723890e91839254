"""The attack finds what is there, no nearer than it is, and reports distances rounded up."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from certify.attack import minimal_distance, pgd
from certify.norms import Norm
from tests.support.linear import LinearTruth


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
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


def test_nothing_is_found_inside_the_exact_distance() -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    module = truth.model().module("cpu", torch.float64)
    x = truth.examples(1, seed=1).x[0]
    label = int(module(x.double().unsqueeze(0)).argmax())
    inside = float(truth.distance(x.numpy(), label, Norm.L2)) * 0.99
    assert pgd(module, x, label, norm=Norm.L2, radius=inside, generator=torch.Generator().manual_seed(0)) is None


def test_the_value_range_is_respected() -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    module = truth.model().module("cpu", torch.float64)
    x = truth.examples(1, seed=1).x[0]
    label = int(module(x.double().unsqueeze(0)).argmax())
    found = pgd(module, x, label, norm=Norm.LINF, radius=5.0, generator=torch.Generator().manual_seed(0), value_range=(0.0, 1.0))
    if found is not None:
        assert 0.0 <= float(found.x.min()) <= float(found.x.max()) <= 1.0
