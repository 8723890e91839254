"""How often is a certificate wrong? Simulated classifiers with known p, one-sided exact tests, and negative controls.

A job may be wrong with probability alpha: each certificate when the error rate is per example, any of them when it is family-wise. Each
setting runs the product's own decision on simulated votes (`tests.support.votes`), at least 20,000 times, and fails when the 99.99 %
lower limit of the observed false rate exceeds alpha. Procedures that are known to be wrong must fail the same test.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from math import comb
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special

from certify import Examples
from certify.certificate import SmoothingEvidence
from certify.sampling.noise.gaussian import l2_radius
from certify.sampling.streams import Stage
from certify.smoothing import SmoothingCertifier
from certify.spec import parse_spec
from certify.statistics.binomial import lower_limit
from certify.statistics.sequential import Look, limits
from tests.support.linear import LinearTruth
from tests.support.runs import run_for
from tests.support.votes import Array, Classifiers, Procedure, claims, draw, smoothing

RUNS, FAMILY = 20_000, 10
CLASSES = {
    "two, even": (0.5, 0.5),
    "two, close": (0.52, 0.48),
    "two, clear": (0.9, 0.1),
    "two, nearly sure": (0.999, 0.001),
    "three, even": (1 / 3,) * 3,
    "three, apart": (0.5, 0.3, 0.2),
    "three, second is close": (0.36, 0.34, 0.3),
    "ten, even": (0.1,) * 10,
    "ten, one leads": (0.55, *(0.05,) * 9),
    "ten, equal rivals": (0.28, *(0.08,) * 9),
    "ten, one rival": (0.4, 0.36, *(0.03,) * 8),
    "hundred, even": (0.01,) * 100,
    "hundred, equal rivals": (0.208, *(0.008,) * 99),
    "hundred, one rival": (0.31, 0.2, *(0.005,) * 98),
}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "fixed": {"sampling": "fixed"},
    "largest": {"tolerance": 0.05},
    "radii": {"radii": (0.1, 0.4, 0.8)},
}
# So few selection samples often select the wrong class, which must cost power only.
COMMON = {"n0": 10, "error_rate": "per-example"}
QUICK = [
    ("two, even", "one-sided"),
    ("two, clear", "one-sided"),
    ("two, even", "top-two"),
    ("three, apart", "top-two"),
    ("ten, equal rivals", "top-two"),
    ("hundred, one rival", "top-two"),
]


def false(procedure: Procedure, shares: Sequence[float], runs: int = RUNS, *, adversarial: bool = False) -> Array:
    """For each certification: does it claim a radius above the true one, or a limit on the wrong side of its probability?

    (runs, 2). The true radius of the selected class is that against the true runner-up, and not positive when it does not lead. The
    second question is the stricter one: it asks of each limit what the theorem needs of it.

    Args:
        procedure: what is run.
        shares: probability of each class.
        runs: how many certifications.
        adversarial: stop at the first look at which the claim is false, else go on to the end: the worst rule there is.
    """
    spec = procedure.spec
    seed = [len(shares), spec.n, len(spec.looks), round(1e6 * spec.alpha), round(1000 * shares[0])]
    voters = Classifiers.alike(shares, runs, int(np.random.SeedSequence(seed).generate_state(1)[0]))
    truth = Classifiers.alike(shares, len(shares), 0).true_radius(np.arange(len(shares)), spec.sigma)
    found = claims(procedure, draw(procedure, voters, stop=(lambda mine, proved: proved > truth[mine]) if adversarial else None))
    too_far = (found.radius > 0) & (found.radius > truth[found.selected])
    missed = (found.pA_lower > voters.share(found.selected)) | (found.pB_upper < voters.runner_up(found.selected))
    return np.stack([too_far, missed], axis=1)


def rates(wrong: Array) -> list[float]:
    """The 99.99 % lower limit of each rate."""
    return [lower_limit(int(column.sum()), len(column), 1e-4) for column in wrong.T]


def settings() -> list[Any]:
    """Classes, bound, sampling, alpha and n; all but the quick ones are slow tests."""
    found = []
    for name, bound, sampling, alpha, n in product(CLASSES, ("one-sided", "top-two"), SAMPLINGS, (0.05, 0.01), (100, 1000, 10_000)):
        quick = (name, bound) in QUICK and n == 1000
        # A one-sided limit does not see how many the others are.
        if bound == "top-two" or name.startswith(("two", "three", "ten, one leads")):
            found.append(pytest.param(name, bound, sampling, alpha, n, marks=[] if quick else pytest.mark.slow))
    return found


@pytest.mark.parametrize(("name", "bound", "sampling", "alpha", "n"), settings())
def test_false_certificates_stay_within_alpha(name: str, bound: str, sampling: str, alpha: float, n: int) -> None:
    spec = smoothing(n=n, alpha=alpha, bound=bound, **COMMON, **SAMPLINGS[sampling])
    assert max(rates(false(Procedure(spec), CLASSES[name]))) <= alpha


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("bound", ["one-sided", "top-two"])
@pytest.mark.parametrize("name", ["two, even", "three, apart", "ten, one rival"])
def test_no_stopping_rule_makes_them_more_frequent(name: str, bound: str, alpha: float) -> None:
    spec = smoothing(n=1000, alpha=alpha, bound=bound, **COMMON)
    assert max(rates(false(Procedure(spec), CLASSES[name], adversarial=True))) <= alpha


def any_of(wrong: Array) -> Array:
    """For each job of FAMILY certificates: is any of them false?"""
    return np.asarray(wrong.reshape(-1, FAMILY, 2).any(axis=1))


def families() -> list[Any]:
    """Classes, bound, sampling and alpha of family-wise jobs."""
    quick = {("two, even", "one-sided", "fixed", 0.05), ("three, apart", "top-two", "fixed", 0.05)}
    names = ("two, even", "two, clear", "three, apart", "ten, one rival")
    every = product(names, ("one-sided", "top-two"), SAMPLINGS, (0.05, 0.01))
    return [pytest.param(*one, marks=[] if one in quick else pytest.mark.slow) for one in every]


@pytest.mark.parametrize(("name", "bound", "sampling", "alpha"), families())
def test_false_jobs_stay_within_the_alpha_they_share(name: str, bound: str, sampling: str, alpha: float) -> None:
    spec = smoothing(n=1000, n0=10, alpha=alpha, bound=bound, **SAMPLINGS[sampling])
    assert max(rates(any_of(false(Procedure(spec, FAMILY), CLASSES[name], RUNS * FAMILY)))) <= alpha


# Negative controls: what the tests above must not let pass.


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_reusing_the_selection_sample_is_caught(alpha: float) -> None:
    spec = smoothing(n=1000, n0=1000, alpha=alpha, sampling="fixed", error_rate="per-example")
    assert min(rates(false(Procedure(spec, reuse=True), CLASSES["two, even"]))) > alpha


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_looks_that_are_not_paid_for_are_caught(alpha: float) -> None:
    spec = smoothing(n=1000, alpha=alpha, **COMMON)
    assert min(rates(false(Procedure(spec, unpaid=True), CLASSES["two, even"], adversarial=True))) > alpha


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_a_runner_up_from_the_selection_sample_is_caught(sampling: str, alpha: float) -> None:
    spec = smoothing(n=1000, alpha=alpha, bound="top-two", **COMMON, **SAMPLINGS[sampling])
    assert min(rates(false(Procedure(spec, fixed_rival=True), CLASSES["ten, one rival"]))) > alpha


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_a_family_that_does_not_share_alpha_is_caught(alpha: float) -> None:
    spec = smoothing(n=1000, n0=10, alpha=alpha, sampling="fixed")
    wrong = false(Procedure(spec, FAMILY, unshared=True), CLASSES["two, even"], RUNS * FAMILY)
    assert min(rates(any_of(wrong))) > alpha


# Two classes, exactly: sums of binomial probabilities in rationals, no simulation.


@cache
def misses(n: int, top: int, share: float, alpha: float, bound: Any) -> tuple[Fraction, Fraction, float]:
    """Limits and radius that `top` of `n` votes prove when the other class has the rest."""
    found = limits([Look(n, top, n - top, share)], alpha, bound)
    return Fraction(found.pA_lower), Fraction(found.pB_upper), l2_radius(1.0, found.pA_lower, found.pB_upper)


def missed(p: Fraction, n: int, top: int, share: float, alpha: float, bound: Any) -> bool:
    """Whether a limit is on the wrong side; a radius above the true one is never without that."""
    lower, upper, radius = misses(n, top, share, alpha, bound)
    wrong = lower > p or upper < 1 - p
    truth = float(special.ndtri(float(p)))
    assert wrong or radius <= max(truth, 0.0)
    return wrong


PERCENT = (1, 20, 40, 48, 49, 50, 51, 52, 55, 60, 70, 80, 90, 95, 99)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("bound", ["one-sided", "top-two"])
def test_fixed_runs_of_two_classes_are_false_at_most_alpha_exactly(bound: str, alpha: float) -> None:
    worst = Fraction(0)
    for n, a in product(range(50, 101), PERCENT):
        p = Fraction(a, 100)
        ways = sum(comb(n, k) * a**k * (100 - a) ** (n - k) for k in range(n + 1) if missed(p, n, k, 1.0, alpha, bound))
        worst = max(worst, Fraction(ways, 100**n))
    assert worst <= Fraction(alpha)
    # Not for want of power: some n and p come near to what the bound may spend.
    assert worst >= Fraction(alpha) / (2 if bound == "top-two" else 1) * Fraction(9, 10)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("bound", ["one-sided", "top-two"])
@pytest.mark.parametrize("looks", [(20, 40, 80), (16, 24, 36, 54, 80, 120)])
def test_looking_at_two_classes_is_false_at_most_alpha_exactly(looks: tuple[int, ...], bound: str, alpha: float) -> None:
    spec = smoothing(n=looks[-1], looks=looks, alpha=alpha, bound=bound, **COMMON)
    for a in PERCENT:
        # Ways to arrive at each count without a false claim at any look, in units of 100^-n.
        fine, before, ways_false = {0: 1}, 0, Fraction(0)
        for n, share in zip(looks, spec.shares, strict=True):
            step, after = n - before, dict[int, int]()
            for k, ways in fine.items():
                for more in range(step + 1):
                    after[k + more] = after.get(k + more, 0) + ways * comb(step, more) * a**more * (100 - a) ** (step - more)
            wrong = {k for k in after if missed(Fraction(a, 100), n, k, share, alpha, bound)}
            ways_false += Fraction(sum(after[k] for k in wrong), 100**n)
            fine, before = {k: ways for k, ways in after.items() if k not in wrong}, n
        assert ways_false <= Fraction(alpha)


class Script:
    """Votes that were drawn beforehand: the same for whoever asks, in the order of the looks."""

    def __init__(self, spec: Any, shares: Sequence[float], runs: int) -> None:
        rng = np.random.default_rng(7)
        sizes = np.diff([0, *spec.looks])
        self.tables = {0: rng.multinomial(spec.n0, shares, size=runs)}
        self.tables |= {int(n): rng.multinomial(size, shares, size=runs) for n, size in zip(spec.looks, sizes, strict=True)}
        self.taken = 0
        self.order = [0, *spec.looks]

    def __len__(self) -> int:
        return len(self.tables[0])

    def votes(self, rows: Array, samples: int) -> Array:
        self.taken += 1
        return np.asarray(self.tables[self.order[self.taken - 1]][rows])


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("name", "bound"), [("two, close", "one-sided"), ("three, apart", "one-sided"), ("ten, one leads", "top-two")])
def test_the_simulated_decision_is_the_certifiers(name: str, bound: str, sampling: str) -> None:
    entry = {"kind": "smoothing", "sigma": 1.0, "n": 2000, "n0": 20, "bound": bound, **SAMPLINGS[sampling]}
    job, runs = parse_spec({"certifiers": [entry]}), 300
    spec = job.certifiers[0]
    script = Script(spec, CLASSES[name], runs)

    class Table:
        def votes(self, positions: Any, stage: Stage, start: int, stop: int) -> dict[int, list[int] | None]:
            table = script.tables[0 if stage is Stage.SELECTION else stop]
            return {position: table[position].tolist() for position in positions}

    class Scripted(SmoothingCertifier):
        def ballot(self, *asked: Any) -> Any:
            return Table()

    model = LinearTruth.random(1, 2, seed=0).model()
    examples = Examples(tuple(range(runs)), torch.zeros(runs, 1), torch.zeros(runs, dtype=torch.int64))
    certifier = Scripted(job, 0, model, run_for(job, model, runs))
    certifier.noise.slack = 0.0  # a script has no tail to pay for
    answers = dict(certifier.answers(examples))
    procedure = Procedure(smoothing(**{key: value for key, value in entry.items() if key != "kind"}), runs)
    found = claims(procedure, draw(procedure, script))
    for i in range(runs):
        evidence = answers[i].evidence
        assert isinstance(evidence, SmoothingEvidence)
        assert (evidence.pA_lower, evidence.pB_upper, evidence.n) == (found.pA_lower[i], found.pB_upper[i], found.n[i])
        assert answers[i].radius == pytest.approx(found.radius[i], rel=1e-15)
        assert answers[i].radius <= found.radius[i]
        assert answers[i].prediction == (found.selected[i] if found.radius[i] > 0 else None)
