"""The product's decision on simulated votes, for many certifications at once.

Only the votes are simulated, from known class probabilities. When to stop is asked of the product's `Stopping`, what is proved of its
`limits` and of its noise; `test_coverage` holds this loop against `SmoothingCertifier` itself. The procedures that are wrong on purpose
are here too: tests must be able to tell them from the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from unittest import mock

import numpy as np
from scipy import special

from certify.rounding import step_down
from certify.sampling.noise import gaussian
from certify.sampling.noise.gaussian import Gaussian
from certify.spec import CertifierSpec, SmoothingSpec, parse_spec
from certify.statistics import sequential
from certify.statistics.binomial import lower_limit, normal_quantile_lower, upper_limit
from certify.statistics.sequential import Look, limits
from certify.statistics.stopping import Stopping

Array = np.ndarray[Any, Any]
# A stopping rule of the test's own: from the selected class and the radius proved so far of those that go on, which of them stop.
Stop = Callable[[Array, Array], Array]

# Many certifications meet the same counts; the limits of a count do not change.
_REMEMBERED = {
    (sequential, "lower_limit"): lru_cache(maxsize=2**20)(lower_limit),
    (sequential, "upper_limit"): lru_cache(maxsize=2**20)(upper_limit),
    (gaussian, "normal_quantile_lower"): lru_cache(maxsize=2**20)(normal_quantile_lower),
}


def smoothing(**fields: Any) -> SmoothingSpec:
    """The product's own spec, with its defaults; sigma is 1 unless given."""
    spec: CertifierSpec = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": 1.0, **fields}]}).certifiers[0]
    assert isinstance(spec, SmoothingSpec)
    return spec


@dataclass(frozen=True)
class Procedure:
    """The product's procedure. Each flag below `family` turns it into one that is known to be wrong.

    Attributes:
        spec: as a user would write it.
        family: how many certificates share alpha when the error rate is family-wise.
        unshared: family-wise is claimed, but every certificate spends all of alpha.
        unpaid: every look spends all of alpha.
        reuse: the selection sample is the estimation sample (n0 = n, one look).
        fixed_rival: pB is that of the runner-up of the selection sample.
    """

    spec: SmoothingSpec
    family: int = 1
    unshared: bool = False
    unpaid: bool = False
    reuse: bool = False
    fixed_rival: bool = False

    @property
    def alpha(self) -> float:
        return step_down(self.spec.alpha if self.unshared else self.spec.alpha_each(self.family))

    @property
    def shares(self) -> Sequence[float]:
        return (1.0,) * len(self.spec.looks) if self.unpaid else self.spec.shares

    @property
    def noise(self) -> Gaussian:
        return Gaussian(self.spec.sigma, (1,), "cpu")

    def rule(self) -> Stopping:
        return Stopping(
            looks=self.spec.looks,
            levels=[self.alpha * share for share in self.shares],
            bound=self.spec.bound,
            reach=self.noise.reach,
            radii=self.spec.radii,
            tolerance=self.spec.tolerance or 0.0,
        )


class Voters(Protocol):
    """Something that votes: one row for each certification."""

    def __len__(self) -> int: ...

    def votes(self, rows: Array, samples: int) -> Array:
        """(rows, classes): the next votes of these certifications."""


class Classifiers:
    """Simulated classifiers, whose class probabilities are known; `p` is (runs, classes)."""

    def __init__(self, p: Array, seed: int) -> None:
        self.p = p
        self._rng = np.random.default_rng(seed)

    @classmethod
    def alike(cls, shares: Sequence[float], runs: int, seed: int) -> Classifiers:
        return cls(np.broadcast_to(np.asarray(shares, dtype=float), (runs, len(shares))), seed)

    def __len__(self) -> int:
        return len(self.p)

    def votes(self, rows: Array, samples: int) -> Array:
        return self._rng.multinomial(samples, self.p[rows])

    def share(self, selected: Array) -> Array:
        """The probability of the selected class."""
        return np.asarray(self.p[np.arange(len(self.p)), selected])

    def runner_up(self, selected: Array) -> Array:
        """The largest probability of another class."""
        return _most_of_others(self.p, selected)

    def true_radius(self, selected: Array, sigma: float) -> Array:
        """How far the selected class is the answer; not positive when another class is at least as probable."""
        return np.asarray(sigma / 2 * (special.ndtri(self.share(selected)) - special.ndtri(self.runner_up(selected))))


