"""Deterministic certificates by bound propagation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds import lirpa_compat
from certify.bounds.engine import LirpaEngine, MarginBound
from certify.bounds.frugal import Frugal, OutOfMemory, frugally
from certify.bounds.ladder import LADDERS, Ladder, OutOfTime
from certify.bounds.memory import Allowance
from certify.bounds.refutation import refute
from certify.bounds.rows import walk_in_parts
from certify.bounds.scout import Scout
from certify.bounds.tripwire import smallest_margin
from certify.certificate import BoundsEvidence
from certify.certifier import Certifier, Outcome
from certify.errors import ContradictionError, NumericalError
from certify.heap import collect, giving_back
from certify.model import Examples
from certify.rounding import beyond, show_distance_upper, show_given, show_radius
from certify.run import Progress
from certify.spec import BoundsSpec
from certify.statement import Base, Statement
from certify.verdict import Verdict


class BoundsCertifier(Certifier[BoundsSpec]):
    """No input in the closed ball of the radius gets another answer, in real arithmetic of the uploaded weights.

    In `epsilon` mode the claim is that the label is the answer in the whole ball; otherwise that the model's own answer is. Every
    bound is computed in float64, for one example at a time, and counts only beyond its own rounding error `tau`. With `clip`, linf
    balls are cut to the model's value range. What is verified is a ball a few last places larger than the one that is asked for, so that a
    row can say exactly the epsilon, or the cap of the search, and still no more than was proved.

    The evidence names the method that proved the stored radius; `best` climbs from cheap to tight while a radius is undecided. Methods
    that need more memory than the plan allows are left out, and those that find none are given up: the reason says so.

    Source: Gowal et al. 2018 (IBP); Zhang et al. 2018 (CROWN), 2020 (CROWN-IBP); Xu et al. 2021 (alpha-CROWN).
    """

    dtype = "float64"

    @cached_property
    def statement(self) -> Statement:
        return Statement(base=Base.REAL_ARITHMETIC, clipped=self.clipped)

    @cached_property
    def engine(self) -> LirpaEngine:
        engine = LirpaEngine(self.model.graph, self.norm, self.value_range, self.run.device, self.spec.iterations)
        walk_in_parts()
        return engine

    @cached_property
    def ladder(self) -> Ladder:
        frugal = Frugal(self.engine, Scout(self.engine))
        return Ladder(frugal, frugal, self._allowance.methods, self.run.should_stop, self._is_late)

    def _is_late(self) -> bool:
        limit = self.spec.timeout_seconds
        return limit is not None and self.run.now() - self._started > limit

    @cached_property
    def _allowance(self) -> Allowance:
        return Allowance(self.model.graph, LADDERS[self.spec.method], self.run.plan.memory)

    @property
    def engine_version(self) -> str:
        return f"auto-LiRPA {lirpa_compat.engine_version()}"

    @property
    def clipped(self) -> bool:
        """Whether the balls are cut to the model's declared value range."""
        return self.job.clips(self.index)

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The range that the balls are cut to; null where they are whole."""
        return self.model.value_range if self.clipped else None

    def outcomes(self, examples: Examples) -> Iterator[Outcome]:
        with giving_back():
            for position in range(len(examples)):
                self._started, self._row = self.run.now(), examples.rows[position]
                yield self._answer(examples.x[position], int(examples.y[position]))
                self.run.on_progress(Progress(certifier=self.index, examples=position + 1))

    def _answer(
        self,
        x: Tensor,  # (*input), float32, raw input units
        label: int,
    ) -> Outcome:
        """The outcome by the methods there is memory for."""
        while True:
            try:
                return frugally("", lambda: self._outcome(x, label))
            except OutOfTime:
                return Outcome(prediction=None, verdict=Verdict.TIMEOUT, epsilon_verified=self._unless_search(False))
            except NumericalError as error:
                return Outcome(prediction=None, verdict=Verdict.ERROR, reason=f"{error}.", epsilon_verified=self._unless_search(False))
            except OutOfMemory as error:
                self._allowance.give_up(error.method)
            # The engine broke off somewhere.
            for name in ("ladder", "engine"):
                self.__dict__.pop(name, None)
            collect()

    def _outcome(
        self,
        x: Tensor,  # (*input), float32, raw input units
        label: int,
    ) -> Outcome:
        if not self._allowance.methods:
            return self._unanswered(x, label)
        self.ladder.begin()
        logits = self.engine.logits(x)
        prediction = int(logits.argmax())
        if self.spec.epsilon is not None:
            return self._at_epsilon(x, label, prediction, self.spec.epsilon)
        return self._largest(x, prediction)

    def _unanswered(
        self,
        x: Tensor,  # (*input), float32, raw input units
        label: int,
    ) -> Outcome:
        """Without any method there is only the answer at the input itself."""
        prediction = int(self.model.module(self.run.device)(x.to(self.run.device).unsqueeze(0)).argmax())
        if self.spec.epsilon is not None and prediction != label:
            return self._fails_at_once(prediction, label)
        reason = self._allowance.left_out
        return Outcome(prediction=prediction, verdict=Verdict.UNKNOWN, reason=reason, epsilon_verified=self._unless_search(False))

    def _at_epsilon(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        prediction: int,
        epsilon: float,
    ) -> Outcome:
        if prediction != label:
            return self._fails_at_once(prediction, label)
        radius = beyond(epsilon)
        bound = self.ladder.margin(x, label, radius)
        if not bound.proved:
            if found := self._refuted(x, label, prediction, epsilon, bound):
                return found
            reason = (
                f"{bound.method} cannot prove epsilon = {show_given(epsilon)}: its margin bound is {bound.lower:.6g}; a tighter method may."
            )
            evidence = self._evidence(bound)
            return Outcome(
                prediction=prediction, verdict=Verdict.UNKNOWN, reason=self._and_why(reason), epsilon_verified=False, evidence=evidence
            )
        return self._certified(x, prediction, radius, bound, cap=epsilon, epsilon_verified=True)

    def _refuted(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        prediction: int,
        epsilon: float,
        bound: MarginBound,
    ) -> Outcome | None:
        """The outcome when an input in the ball is found that gets another answer."""
        found = refute(self.model, x, label, norm=self.norm, epsilon=epsilon, value_range=self.value_range, device=self.run.device)
        if found is None:
            return None
        evidence = self._evidence(bound).model_copy(update={"counterexample": found.encoded(), "distance_upper": found.distance_upper})
        reason = f"An input at distance {show_distance_upper(found.distance_upper, 6)} or less is answered {found.answer}, not {label}."
        return Outcome(prediction=prediction, verdict=Verdict.REFUTED, reason=reason, epsilon_verified=False, evidence=evidence)

    def _largest(
        self,
        x: Tensor,  # (*input), raw input units
        prediction: int,
    ) -> Outcome:
        assert self.spec.max_radius is not None
        assert self.spec.tolerance is not None
        cap = self.spec.max_radius
        found = self.ladder.largest(x, prediction, beyond(cap), self.spec.tolerance)
        if found is None:
            reason = f"{self._allowance.methods[-1]} proves no radius up to {show_given(self.spec.max_radius)}; a tighter method may."
            evidence = self._evidence(MarginBound(float("nan"), 0.0))
            return Outcome(prediction=prediction, verdict=Verdict.UNKNOWN, reason=self._and_why(reason), evidence=evidence)
        outcome = self._certified(x, prediction, found.radius, found.bound, cap=cap, at_cap=found.at_cap)
        return outcome if found.at_cap else replace(outcome, reason=self._and_why(self._holds))

    def _certified(
        self,
        x: Tensor,  # (*input), raw input units
        prediction: int,
        radius: float,
        bound: MarginBound,
        *,
        cap: float,
        at_cap: bool = False,
        epsilon_verified: bool | None = None,
    ) -> Outcome:
        bound = self.engine.rounded(bound, x, prediction, radius)
        self._try(x, prediction, radius, bound)
        return Outcome(
            prediction=prediction,
            verdict=Verdict.CERTIFIED,
            reason=self._holds,
            radius=radius,
            cap=cap,
            epsilon_verified=epsilon_verified,
            evidence=self._evidence(bound, at_cap=at_cap),
            statement=replace(self.statement, base=Base.FLOAT32_RUNTIME) if bound.holds_in_float32 else None,
        )

    def _try(
        self,
        x: Tensor,  # (*input), raw input units
        prediction: int,
        radius: float,
        bound: MarginBound,
    ) -> None:
        """
        Raises:
            ContradictionError: an input of the ball shows a smaller margin than was proved: the proof is wrong, and no others are trusted.
        """
        module, value_range = self.model.module(self.run.device, torch.float64), self.engine.value_range
        seen = smallest_margin(module, x.to(self.run.device), prediction, norm=self.norm, radius=radius, value_range=value_range)
        if seen < bound.lower - bound.tau:
            detail = (
                f"certifier {self.index} (bounds, {bound.method}) proved a margin of {bound.lower:.6g}, with a rounding margin of"
                f" {bound.tau:.3g}, for example {self._row} to {self.norm} radius {show_radius(radius, 6)}, but an input in that ball has"
                f" {seen:.6g}"
            )
            raise ContradictionError.at("results", detail, "this is a defect of the service: report it")

    def _evidence(self, bound: MarginBound, *, at_cap: bool = False) -> BoundsEvidence:
        return BoundsEvidence(
            method=bound.method or self.spec.method,
            margin_lower=bound.lower if abs(bound.lower) < float("inf") else None,
            tau=bound.tau if bound.tau < float("inf") else None,
            dtype="float64",
            at_cap=at_cap,
            clipped=self.clipped,
            value_range=self.value_range,
            float32_error=bound.float32_error if bound.float32_error < float("inf") else None,
        )

    @staticmethod
    def _fails_at_once(prediction: int, label: int) -> Outcome:
        reason = f"The input itself is answered {prediction}, not {label}: the claim already fails at radius 0."
        return Outcome(prediction=prediction, verdict=Verdict.REFUTED, reason=reason, epsilon_verified=False)

    @property
    def _holds(self) -> str:
        """What was proved, in a sentence that says so where it is not the whole ball."""
        if self.value_range is None:
            return Verdict.CERTIFIED.sentence
        low, high = self.value_range
        return f"The answer provably stays the same inside the radius, for inputs of the declared range {low!r} to {high!r} only."

    def _and_why(self, reason: str) -> str:
        """A reason, and what more memory might have changed."""
        return f"{reason} {self._allowance.left_out}".strip()

    def _unless_search(self, answer: bool) -> bool | None:
        return answer if self.spec.epsilon is not None else None
