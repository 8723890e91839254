"""Integer noise against an exact oracle: its law, its bits, what the classifier is shown, and what `slack` promises.

The oracle is the power series of the normal distribution function in decimal arithmetic; it shares no code with the sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from certify import Examples, Model, certify
from certify.certificate import Certificate
from certify.errors import InputError, SpecError
from certify.facts import DatasetFacts, ModelFacts, check
from certify.rounding import step_down
from certify.sampling.noise import NOISES
from certify.sampling.noise.gaussian import l2_radius
from certify.sampling.noise.grid import LEVELS, DiscreteGaussian, extreme, thresholds
from certify.sampling.streams import Lane, Stage, Stream
from certify.spec import parse_spec
from tests.support.onnx_models import linear_model
from tests.support.runs import run_for
from workers.datasets.dataset import build, dataset_facts

SIGMAS = [0.05, 0.12, 0.25, 0.5, 1.0]
WHOLE = 1 << 63
DIGITS = 80
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798")


def cdf(x: Decimal) -> Decimal:
    """Phi(x) = 1/2 + phi(x) (x + x^3/3 + x^5/(3 5) + ...), all terms of one sign; within 1e-38 where |x| > 13, else within 1e-70."""
    if abs(x) > 13:
        return Decimal(int(x > 0))
    term = total = x
    odd = 1
    while abs(term) > Decimal(10) ** -DIGITS:
        odd += 2
        term *= x * x / odd
        total += term
    return Decimal("0.5") + (-x * x / 2).exp() / (2 * PI).sqrt() * total


@cache
def exact(sigma: float) -> tuple[Decimal, ...]:
    """P(255 sigma z < i + 1/2) for i from -extreme to extreme - 1, `sigma` being the float64 as it is."""
    with localcontext(prec=DIGITS):
        upper = [cdf((2 * i + 1) / (2 * LEVELS * Decimal(sigma))) for i in range(extreme(sigma))]
        return tuple([1 - value for value in reversed(upper)] + upper)


def law(cumulative: Sequence[Decimal]) -> list[Decimal]:
    """Probabilities of -extreme, ..., extreme; the ends hold all that lies beyond."""
    with localcontext(prec=DIGITS):
        return [b - a for a, b in pairwise([Decimal(0), *cumulative, Decimal(1)])]


def stream(example: int = 0) -> Stream:
    return Stream(b"g" * 32, 0, example, Stage.ESTIMATION)


def grid_noise(sigma: float, elements: int = 4096) -> DiscreteGaussian:
    return DiscreteGaussian(sigma, (elements,), "cpu")


def drawn(noise: DiscreteGaussian, blocks: int) -> np.ndarray:
    values = [noise.draw(stream(), block).numpy().astype(np.int64).ravel() for block in range(blocks)]
    return np.concatenate(values)


def test_the_oracle_knows_published_values() -> None:
    with localcontext(prec=DIGITS):
        assert abs(cdf(Decimal(0)) - Decimal("0.5")) < Decimal("1e-70")
        assert abs(cdf(Decimal(1)) - Decimal("0.841344746068542948585232545632")) < Decimal("1e-29")
        assert abs(1 - cdf(Decimal(6)) - Decimal("9.865876450376981407009e-10")) < Decimal("1e-30")


@pytest.mark.parametrize("sigma", SIGMAS)
def test_thresholds_are_the_exact_ones_to_the_nearest_unit(sigma: float) -> None:
    found, wanted = [int(t) for t in thresholds(sigma)], exact(sigma)
    assert len(found) == len(wanted) == 2 * extreme(sigma)
    with localcontext(prec=DIGITS):
        for t, p in zip(found, wanted, strict=True):
            # Where the tail is below half a unit a 63-bit word has no room for 2^63 itself: one unit off there, half elsewhere.
            assert abs(t - WHOLE * p) <= (1 if t == WHOLE - 1 else Decimal("0.5000001"))
    assert all(a <= b for a, b in pairwise(found))
    assert all(a + b == WHOLE or (a == 0 and b == WHOLE - 1) for a, b in zip(found, reversed(found), strict=True) if a <= b)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_integers_have_their_exact_law(sigma: float) -> None:
    noise = grid_noise(sigma)
    sample = drawn(noise, 600)
    counts = np.bincount(sample + extreme(sigma), minlength=2 * extreme(sigma) + 1)
    expected = np.array([float(p) for p in law(exact(sigma))]) * len(sample)
    middle = np.flatnonzero(expected >= 20)
    first, last = middle[0], middle[-1] + 1
    pooled = [np.array([v[:first].sum(), *v[first:last], v[last:].sum()]) for v in (counts, expected)]
    assert stats.chisquare(*pooled).pvalue > 1e-4
    # Half a step to one side is spread over all cells; the mean sees it.
    assert abs(sample.mean()) < 4.5 * 255 * sigma / np.sqrt(len(sample))
    assert np.abs(sample).max() > 4.5 * 255 * sigma  # tails are not cut


@pytest.mark.parametrize("sigma", [*SIGMAS, 0.33, 3.0])
def test_table_and_refinement_are_one_search_in_whole_words(sigma: float) -> None:
    """J = #{T_i <= U} - extreme for the 63-bit word U: 16 bits of the main lane, then, where they leave it open, 47 of the other."""
    noise, table = grid_noise(sigma), thresholds(sigma)
    rank = lambda words: np.searchsorted(table, words, side="right")  # noqa: E731
    opened = 0
    for block in range(20):
        main = np.empty(2 * noise.elements, dtype=np.uint8)
        stream().fill(block, main, Lane.MAIN)
        words = main.view("<u2").astype(np.int64) << 47
        undecided = np.flatnonzero(rank(words) != rank(words + (1 << 47) - 1))
        more = np.empty(8 * len(undecided), dtype=np.uint8)
        stream().fill(block, more, Lane.REFINE)
        words[undecided] += more.view("<i8") & ((1 << 47) - 1)
        opened += len(undecided)
        found = noise.draw(stream(), block).numpy().astype(np.int64).ravel()
        assert np.array_equal(found, rank(words)[: found.size] - extreme(sigma))
        assert np.abs(found).max() <= extreme(sigma)
    assert opened > 1000


