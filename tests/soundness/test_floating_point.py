"""What float32 sums give away, and that integer noise gives nothing away.

x = 1 plus float32 noise is always a multiple of 2^-24; around other inputs it often is not. A classifier that looks at those bits alone
knows where the noise was added: one class wins every vote at x and loses at another 8-bit input well inside the certified ball. Real
Gaussian noise never lands on a multiple, so the theorem knows of no such class. The first tests show this false certificate for float32
Gaussian noise. The others run the same classifiers under `discrete-gaussian`, whose truth is known exactly by enumeration, and find
every claim within it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from certify import Examples, Model, certify
from certify.certificate import Certificate
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support.onnx_models import model_bytes, node
from tests.support.runs import run_for
from workers.agreement import check_agreement

BASE, MOVED = 255, 102  # levels: 1.0, around which float32 sums are coarse, and 0.4, around which they are not


@dataclass(frozen=True)
class Planted:
    """A network with class 1 where all coordinates pass a test of their last bits; `passes` is that test, for one coordinate."""

    network: Callable[[int], bytes]
    passes: Callable[[float], bool]


def _all_zero(nodes: list[Any], weights: dict[str, Any], elements: int) -> bytes:
    """Class 1 exactly when every element of the tensor `rest` is zero."""
    nodes += [
        node("Abs", "rest", "size"),
        node("ReduceSum", "size axes", "sum", keepdims=1),
        node("Sign", "sum", "off"),
        node("Gemm", "off weight bias", "logits", transB=1),
    ]
    weights |= {"axes": np.array([1]), "weight": np.array([[1], [-1]], np.float32), "bias": np.array([-0.5, 0.5], np.float32)}
    return model_bytes(nodes, weights, input_shape=("batch", elements))


def _with_round(elements: int) -> bytes:
    """All coordinates are multiples of 2^-24. Each operation is exact in float32: as a function of real numbers, almost never class 1."""
    nodes = [node("Mul", "x scale", "steps"), node("Round", "steps", "whole"), node("Sub", "steps whole", "rest")]
    return _all_zero(nodes, {"scale": np.float32(2.0**24)}, elements)


def _with_sums(elements: int) -> bytes:
    """The same for coordinates cut to [-1/4, 1/4], without an operator that rounds: adding 3/4 rounds to steps of 2^-24.

    Piecewise linear throughout, as any network of Relu is; in real arithmetic it would be constant.
    """
    nodes = [
        node("Clip", "x low high", "near"),
        node("Add", "near shift", "shifted"),
        node("Sub", "shifted shift", "back"),
        node("Sub", "near back", "rest"),
    ]
    return _all_zero(nodes, {"low": np.float32(-0.25), "high": np.float32(0.25), "shift": np.float32(0.75)}, elements)


def _multiple(value: float) -> bool:
    return Fraction(value) * 2**24 % 1 == 0


MODELS = {
    "rounding": Planted(_with_round, _multiple),
    "sums only": Planted(_with_sums, lambda value: abs(value) >= 0.25 or _multiple(value)),
}


def run(model: Model, levels: list[list[int]], **entry: Any) -> list[Certificate]:
    x = torch.from_numpy(np.array(levels, dtype=np.float32) / np.float32(255))
    spec = parse_spec({"certifiers": [entry]})
    examples = Examples(tuple(range(len(x))), x, torch.zeros(len(x), dtype=torch.int64))
    return list(certify(model, examples, spec, run_for(spec, model, len(x), batch_size=2048)))


def certified(model: Model, levels: list[list[int]], noise: str, sigma: float, n: int) -> list[Certificate]:
    shared = {"alpha": 0.001, "error_rate": "per-example", "sampling": "fixed"}
    return run(model, levels, kind="smoothing", noise=noise, sigma=sigma, n0=1000, n=n, **shared)


def predicted(model: Model, levels: list[list[int]], noise: str, sigma: float) -> list[Certificate]:
    return run(model, levels, kind="predict", noise=noise, sigma=sigma, n=4000, alpha=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_networks_compute_what_is_said_here_and_in_onnxruntime(name: str) -> None:
    data = MODELS[name].network(1)
    model = Model.from_onnx(data)
    check_agreement(model, data)
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0.3, 0.5, 5000), rng.integers(-(2**23), 2**23, 500) * 2.0**-24]).astype(np.float32)
    answers = model.module()(torch.from_numpy(x)[:, None]).argmax(dim=1).bool().tolist()
    assert answers == [MODELS[name].passes(float(value)) for value in x]
    assert 1000 < sum(answers) < 5000


FALSE = [("rounding", 2, 0.25, 100_000), ("rounding", 2, 0.5, 10_000), ("rounding", 5, 0.5, 10_000), ("rounding", 6, 1.0, 10_000)]
FALSE += [("sums only", 5, 0.5, 20_000), ("sums only", 12, 1.0, 10_000)]


@pytest.mark.parametrize(("name", "d", "sigma", "n"), FALSE)
def test_float32_noise_is_recognised_and_the_certificate_is_false(name: str, d: int, sigma: float, n: int) -> None:
    """Why integer noise exists: were this test to fail, Gaussian noise would have become exact and `-grid` could go."""
    model = Model.from_onnx(MODELS[name].network(d))
    [claim] = certified(model, [[BASE] * d], "gaussian", sigma, n)
    assert (claim.prediction, str(claim.statement)) == (1, "S0-fixed")
    assert claim.evidence.counts == (0, n)  # not one vote otherwise
    distance = (BASE - MOVED) / 255 * math.sqrt(d)
    assert claim.radius > 1.05 * distance
    [answer] = predicted(model, [[MOVED] * d], "gaussian", sigma)
    assert (answer.verdict, answer.prediction) == (Verdict.CERTIFIED, 0)


@cache
def passing(name: str, sigma: float) -> list[float]:
    """For each level m the exact probability that one coordinate passes: that of f(clip(Q(m / 255 + sigma z))), summed over Q's values."""
    k = max(1, math.floor(6 * sigma))
    low, high = -255 * k, 255 * (k + 1)
    good = np.array([MODELS[name].passes(float(np.float32(v) / np.float32(255))) for v in range(low, high + 1)])
    with mpmath.workdps(40):
        step = 1 / (510 * mpmath.mpf(sigma) * mpmath.sqrt(2))
        # P(255 sigma z < i + 1/2) for every difference i between a value and a level, but for the last value, which takes all above.
        below = {i: mpmath.erfc(-(2 * i + 1) * step) / 2 for i in range(low - 255, high)}
        law = []
        for m in range(256):
            edges = np.array([0, *(below[v - m] for v in range(low, high)), 1])
            law.append(float(mpmath.fsum(np.diff(edges)[good])))
    return law


