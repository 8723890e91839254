"""Deterministic l2 certificates from the margin and the network's Lipschitz constants."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds.tripwire import smallest_margin
from certify.certificate import LipschitzEvidence
from certify.certifier import Certifier, Outcome
from certify.errors import Cancelled, ContradictionError, NumericalError
from certify.evaluation.value import Measured, measured
from certify.lipschitz.bound import Bounds, NoConstant
from certify.model import Examples
from certify.norms import Norm
from certify.rounding import beyond, radius_down, show_radius, step_down, step_up
from certify.run import Progress
from certify.spec import LipschitzSpec
from certify.statement import Base, Statement
from certify.verdict import Verdict

# Where no difference of logits depends on the input at all, any radius is proved; this one is stored.
FARTHEST = 1e9


class LipschitzCertifier(Certifier[LipschitzSpec]):
    """No input in the closed l2 ball of the radius gets another answer, in real arithmetic of the uploaded weights.

    For the answer y and every rival j, the difference of their logits moves by at most L_j for each unit of distance, so that y stays
    ahead of j nearer than margin / L_j. The margin is computed in float64 and lowered by its rounding error, L_j is an upper bound with
    its own rounding included, and the radius is strictly below their quotient: the margin is still above zero on the surface.

    Nothing is said about float32 runtimes: at the surface no margin is left for their rounding.

    Source: Tsuzuku, Sato and Sugiyama 2018 (margin over Lipschitz constant); Li et al. 2019 (pairs of logits in the last layer).
    """

    dtype = "float64"

    statement = Statement(base=Base.REAL_ARITHMETIC)

    @cached_property
    def bounds(self) -> Bounds:
        return self.model.lipschitz

    @cached_property
    def _encoder(self) -> float | None:
        """The bound of what the last operator reads."""
        last = self.model.graph.operators[-1]
        try:
            return self.bounds.at(last.inputs[0]) if len(set(last.inputs)) == 1 else None
        except NoConstant:
            return None

    def outcomes(self, examples: Examples) -> Iterator[Outcome]:
        started = self.run.now()
        self._prepare()
        # Every example has its share of what is done once.
        share = (self.run.now() - started) / max(1, len(examples))
        for position in range(len(examples)):
            if self.run.should_stop():
                raise Cancelled
            started = self.run.now()
            outcome = self._outcome(examples.x[position], examples.rows[position])
            yield replace(outcome, seconds=share + self.run.now() - started)
            self.run.on_progress(Progress(certifier=self.index, examples=position + 1))

    def _prepare(self) -> None:
        """The constants, once for the model."""
        _ = self.bounds, self.model.constants, self._encoder

    def _outcome(
        self,
        x: Tensor,  # (*input), float32, raw input units
        row: int,
    ) -> Outcome:
        found = measured(self.model.graph, x.to(self.run.device), self.model.constants)
        with torch.no_grad():
            deployed = self.model.module(self.run.device)(x.to(self.run.device).unsqueeze(0))
        # float64 can hold logits that overflow in the float32 network that people run.
        if not bool(found.value.isfinite().all() and deployed.isfinite().all()):
            return _failed("The input itself gets a NaN or infinite logit: check the weights.")
        prediction = int(found.value.argmax())
        try:
            constants = self.bounds.pairwise(prediction)
        except NoConstant as missing:
            return _failed(f"The network has no Lipschitz bound: {missing}.", prediction)
        if found.reason:
            return _failed(f"The rounding error of the logits is unknown: {found.reason}.", prediction)
        evidence, radius = self._nearest(found, prediction, constants)
        if radius <= 0.0:
            reason = f"The margin over class {evidence.rival} is {evidence.margin_lower + evidence.tau:.3g}, within its rounding error."
            return Outcome(prediction=prediction, verdict=Verdict.UNKNOWN, reason=reason, evidence=evidence)
        try:
            self._try(x, prediction, radius, evidence, row)
        except NumericalError as error:
            return _failed(f"{error}.", prediction)
        return Outcome(prediction=prediction, verdict=Verdict.CERTIFIED, radius=radius, cap=FARTHEST, evidence=evidence)

    def _nearest(self, found: Measured, prediction: int, constants: Sequence[float]) -> tuple[LipschitzEvidence, float]:
        """The rival that is reached first, and how far away it is at least."""
        nearest: tuple[float, LipschitzEvidence] | None = None
        logits = found.value.tolist()
        for rival, constant in enumerate(constants):
            if rival == prediction:
                continue
            tau = _error_of_difference(found, prediction, rival)
            margin = step_down(step_down(logits[prediction] - logits[rival]) - tau)
            reached = distance(margin, constant)
            if nearest is None or reached < nearest[0]:
                evidence = LipschitzEvidence(
                    margin_lower=margin, rival=rival, lipschitz_upper=constant, encoder_upper=self._encoder, tau=tau
                )
                nearest = reached, evidence
        assert nearest is not None
        return nearest[1], min(nearest[0], beyond(FARTHEST))

    def _try(
        self,
        x: Tensor,  # (*input), raw input units
        prediction: int,
        radius: float,
        evidence: LipschitzEvidence,
        row: int,
    ) -> None:
        """
        Raises:
            ContradictionError: an input of the ball gets another answer: the proof is wrong, and no others are trusted.
        """
        module = self.model.module(self.run.device, torch.float64)
        seen = smallest_margin(module, x.to(self.run.device), prediction, norm=Norm.L2, radius=radius_down(radius))
        if seen < -evidence.tau:
            detail = (
                f"certifier {self.index} (lipschitz) proved that the answer stays for example {row} to l2 radius"
                f" {show_radius(radius, 6)}, but an input in that ball has a margin of {seen:.6g}"
            )
            raise ContradictionError.at("results", detail, "this is a defect of the service: report it")


def _error_of_difference(found: Measured, label: int, rival: int) -> float:
    """How far the difference of two computed logits can be from real arithmetic: each apart, or both together in l2."""
    apart = float(found.each[label]) + float(found.each[rival])
    return step_up(min(apart, math.sqrt(2.0) * found.error), 4)


def distance(margin: float, constant: float) -> float:
    """Strictly nearer than this the margin stays above zero; infinite when it never moves, 0 when there is no margin."""
    if not margin > 0.0:
        return 0.0
    return step_down(margin / constant) if constant > 0.0 else math.inf


def _failed(reason: str, prediction: int | None = None) -> Outcome:
    return Outcome(prediction=prediction, verdict=Verdict.ERROR, reason=reason)