def test_the_rarest_words_stay_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = grid_noise(0.25)
    for byte, side in ((0x00, -1), (0xFF, 1)):
        monkeypatch.setattr(Stream, "fill", lambda self, block, out, lane=Lane.MAIN, byte=byte: out.fill(byte))
        values = noise.draw(stream(), 0).unique()
        assert len(values) == 1
        assert 8 * 255 * 0.25 <= side * float(values) <= extreme(0.25)


@pytest.mark.parametrize("sigma", [1e-300, 1e-6, 1e-4])
def test_tiny_noise_moves_nothing(sigma: float) -> None:
    # Half a step is more than nineteen sigma: no word of 63 bits leads there.
    noise = grid_noise(sigma)
    assert (drawn(noise, 10) == 0).all()
    assert extreme(sigma) == 2 * LEVELS


def nearest_float32(value: Fraction) -> np.float32:
    start = np.float32(float(value))
    around = [np.nextafter(start, np.float32(-np.inf)), start, np.nextafter(start, np.float32(np.inf))]
    return min(around, key=lambda f: (abs(Fraction(float(f)) - value), int(f.view(np.uint32)) & 1))


@pytest.mark.parametrize("sigma", [0.05, 0.33, 0.5])
def test_the_classifier_sees_the_float32_nearest_to_a_clipped_multiple(sigma: float) -> None:
    k = max(1, int(6 * sigma))
    noise, reach = grid_noise(sigma, LEVELS + 1), extreme(sigma)
    x = torch.tensor([float(nearest_float32(Fraction(level, LEVELS))) for level in range(LEVELS + 1)])
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    out = torch.empty(len(steps), LEVELS + 1)
    noise.apply(noise.prepare(x), steps[:, None].expand(-1, LEVELS + 1), out)
    table = {m: nearest_float32(Fraction(m, LEVELS)) for m in range(-LEVELS * k, LEVELS * (k + 1) + 1)}
    lowest, highest = min(table), max(table)
    wanted = [[table[min(max(level + j, lowest), highest)] for level in range(LEVELS + 1)] for j in range(-reach, reach + 1)]
    assert np.array_equal(out.numpy(), np.array(wanted))
    assert (float(out.min()), float(out.max())) == (-k, k + 1)


def answer(model: Model, x: Any, **entry: Any) -> Certificate:
    spec = parse_spec({"certifiers": [{"kind": "smoothing", "noise": "discrete-gaussian", "sampling": "fixed", "alpha": 0.01, **entry}]})
    examples = Examples((0,), torch.tensor([x], dtype=torch.float32), torch.tensor([0]))
    [found] = certify(model, examples, spec, run_for(spec, model, 1))
    return found


def test_what_is_clipped_never_reaches_a_classifier() -> None:
    # sigma = 0.33 clips at 2, three sigma above x = 1: without the clip one copy in 700 would get class 1.
    model = Model.from_onnx(linear_model(np.array([[0], [1]], np.float32), np.array([0, -2.001], np.float32)))
    assert answer(model, [1.0], sigma=0.33, n=20_000).evidence.counts == (20_000, 0)
    model = Model.from_onnx(linear_model(np.array([[0], [1]], np.float32), np.array([0, -1.999], np.float32)))
    reached = answer(model, [1.0], sigma=0.33, n=20_000).evidence.counts[1]
    assert stats.binomtest(reached, 20_000, float(stats.norm.sf(254.5 / 255 / 0.33))).pvalue > 1e-4


