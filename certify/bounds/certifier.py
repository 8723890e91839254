"""Deterministic certificates by bound propagation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from torch import Tensor

from certify.bounds.engine import LirpaEngine, MarginBound
from certify.bounds.radius import largest_radius
from certify.certificate import BoundsEvidence
from certify.certifier import Certifier, Outcome
from certify.errors import Cancelled, NumericalError
from certify.model import Examples
from certify.norms import Norm
from certify.rounding import step_up
from certify.run import Progress
from certify.spec import BoundsSpec
from certify.verdict import Verdict


class BoundsCertifier(Certifier[BoundsSpec]):
    """No input in the closed ball of the radius gets another answer, in real arithmetic of the uploaded weights.

    In `epsilon` mode the claim is that the label is the answer in the whole ball; otherwise that the model's own answer is. Every
    bound is computed in float64, for one example at a time, and counts only beyond the rounding margin `tau`. With `clip`, linf
    balls are cut to the model's value range.

    Source: Gowal et al. 2018 (IBP); Zhang et al. 2018 (CROWN).
    """

    dtype = "float64"

    @property
    def statement(self) -> str:
        return "real-arithmetic"

    @cached_property
    def engine(self) -> LirpaEngine:
        return LirpaEngine(self.model.graph, self.spec.method, self.norm, self.model.value_range if self.clipped else None, self.run.device)

    @property
    def engine_version(self) -> str:
        return self.engine.version

    @property
    def clipped(self) -> bool:
        return self.job.clip and self.norm is Norm.LINF

    def outcomes(self, examples: Examples) -> Iterator[Outcome]:
        for position in range(len(examples)):
            try:
                yield self._outcome(examples.x[position], int(examples.y[position]))
            except NumericalError as error:
                yield Outcome(prediction=None, verdict=Verdict.ERROR, reason=f"{error}.", epsilon_verified=self._unless_search(False))
            self.run.on_progress(Progress(certifier=self.index, examples=position + 1))

    def _outcome(
        self,
        x: Tensor,  # (*input), float32, raw input units
        label: int,
    ) -> Outcome:
        logits = self.engine.logits(x)
        prediction = int(logits.argmax())
        if self.spec.epsilon is not None:
            return self._at_epsilon(x, label, prediction, self.spec.epsilon)
        rivals = logits.clone()
        rivals[prediction] = float("-inf")
        return self._largest(x, prediction, float(logits[prediction] - rivals.max()))

    def _at_epsilon(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        prediction: int,
        epsilon: float,
    ) -> Outcome:
        if prediction != label:
            reason = f"The input itself is answered {prediction}, not {label}: the claim already fails at radius 0."
            return Outcome(prediction=prediction, verdict=Verdict.REFUTED, reason=reason, epsilon_verified=False)
        # Verified a little further out, so that the stored radius, rounded down, still covers epsilon.
        radius = step_up(epsilon, 4)
        bound = self._verify(x, label, radius)
        if not bound.proved:
            reason = f"{self.spec.method} cannot prove epsilon = {epsilon:g}: its margin bound is {bound.lower:.6g}; a tighter method may."
            return Outcome(
                prediction=prediction, verdict=Verdict.UNKNOWN, reason=reason, epsilon_verified=False, evidence=self._evidence(bound)
            )
        return Outcome(
            prediction=prediction, verdict=Verdict.CERTIFIED, radius=radius, epsilon_verified=True, evidence=self._evidence(bound)
        )

    def _largest(
        self,
        x: Tensor,  # (*input), raw input units
        prediction: int,
        centre_margin: float,
    ) -> Outcome:
        assert self.spec.max_radius is not None
        assert self.spec.tolerance is not None
        found = largest_radius(lambda r: self._verify(x, prediction, r), centre_margin, self.spec.max_radius, self.spec.tolerance)
        if found is None:
            return Outcome(
                prediction=prediction,
                verdict=Verdict.UNKNOWN,
                reason=f"{self.spec.method} proves no radius up to {self.spec.max_radius:g}; a tighter method may.",
                evidence=self._evidence(MarginBound(float("nan"), 0.0)),
            )
        evidence = self._evidence(found.bound, at_cap=found.at_cap)
        return Outcome(prediction=prediction, verdict=Verdict.CERTIFIED, radius=found.radius, evidence=evidence)

    def _verify(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        radius: float,
    ) -> MarginBound:
        if self.run.should_stop():
            raise Cancelled
        return self.engine.margin(x, label, radius)

    def _evidence(self, bound: MarginBound, *, at_cap: bool = False) -> BoundsEvidence:
        return BoundsEvidence(
            method=self.spec.method,
            margin_lower=bound.lower if abs(bound.lower) < float("inf") else None,
            tau=bound.tau,
            dtype="float64",
            at_cap=at_cap,
            clipped=self.clipped,
        )

    def _unless_search(self, answer: bool) -> bool | None:
        return answer if self.spec.epsilon is not None else None
