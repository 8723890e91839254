"""Two results that cannot both be true: an input with another answer, inside a ball in which the answer was proved to stay.

Either the proof is wrong or the program is: nothing is averaged away, both rows are named, and the job fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from certify.attacks.geometry import ORDER, distance_upper
from certify.attacks.refutation import decoded
from certify.certificate import BoundsEvidence, Certificate
from certify.errors import Problem
from certify.findings import AttackResult, counterexample_of
from certify.norms import Norm
from certify.rounding import show_distance_upper, show_radius
from certify.verdict import Verdict

_DIGITS = 6
_NAMED = 5
# Statements about the network itself. Those about a smoothed classifier (S0-...) are not touched by what the network answers.
ABOUT_THE_NETWORK = frozenset({"real-arithmetic", "float32-runtime"})
# Kinds whose balls contain their surface; what is not listed is taken as open, so that nothing is flagged for a tie alone.
CLOSED = frozenset({"bounds"})

Pair = tuple[Certificate, Certificate | AttackResult]


@dataclass(frozen=True)
class Contradiction:
    """A certificate, the row whose input contradicts it, that input's distance in the certificate's norm (rounded up), and what it gets.

    `margin` is the logit of the certified answer less the largest other one, in float64.
    """

    certificate: Certificate
    other: Certificate | AttackResult
    distance_upper: float
    answer: int
    margin: float

    def problem(self) -> Problem:
        """One sentence that names both rows."""
        proved, tau = self.certificate, _tau(self.certificate)
        detail = (
            f"certifier {proved.certifier} ({_name(proved)}, {proved.statement}) certifies example {proved.example} as class"
            f" {proved.prediction} to {proved.norm} radius {show_radius(proved.radius, _DIGITS)}, but {self._other()} is at {proved.norm}"
            f" distance {show_distance_upper(self.distance_upper, _DIGITS)} or less and is answered {self.answer}: its margin in float64"
            f" is {self.margin:.6g}, beyond the rounding margin {tau:.3g}"
        )
        mend = "this is a defect of the service: report it with both rows"
        return Problem(field="results", detail=detail, mend=mend)

    def _other(self) -> str:
        what = "the input found" if isinstance(self.other, AttackResult) else "the input that refutes the claim"
        return f"{what} by certifier {self.other.certifier} ({_name(self.other)}, {self.other.norm}) for example {self.other.example}"


def suspects(findings: Sequence[Certificate | AttackResult]) -> list[Pair]:
    """Every certificate of the network with every row of the same example that keeps an input with another answer."""
    shown: dict[int, list[Certificate | AttackResult]] = {}
    for finding in findings:
        if counterexample_of(finding) is not None:
            shown.setdefault(finding.example, []).append(finding)
    certificates = (finding for finding in findings if isinstance(finding, Certificate) and _proves(finding))
    return [(proved, other) for proved in certificates for other in shown.get(proved.example, ())]


def contradictions(
    pairs: Sequence[Pair],
    inputs: Callable[[int], Tensor],
    classify: Callable[[Tensor], Tensor],
    value_range: tuple[float, float] | None,
) -> list[Contradiction]:
    """Those of the pairs that cannot both be true.

    The stored input lies in the certificate's ball, decided in exact arithmetic on its own norm, and in the value range where the ball is
    cut to it; and the network, in float64, answers it otherwise by more than the certificate's rounding margin.

    Args:
        pairs: from `suspects`.
        inputs: the example of a dataset row, (*input), float32, raw input units.
        classify: the network in float64: (points, *input) to (points, classes).
        value_range: the model's.
    """
    found = []
    for proved, other in pairs:
        text, x = counterexample_of(other), inputs(proved.example)
        assert text is not None
        tried = decoded(text, tuple(x.shape))
        if not _in_claim(proved, x, tried, value_range):
            continue
        with torch.no_grad():
            logits = classify(tried.double().unsqueeze(0))[0].cpu()
        margin, tau = _margin(logits, proved.prediction), _tau(proved)
        if margin < -tau:
            found.append(Contradiction(proved, other, distance_upper(tried, x, proved.norm), int(logits.argmax()), margin))
    return found


def problems(found: Sequence[Contradiction]) -> tuple[Problem, ...]:
    """What to tell about contradictions: the first ones in full, and how many more there are."""
    named = [one.problem() for one in found[:_NAMED]]
    if len(found) > _NAMED:
        more = Problem(field="results", detail=f"{len(found) - _NAMED} more pairs of rows contradict each other", mend="report this too")
        named.append(more)
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


def _proves(certificate: Certificate) -> bool:
    about = certificate.alpha is None and certificate.statement in ABOUT_THE_NETWORK
    return about and certificate.verdict is Verdict.CERTIFIED and certificate.radius > 0


def _in_claim(
    proved: Certificate,
    x: Tensor,  # (*input), float32
    tried: Tensor,  # (*input), float32
    value_range: tuple[float, float] | None,
) -> bool:
    if getattr(proved.evidence, "clipped", False):
        if value_range is None:
            return False
        if float(tried.min()) < value_range[0] or float(tried.max()) > value_range[1]:
            return False
    return within(tried, x, proved.norm, proved.radius, closed=proved.kind in CLOSED)


def _margin(
    logits: Tensor,  # (classes,), float64
    answer: int | None,
) -> float:
    if answer is None or not bool(logits.isfinite().all()):
        return 0.0
    rivals = logits.clone()
    rivals[answer] = -torch.inf
    return float(logits[answer] - rivals.max())


def _name(finding: Certificate | AttackResult) -> str:
    method = finding.method if isinstance(finding, AttackResult) else getattr(finding.evidence, "method", "")
    return f"{finding.kind}, {method}" if method else finding.kind


def _tau(proved: Certificate) -> float:
    return proved.evidence.tau if isinstance(proved.evidence, BoundsEvidence) else 0.0
