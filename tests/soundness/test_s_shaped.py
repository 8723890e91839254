"""Tanh and sigmoid on far, wide and very narrow intervals, where auto-LiRPA's own lines cut the function."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from certify import Model
from certify.bounds.engine import METHODS, LirpaEngine
from certify.bounds.s_shaped import CURVES
from certify.norms import Norm
from tests.support.onnx_models import model_bytes, node

# Centre and radius.
FAR = [(7611.4, 9577.4), (-7611.4, 9577.4), (-10000.0, 9999.9), (10000.0, 9999.9), (100.0, 450.0), (0.0, 600.0)]
NARROW = [(-4.66e-5, 2.5e-9), (-1.0, 2.5e-9), (1.0, 2.5e-9), (0.0, 2.5e-9), (-0.3, 1e-12)]
BETWEEN = [(0.2, 3.0), (-2.0, 1.5), (0.01, 0.02), (5.0, 30.0)]
SLOPES = (0.0, 2.0**-12, 2.0**-6, 0.125)
CHEAP = tuple(method for method in METHODS if method != "alpha-crown")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine(kind: str, slope: float) -> LirpaEngine:
    """Of one number x, with logits f(x) - slope x and 0."""
    nodes = [node(kind, "x", "y"), node("Mul", "x k", "z"), node("Add", "y z", "s"), node("Gemm", "s w", "logits", transB=1)]
    weights = {"k": np.array([-slope], np.float32), "w": np.array([[1.0], [0.0]], np.float32)}
    return LirpaEngine(Model.from_onnx(model_bytes(nodes, weights, input_shape=("batch", 1))).graph, Norm.LINF)


def least(kind: str, slope: float, label: int, low: float, high: float) -> float:
    """The smallest margin on a grid that is dense around zero too, so no smaller than the true one."""
    even = torch.linspace(low, high, 20_001, dtype=torch.float64)
    bend = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    x = torch.cat([even, bend]).clamp(low, high)
    return float(((-1) ** label * (CURVES[kind].function(x) - slope * x)).min())


def violation(found: LirpaEngine, kind: str, slope: float, intervals: list[tuple[float, float]], methods: tuple[str, ...] = CHEAP) -> float:
    """By how much a bound exceeds a margin in the ball, in units of what rounding might do; the worst of all methods."""
    worst = 0.0
    for (centre, radius), label in product(intervals, (0, 1)):
        x = torch.tensor([centre], dtype=torch.float64)
        margin = least(kind, slope, label, centre - radius, centre + radius)
        for method in methods:
            bound = found.margin(x, label, radius, method)
            assert np.isfinite(bound.lower)
            worst = max(worst, (bound.lower - margin) / (1e-13 * (1 + slope * (abs(centre) + radius))))
    return worst


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("kind", CURVES)
def test_no_bound_is_above_a_margin_in_the_ball(kind: str, slope: float) -> None:
    assert violation(engine(kind, slope), kind, slope, FAR + NARROW + BETWEEN) <= 1


@pytest.mark.parametrize(("slope", "interval"), [(2.0**-12, FAR[0]), (0.125, NARROW[0])])
@pytest.mark.parametrize("kind", CURVES)
def test_by_alpha_crown(kind: str, slope: float, interval: tuple[float, float]) -> None:
    assert violation(engine(kind, slope), kind, slope, [interval], ("alpha-crown",)) <= 1


@pytest.mark.parametrize("kind", CURVES)
def test_the_heights_of_auto_lirpa_are_caught(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """0.3 is wrong on far intervals, 0.7 on narrow ones."""
    worst = []
    for slope in (2.0**-12, 0.125):
        found = engine(kind, slope)
        (ours,) = (type(one) for one in found._bounded._modules.values() if type(one).__name__ == f"Bound{kind}")
        with monkeypatch.context() as patch:
            patch.delattr(ours, "bound_relax")
            worst.append(violation(found, kind, slope, FAR + NARROW))
    assert max(worst) > 100


@pytest.mark.parametrize("kind", CURVES)
def test_lines_of_any_slope_hold_and_touch(kind: str) -> None:
    """Also with slopes that no chord and no tangent has."""
    curve, generator = CURVES[kind], torch.Generator().manual_seed(4)

    def spread(count: int, low: float, high: float) -> Tensor:
        return 10 ** (low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64))

    count = 3000
    low = spread(count, -9, 4) * torch.randn(count, generator=generator, dtype=torch.float64).sign()
    high = low + spread(count, -12, 4)
    slope = spread(count, -20, 0.5) * torch.randn(count, generator=generator, dtype=torch.float64).sign()
    slope[:100], slope[100:200] = 0.0, curve.steepest
    heights = curve.heights(slope, low, high)
    x = (low + (high - low) * torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]).clamp(low, high)
    apart = curve.function(x) - slope * x
    slack = 1e-14 * (1 + slope.abs() * torch.maximum(low.abs(), high.abs()))
    assert bool((heights.amin(0) <= apart.amin(0) + slack).all())
    assert bool((heights.amax(0) >= apart.amax(0) - slack).all())
    places = torch.stack([low, high])
    assert bool((heights[:2] == curve.function(places) - slope * places).all())
    assert bool(curve.heights(torch.tensor([torch.nan]), low[:1].float(), high[:1].float()).isnan().any())