@dataclass(frozen=True, eq=False)
class Votes:
    """What was seen: `top` and `rival` are (looks, runs), zero after the last look that was taken."""

    selected: Array  # (runs,)
    last: Array  # (runs,), index of the last look taken
    top: Array
    rival: Array
    proved: Array  # (runs,), the largest radius proved at any look, to float64 accuracy


def draw(procedure: Procedure, voters: Voters, *, rule: Stopping | None = None, stop: Stop | None = None) -> Votes:
    """Votes of every certification, look by look, until the rule has seen enough.

    Args:
        procedure: what is run.
        voters: who votes.
        rule: instead of the procedure's own.
        stop: instead of `rule.settled`.
    """
    spec, rule = procedure.spec, rule or procedure.rule()
    runs, going = len(voters), np.arange(len(voters))
    selection = voters.votes(going, spec.n0)
    selected = selection.argmax(axis=1)  # the lowest class of several
    others = selection.copy()
    others[going, selected] = -1
    second = others.argmax(axis=1)
    counts, last, proved = np.zeros_like(selection), np.zeros(runs, dtype=int), np.full(runs, -np.inf)
    top, rival = np.zeros((len(rule.looks), runs), dtype=int), np.zeros((len(rule.looks), runs), dtype=int)
    for look, n in enumerate(rule.looks):
        counts[going] += selection if procedure.reuse else voters.votes(going, n - (rule.looks[look - 1] if look else 0))
        now, mine = counts[going], selected[going]
        top[look, going] = now[np.arange(len(going)), mine]
        rival[look, going] = counts[going, second[going]] if procedure.fixed_rival else _most_of_others(now, mine)
        seen = top[look, going].astype(float), rival[look, going].astype(float)
        proved[going] = np.maximum(proved[going], rule.proved(look, *seen))
        last[going] = look
        done = stop(mine, proved[going]) if stop else rule.settled(look, *seen, proved[going])
        going = going[~done]
        if not len(going):
            break
    return Votes(selected, last, top, rival, proved)


@dataclass(frozen=True, eq=False)
class Claims:
    """What the product says of each certification; `n` are estimation samples."""

    selected: Array
    pA_lower: Array
    pB_upper: Array
    radius: Array
    n: Array


def claims(procedure: Procedure, votes: Votes) -> Claims:
    """The product's `limits` and radius of every certification, each distinct history of counts asked once."""
    histories = np.concatenate([votes.last[None], votes.top, votes.rival]).T
    distinct, back = np.unique(histories, axis=0, return_inverse=True)
    sizes, shares, alpha, noise = procedure.spec.looks, procedure.shares, procedure.alpha, procedure.noise
    answers = np.empty((len(distinct), 3))
    with remembered():
        for row, (last, *counts) in enumerate(distinct.tolist()):
            seen = zip(sizes[: last + 1], counts[: len(sizes)], counts[len(sizes) :], shares, strict=False)
            found = limits([Look(*look) for look in seen], alpha, procedure.spec.bound)
            answers[row] = found.pA_lower, found.pB_upper, noise.radius(found.pA_lower, found.pB_upper)
    pA, pB, radius = answers[back.reshape(-1)].T
    return Claims(votes.selected, pA, pB, radius, np.asarray(sizes)[votes.last])


def _most_of_others(values: Array, selected: Array) -> Array:
    others = np.array(values)
    others[np.arange(len(others)), selected] = -1
    return np.asarray(others.max(axis=1))


@contextmanager
def remembered() -> Iterator[None]:
    """Limits of a count are computed once."""
    with ExitStack() as stack:
        for (module, name), function in _REMEMBERED.items():
            stack.enter_context(mock.patch.object(module, name, function))
        yield
