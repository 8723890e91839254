"""Attacks as a spec lists them: distances at which the answer was seen to change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from certify.attacks.apgd import apgd
from certify.attacks.base import Attack, Classify, Counterexample
from certify.attacks.pgd import pgd
from certify.attacks.refutation import Refutation, room, settled
from certify.attacks.search import minimal_distance
from certify.certifier import Finder
from certify.errors import Cancelled
from certify.findings import AttackResult
from certify.model import Examples
from certify.norms import Norm
from certify.rounding import show_distance_upper, show_given
from certify.run import Progress
from certify.spec import AttackSpec

ATTACKS: dict[str, Attack] = {"apgd": apgd, "pgd": pgd}
# Further along the way from the example, should rounding to float32 undo a counterexample that lies on the boundary.
_FURTHER = (1.0, 1.0 + 1e-6, 1.0 + 1e-5, 1.0 + 1e-4, 1.0 + 1e-3, 1.0 + 1e-2)
# The share of the largest logit by which another answer should lead, so that other runtimes see it too.
_LEAD = 1e-5


@dataclass(frozen=True, kw_only=True)
class AttackOutcome:
    """What was found about one example; `reason` says why nothing was tried."""

    prediction: int | None
    found: Refutation | None = None
    reason: str = ""
    seconds: float | None = None


class Attacker(Finder[AttackSpec, AttackOutcome]):
    """An input with another answer than the example's own, as near as gradients lead. Where none is found, nothing is proved.

    Every find is rounded to float32 and evaluated again, in float32 and float64; its distance is rounded up. Random starts follow from
    the spec's seed, the certifier and the dataset row alone: the same examples get the same results however they are split up.
    """

    dtype = "float64"

    def outcomes(self, examples: Examples) -> Iterator[AttackOutcome]:
        for position, row in enumerate(examples.rows):
            yield self._outcome(examples.x[position].to(self.run.device), row)
            self.run.on_progress(Progress(certifier=self.index, examples=position + 1))

    def finding(self, outcome: AttackOutcome, row: int, label: int, seconds: float) -> AttackResult:
        found = outcome.found
        return AttackResult(
            example=row,
            certifier=self.index,
            method=self.spec.method,
            label=label,
            prediction=outcome.prediction,
            correct=outcome.prediction == label,
            found=found is not None,
            answer=None if found is None else found.answer,
            distance_upper=None if found is None else found.distance_upper,
            norm=self.norm,
            max_radius=self.spec.max_radius,
            clipped=self._range is not None,
            counterexample=None if found is None else found.encoded(),
            reason=outcome.reason or self._said(outcome),
            provenance=self.provenance(),
            seconds=seconds,
        )

    def _said(self, outcome: AttackOutcome) -> str:
        if outcome.found is None:
            return f"No input with another answer was found up to {show_given(self.spec.max_radius)}, which proves nothing."
        distance = show_distance_upper(outcome.found.distance_upper, 6)
        return f"An input at {self.norm} distance {distance} or less is answered {outcome.found.answer}, not {outcome.prediction}."

    def _outcome(
        self,
        x: Tensor,  # (*input), float32
        row: int,
    ) -> AttackOutcome:
        self._poll()
        with torch.no_grad():
            logits = [self.model.module(self.run.device, dtype)(x.to(dtype).unsqueeze(0))[0] for dtype in (torch.float64, torch.float32)]
        if not all(bool(one.isfinite().all()) for one in logits):
            return AttackOutcome(prediction=None, reason="The input itself gets a NaN or infinite logit; check the weights.")
        prediction = int(logits[0].argmax())
        return AttackOutcome(prediction=prediction, found=self._nearest(x, prediction, row))

    def _nearest(
        self,
        x: Tensor,  # (*input), float32
        prediction: int,
        row: int,
    ) -> Refutation | None:
        radius = room(x, self.norm, self.spec.max_radius)
        if radius <= 0.0:
            return None
        found = minimal_distance(
            self.model.module(self.run.device, torch.float64),
            x,
            prediction,
            norm=self.norm,
            max_radius=radius,
            generator=self._generator(row),
            attack=self._attack,
            steps=self.spec.steps,
            restarts=self.spec.restarts,
            value_range=self._range,
            poll=self._poll,
        )
        if found is None:
            return None
        return self._settled(x, found, prediction, _LEAD) or self._settled(x, found, prediction, 0.0)

    def _settled(
        self,
        x: Tensor,  # (*input), float32
        found: Counterexample,
        prediction: int,
        beyond: float,
    ) -> Refutation | None:
        way = found.x - x.double()
        return settled(
            self.model, x, (x.double() + share * way for share in _FURTHER), prediction, norm=self.norm, limit=self.spec.max_radius,
            value_range=self._range, device=self.run.device, beyond=beyond,
        )  # fmt: skip

    @property
    def _range(self) -> tuple[float, float] | None:
        # What lies in the range lies in clipped and in whole balls alike; without `clip` nobody claims less than the whole ball.
        return self.model.value_range if self.job.clip else None

    def _generator(self, row: int) -> torch.Generator:
        name = f"assay/attack/{self.job.seed}/{self.index}/{row}".encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:7], "big"))

    @cached_property
    def _attack(self) -> Attack:
        """The spec's attack, on no more points at once than fit into memory."""
        attack = ATTACKS[self.spec.method]
        # Forwards and backwards in float64, every value of the network kept.
        at_once = max(1, self.run.plan.memory // (32 * self.model.graph.values()))

        def in_parts(
            classify: Classify,
            x: Tensor,  # (*input)
            label: int,
            *,
            norm: Norm,
            radius: float,
            generator: torch.Generator,
            steps: int = 50,
            restarts: int = 5,
            value_range: tuple[float, float] | None = None,
            start: Tensor | None = None,  # (*input)
            targets: Sequence[int] = (),
        ) -> Counterexample | None:
            for first in range(0, restarts, at_once):
                count = min(at_once, restarts - first)
                found = attack(
                    classify, x, label, norm=norm, radius=radius, generator=generator, steps=steps, restarts=count,
                    value_range=value_range, start=start, targets=targets,
                )  # fmt: skip
                if found is not None:
                    return found
            return None

        return in_parts

    def _poll(self) -> None:
        if self.run.should_stop():
            raise Cancelled