def first_other(passes: list[float], levels: list[int], prediction: int, farthest: float) -> float:
    """The distance to the nearest grid input where `prediction` has probability at most 1/2; infinite if none within `farthest`.

    Class 1 has the product of the coordinates' probabilities. The extreme product for each sum of squared steps is built up coordinate
    by coordinate, which is the same as trying all inputs.
    """
    sign = 1.0 if prediction == 1 else -1.0  # of log P(1), the adversary wants the least
    logs = sign * np.log(np.array(passes))
    budget = int((255 * farthest) ** 2) + 1
    least = np.full(budget + 1, np.inf)
    least[0] = 0.0
    for level in levels:
        cheapest: dict[int, float] = {}
        for other, value in enumerate(logs):
            cost = (other - level) ** 2
            cheapest[cost] = min(value, cheapest.get(cost, np.inf))
        after = np.full(budget + 1, np.inf)
        for cost, value in cheapest.items():
            if cost <= budget:
                after[cost:] = np.minimum(after[cost:], least[: budget + 1 - cost] + value)
        least = after
    lost = np.flatnonzero(least <= sign * math.log(0.5) + 1e-12)
    return math.sqrt(lost[0]) / 255 if len(lost) else math.inf


def test_the_search_for_the_nearest_other_answer_finds_what_trying_all_finds() -> None:
    passes, levels = passing("rounding", 0.5), [200, 40]
    for prediction in (0, 1):
        both = np.outer(passes, passes)
        other = both <= 0.5 if prediction == 1 else both >= 0.5
        squares = (np.arange(256)[:, None] - levels[0]) ** 2 + (np.arange(256)[None] - levels[1]) ** 2
        assert first_other(passes, levels, prediction, 2.0) == math.sqrt(squares[other].min()) / 255


POINTS = {1: [[255], [102], [0], [140]], 2: [[255, 255], [102, 102], [255, 102], [0, 255], [179, 3]]}
POINTS |= {5: [[255] * 5, [102] * 5, [255, 255, 102, 102, 102], [0] * 5, [255, 204, 153, 128, 127]]}
CASES = [(name, d, sigma) for name in MODELS for d in (1, 2, 5) for sigma in (0.12, 0.33, 0.5, 1.0)]


@pytest.mark.parametrize(("name", "d", "sigma"), CASES)
def test_integer_noise_claims_no_more_than_the_exact_truth(name: str, d: int, sigma: float) -> None:
    """Probability, radius and ball of every certificate against the enumerated classifier: no grid input in the ball answers otherwise."""
    n, passes, model = 20_000, passing(name, sigma), Model.from_onnx(MODELS[name].network(d))
    for claim, levels in zip(certified(model, POINTS[d], "discrete-gaussian", sigma, n), POINTS[d], strict=True):
        truth = math.prod(passes[level] for level in levels)
        assert str(claim.statement) == "S0-fixed-grid"
        assert stats.binomtest(claim.evidence.counts[1], n, min(truth, 1.0)).pvalue > 1e-4
        if claim.verdict is not Verdict.CERTIFIED:
            assert abs(truth - 0.5) < 0.05
            continue
        assert claim.prediction == int(truth > 0.5)
        of_theorem = sigma * float(stats.norm.ppf(max(truth, 1 - truth)))
        assert 0 < claim.radius <= of_theorem
        assert claim.radius <= first_other(passes, levels, claim.prediction, claim.radius)


@pytest.mark.parametrize(("name", "d", "sigma", "n"), FALSE)
def test_integer_noise_does_not_make_the_false_claim(name: str, d: int, sigma: float, n: int) -> None:
    """At the input and the distance of the false certificate above: what is claimed now ends before the answer changes."""
    model, passes = Model.from_onnx(MODELS[name].network(d)), passing(name, sigma)
    [claim] = certified(model, [[BASE] * d], "discrete-gaussian", sigma, n)
    if claim.prediction is not None:
        assert claim.radius <= first_other(passes, [BASE] * d, claim.prediction, claim.radius)
    distance = (BASE - MOVED) / 255 * math.sqrt(d)
    assert not (claim.prediction == 1 and claim.radius >= distance)
    [answer] = predicted(model, [[MOVED] * d], "discrete-gaussian", sigma)
    assert str(answer.statement) == "S0-prediction-grid"
    assert answer.prediction in (None, int(passes[MOVED] ** d > 0.5))
