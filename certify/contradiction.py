"""Two results that cannot both be true: an input with another answer, inside a ball in which the answer was proved to stay.

Either the proof is wrong or the program is: nothing is averaged away, both rows are named, and the job fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from certify.attacks.geometry import ORDER, distance_upper
from certify.attacks.refutation import decoded
from certify.certificate import BoundsEvidence, Certificate, LipschitzEvidence, SplittingEvidence
from certify.errors import Problem
from certify.findings import AttackResult, counterexample_of
from certify.model import Examples, Model
from certify.norms import Norm
from certify.rounding import show_distance_upper, show_radius
from certify.run import Plan, Run, public_key
from certify.sampling.noise.grid import LEVELS, grid_levels
from certify.spec import Spec
from certify.statement import Base
from certify.verb import certify
from certify.verdict import Verdict

_DIGITS = 6
_NAMED = 5
# What float64 may do to a margin in a forward pass, as a share of the largest logit: far more than it does.
_ROUNDING = 2.0**-40
# Kinds whose balls contain their surface. What is not listed is taken as open: nothing is flagged for a tie alone.
CLOSED = frozenset({"bounds", "dssn", "lipschitz"})

Row = Certificate | AttackResult


@dataclass(frozen=True)
class Answer:
    """Another answer inside a ball: how far from the example, in the ball's norm and rounded up, and what it is.

    `margin`, negative, is by how much the certified answer leads there, in what `unit` says.
    """

    distance_upper: float
    answer: int
    margin: float
    unit: str


@dataclass(frozen=True)
class Contradiction:
    """A certificate, the row that led to an input of its ball with another answer, and that answer."""

    certificate: Certificate
    other: Row
    seen: Answer

    def problem(self) -> Problem:
        """One sentence that names both rows."""
        proved, seen = self.certificate, self.seen
        detail = (
            f"certifier {proved.certifier} ({_name(proved)}, {proved.statement}) certifies example {proved.example} as class"
            f" {proved.prediction} to {proved.norm} radius {show_radius(proved.radius, _DIGITS)}, but {self._other()} is at {proved.norm}"
            f" distance {show_distance_upper(seen.distance_upper, _DIGITS)} or less and is answered {seen.answer}: {seen.unit} is"
            f" {seen.margin:.6g}, beyond the rounding margin {_tau(proved):.3g}"
        )
        return Problem(field="results", detail=detail, mend="this is a defect of the service: report it with both rows")

    def _other(self) -> str:
        what = "the input found" if isinstance(self.other, AttackResult) else "the input that refutes the claim"
        near = ", moved to the 1/255 grid," if isinstance(self.certificate.evidence, SplittingEvidence) else ""
        return f"{what} by certifier {self.other.certifier} ({_name(self.other)}, {self.other.norm}) for example {self.other.example}{near}"


def suspects(findings: Sequence[Row]) -> list[tuple[Certificate, Row]]:
    """Every deterministic certificate with every row of the same example that keeps an input with another answer."""
    shown: dict[int, list[Row]] = {}
    for finding in findings:
        if counterexample_of(finding) is not None:
            shown.setdefault(finding.example, []).append(finding)
    certificates = (finding for finding in findings if isinstance(finding, Certificate) and _proves(finding))
    return [(proved, other) for proved in certificates for other in shown.get(proved.example, ())]


def contradictions(
    pairs: Sequence[tuple[Certificate, Row]], inputs: Callable[[int], Tensor], model: Model, spec: Spec, plan: Plan
) -> list[Contradiction]:
    """Those of the pairs that cannot both be true.

    The stored input lies in the certificate's ball, which is decided in exact arithmetic and in the certificate's own norm, and in the
    value range where the ball is cut to it; and the classifier of the certificate's statement, asked again, answers it otherwise. The
    network is asked in float64, and its margin must be negative by more than the certificate's rounding margin.

    Args:
        pairs: from `suspects`.
        inputs: the example of a dataset row, (*input), float32, raw input units.
        model: the model of the job.
        spec: of the job.
        plan: of the job.
    """
    found = []
    for proved, other in pairs:
        text, x = counterexample_of(other), inputs(proved.example)
        assert text is not None
        seen = _JUDGES[proved.statement.base](proved, x, decoded(text, tuple(x.shape)), _Court(model, spec, plan))
        if seen is not None:
            found.append(Contradiction(proved, other, seen))
    return found


def problems(found: Sequence[Contradiction]) -> tuple[Problem, ...]:
    """What to tell about contradictions: the first ones in full, and how many more there are."""
    named = [one.problem() for one in found[:_NAMED]]
    if len(found) > _NAMED:
        more = f"{len(found) - _NAMED} more pairs of rows contradict each other"
        named.append(Problem(field="results", detail=more, mend="report this too"))
    return tuple(named)


def within(
    a: Tensor,  # (*input), float32
    b: Tensor,  # (*input), float32
    norm: Norm,
    radius: float,
    *,
    closed: bool,
) -> bool:
    """Whether the distance of two points is below `radius`, or equal to it where `closed`: exactly, in rational arithmetic."""
    near = float(torch.linalg.vector_norm((a.double() - b.double()).flatten(), ORDER[norm]))
    if abs(near - radius) > 1e-6 * radius:  # far from the surface, where no rounding decides
        return near < radius
    differences = [abs(Fraction(p) - Fraction(q)) for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)]
    limit = Fraction(radius)
    if norm is Norm.L2:
        distance, limit = sum((d * d for d in differences), Fraction(0)), limit * limit
    else:
        distance = max(differences, default=Fraction(0)) if norm is Norm.LINF else sum(differences, Fraction(0))
    return distance <= limit if closed else distance < limit


@dataclass(frozen=True)
class _Court:
    """What it takes to ask a classifier again."""

    model: Model
    spec: Spec
    plan: Plan


def _by_the_network(
    proved: Certificate,
    x: Tensor,  # (*input), float32
    tried: Tensor,  # (*input), float32
    court: _Court,
) -> Answer | None:
    value_range = court.model.value_range
    if proved.statement.clipped and (value_range is None or float(tried.min()) < value_range[0] or float(tried.max()) > value_range[1]):
        return None
    if not within(tried, x, proved.norm, proved.radius, closed=proved.kind in CLOSED):
        return None
    with torch.no_grad():
        logits = court.model.module("cpu", torch.float64)(tried.double().unsqueeze(0))[0]
    if proved.prediction is None or not bool(logits.isfinite().all()):
        return None
    others = logits.clone()
    others[proved.prediction] = -torch.inf
    margin = float(logits[proved.prediction] - others.max())
    if margin >= -_tau(proved) - _ROUNDING * float(logits.abs().max()):
        return None
    return Answer(distance_upper(tried, x, proved.norm), int(logits.argmax()), margin, "its margin in float64")


def _by_the_votes(
    proved: Certificate,
    x: Tensor,  # (*input), float32
    tried: Tensor,  # (*input), float32
    court: _Court,
) -> Answer | None:
    """The statement is about the smoothed classifier and inputs on the grid: that classifier is asked, at the nearest of them."""
    levels = (tried.double() * LEVELS).round().clamp(0, LEVELS)
    steps = int((levels - grid_levels(x).double()).abs().sum())
    # Votes of another kind of device may differ in a tie of two logits.
    if steps == 0 or Fraction(steps, LEVELS) > Fraction(proved.radius) or proved.provenance.device != "cpu":
        return None
    moved = (levels / LEVELS).float()
    run = Run(
        plan=court.plan,
        noise_key=public_key(court.spec),  # the copies follow from the seed
        provenance=proved.provenance,
        now=lambda: 0.0,
        certifiers=(proved.certifier,),
    )
    [again] = certify(court.model, Examples((proved.example,), moved.unsqueeze(0), torch.tensor([proved.label])), court.spec, run)
    if not isinstance(again, Certificate) or not isinstance(again.evidence, SplittingEvidence) or again.prediction is None:
        return None
    if again.prediction == proved.prediction or proved.prediction is None:
        return None
    votes = again.evidence.counts
    lead = votes[proved.prediction] - votes[again.prediction]
    return Answer(distance_upper(moved, x, proved.norm), again.prediction, lead, "its lead in votes")


_JUDGES: Mapping[Base, Callable[[Certificate, Tensor, Tensor, _Court], Answer | None]] = {
    Base.REAL_ARITHMETIC: _by_the_network,
    Base.FLOAT32_RUNTIME: _by_the_network,
    Base.EXACT_GRID: _by_the_votes,
}


def _proves(certificate: Certificate) -> bool:
    """Statements about a smoothed classifier that was only sampled are not among them: an input of the network says nothing there."""
    known = certificate.alpha is None and certificate.statement.base in _JUDGES
    return known and certificate.verdict is Verdict.CERTIFIED and certificate.radius > 0


def _name(finding: Row) -> str:
    method = finding.method if isinstance(finding, AttackResult) else getattr(finding.evidence, "method", "")
    return f"{finding.kind}, {method}" if method else finding.kind


def _tau(proved: Certificate) -> float:
    return (proved.evidence.tau or 0.0) if isinstance(proved.evidence, BoundsEvidence | LipschitzEvidence) else 0.0
