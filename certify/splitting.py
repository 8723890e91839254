"""Deterministic splitting noise (DSSN): an l1 radius without statistics, from the votes of all copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from certify.certificate import SplittingEvidence
from certify.certifier import Outcome
from certify.model import Examples
from certify.run import public_key
from certify.sampling.certifier import SamplingCertifier
from certify.sampling.noise.base import Array
from certify.sampling.noise.grid import LEVELS
from certify.sampling.noise.splitting import Splitting, digest, make_template
from certify.sampling.place import Point
from certify.sampling.streams import Stage
from certify.spec import SplittingSpec
from certify.statement import Base, Statement
from certify.verdict import Verdict


class SplittingCertifier(SamplingCertifier[SplittingSpec]):
    """No input on the 1/255 grid in the closed l1 ball of the radius gets another answer from g. Exact: no alpha.

    g(x) is the class with the most votes of f over all `levels` copies of x, ties to the lowest class; f is the submitted model, ties
    to the lowest class too. The template of the copies is part of g: one for all examples, from the seed.

    Proof. Inputs at l1 distance D / 255 share all but D of their copies (`Splitting`). So, from x to x', A loses at most D votes and
    each rival c gains at most D: n_A' - n_c' >= n_A - n_c - 2 D. A still wins over c while that is at least [c < A], that is while
    D <= (n_A - n_c - [c < A]) / 2; the radius is the least of these floors over all rivals, not the runner-up's alone.

    Source: Levine & Feizi 2021, "Improved, deterministic smoothing for l1 certified robustness", on DSSN.
    """

    @property
    def statement(self) -> Statement:
        return Statement(base=Base.EXACT_GRID, precision=self.spec.precision)

    @cached_property
    def noise(self) -> Splitting:
        return Splitting(self.spec.sigma, self.spec.levels, self._template, self.run.device)

    @property
    def least(self) -> int:
        return self.spec.levels

    def answers(self, examples: Examples) -> Iterator[tuple[int, Outcome]]:
        everyone = range(len(examples))
        ballot = self.ballot(examples, [Point(x) for x in examples.x], [self.noise] * len(examples), self.model)
        for position, counts in ballot.votes(everyone, Stage.PREDICTION, 0, self.spec.levels).items():
            yield position, self.broken() if counts is None else self._outcome(counts)

    def _outcome(self, counts: Sequence[int]) -> Outcome:
        top, steps = lead(counts)
        evidence = SplittingEvidence(
            sigma=self.spec.sigma,
            levels=self.spec.levels,
            counts=tuple(counts),
            template=digest(self._template),
            precision=self.spec.precision,
        )
        exact = f"The smoothed classifier answers class {top} at the input, exactly; its lead in votes is too small for a radius of 1/255."
        return Outcome(
            prediction=top,
            verdict=Verdict.CERTIFIED,
            reason="" if steps else exact,
            # Grid inputs lie whole steps apart: every radius below the next one proves the same ball, that of `steps` among them.
            radius=(steps + 0.5) / LEVELS,
            cap=steps / LEVELS,
            evidence=evidence,
        )

    @cached_property
    def _template(self) -> Array:
        return make_template(public_key(self.job), self.spec.levels, self.model.input_shape)


def lead(counts: Sequence[int]) -> tuple[int, int]:
    """The winner, ties to the lowest class, and how many votes may move from it to any one rival before it stops winning.

    Args:
        counts: votes by class, at least two classes.
    """
    top = max(range(len(counts)), key=counts.__getitem__)
    return top, min((counts[top] - votes - (rival < top)) // 2 for rival, votes in enumerate(counts) if rival != top)