@pytest.mark.parametrize("value", [0.5, 1 / 510, 100 / 255 + 1e-5, 256 / 255, -1 / 255, 1e9])
def test_inputs_between_the_grid_points_are_refused(value: float) -> None:
    noise = grid_noise(0.25, 3)
    with pytest.raises(InputError, match="1/255 grid") as refused:
        noise.prepare(torch.tensor([0.0, value, 1.0]))
    assert [problem.field for problem in refused.value.problems] == ["x"]
    model = Model.from_onnx(linear_model(np.eye(3, dtype=np.float32), np.zeros(3, np.float32)))
    with pytest.raises(InputError, match="1/255 grid"):
        answer(model, [0.0, value, 1.0], sigma=0.25, n=1000)


def test_all_grid_inputs_are_taken_whichever_way_they_were_divided() -> None:
    levels = np.arange(LEVELS + 1, dtype=np.float32)
    for x in ((levels.astype(np.float64) / 255).astype(np.float32), levels / np.float32(255), levels * np.float32(1 / 255)):
        prepared = grid_noise(0.25, LEVELS + 1).prepare(torch.from_numpy(x))
        assert torch.equal(prepared, torch.from_numpy(levels))
        assert dataset_facts(build(x[None], np.zeros(1, np.int64))).on_grid


def test_a_dataset_off_the_grid_is_refused_at_submission() -> None:
    plain = {"kind": "smoothing", "sigma": 0.25}
    integer = [{**plain, "noise": "discrete-gaussian"}, {"kind": "predict", "sigma": 0.25, "noise": "discrete-gaussian"}]
    spec = parse_spec({"certifiers": [plain, *integer]})
    model = ModelFacts(input_shape=(2,), classes=2, parameters=1, operators=(), support=(), largest_tensor=2)

    def facts(x: list[list[float]]) -> DatasetFacts:
        return dataset_facts(build(np.array(x, np.float32), np.zeros(len(x), np.int64)))

    check(spec, model, facts([[0.0, 1.0], [0.2, 0.4]]), None)
    with pytest.raises(InputError) as refused:
        check(spec, model, facts([[0.0, 1.0], [0.2, 0.41]]), None)
    assert [problem.field for problem in refused.value.problems] == ["certifiers.1.noise", "certifiers.2.noise"]
    assert all(problem.mend for problem in refused.value.problems)
    check(parse_spec({"certifiers": [plain]}), model, facts([[0.2, 0.41]]), None)


@pytest.mark.parametrize("kind", ["smoothing", "predict"])
def test_noise_beyond_the_table_is_refused_by_the_spec(kind: str) -> None:
    parse_spec({"certifiers": [{"kind": kind, "noise": "discrete-gaussian", "sigma": 16.0}]})
    parse_spec({"certifiers": [{"kind": kind, "sigma": 16.001}]})
    with pytest.raises(SpecError, match="at most 16"):
        parse_spec({"certifiers": [{"kind": kind, "noise": "discrete-gaussian", "sigma": 16.001}]})


@pytest.mark.parametrize("elements", [1, 3072])
@pytest.mark.parametrize("sigma", [*SIGMAS, 0.33])
def test_slack_covers_the_rounding_of_the_thresholds(sigma: float, elements: int) -> None:
    """d times the exact total variation of one coordinate, sampled law against theorem's law, is at most `slack`, which stays small."""
    with localcontext(prec=DIGITS):
        sampled = law([Decimal(int(t)) / WHOLE for t in thresholds(sigma)])
        variation = sum(abs(a - b) for a, b in zip(sampled, law(exact(sigma)), strict=True)) / 2
    slack = grid_noise(sigma, elements).slack
    assert 0 < elements * variation <= Decimal(slack)
    assert slack < 1e-11


@pytest.mark.parametrize("bound", ["one-sided", "top-two"])
def test_slack_is_taken_off_the_top_class_and_given_to_the_others(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.from_onnx(linear_model(np.array([[1], [-1]], np.float32), np.array([-0.3, 0.3], np.float32)))
    entry = {"sigma": 0.25, "n": 4000, "bound": bound}
    usual = answer(model, [128 / 255], **entry)

    class Sloppy(DiscreteGaussian):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.slack = 0.02

    monkeypatch.setitem(NOISES, "discrete-gaussian", Sloppy)
    found = answer(model, [128 / 255], **entry)
    a, b = usual.evidence, found.evidence
    assert a.counts == b.counts
    assert (a.slack, b.slack) == (grid_noise(0.25, 1).slack, 0.02)
    assert b.pA_lower <= a.pA_lower - 0.02 + 1e-15
    assert b.pA_lower == pytest.approx(a.pA_lower - 0.02, abs=1e-12)
    assert b.pB_upper == pytest.approx(a.pB_upper + 0.02, abs=1e-12)
    assert 0 < found.radius < usual.radius - 0.005
    assert found.radius <= l2_radius(0.25, b.pA_lower, b.pB_upper)
    assert usual.radius <= l2_radius(0.25, step_down(a.pA_lower), a.pB_upper) + 1e-12
