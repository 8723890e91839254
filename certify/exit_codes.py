"""What a run's exit code says: 0 done or gate passed, 1 refuted or gate failed, 2 unknown, abstained or cancelled, 3 timeout, 4 error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction

from certify.certificate import Certificate
from certify.errors import Problem, SpecError
from certify.findings import AttackResult
from certify.rounding import show_given, show_given_share, show_share, show_share_upper
from certify.spec import BoundsSpec, CertifierSpec, RadiusSpec, Spec, SplittingSpec
from certify.statement import conditions
from certify.verdict import UNANSWERED, Verdict

PREDICTING = ("predict", "dual-predict", "memory-predict")


class Exit(IntEnum):
    """Process exit codes; the strongest of 4 > 3 > 1 > 2 > 0 wins."""

    DONE = 0
    REFUTED = 1
    UNKNOWN = 2
    TIMEOUT = 3
    ERROR = 4


_STRENGTH = (Exit.ERROR, Exit.TIMEOUT, Exit.REFUTED, Exit.UNKNOWN, Exit.DONE)
_OF_VERDICT = {
    Verdict.CERTIFIED: Exit.DONE,
    Verdict.ABSTAINED: Exit.UNKNOWN,
    Verdict.UNKNOWN: Exit.UNKNOWN,
    Verdict.REFUTED: Exit.REFUTED,
    Verdict.TIMEOUT: Exit.TIMEOUT,
    Verdict.ERROR: Exit.ERROR,
}
_VERBS = {Exit.DONE: "meets", Exit.UNKNOWN: "leaves open", Exit.REFUTED: "misses"}


@dataclass(frozen=True)
class Requirement:
    """A gate: certified accuracy of at least `share` at `radius`, for every certifier of the run."""

    share: float
    radius: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """From `0.60@0.25`.

        Raises:
            SpecError: it is not of that form.
        """
        try:
            share, radius = (float(part) for part in text.split("@"))
        except ValueError:
            share, radius = -1.0, -1.0
        if not (0 <= share <= 1 and 0 <= radius < float("inf")):
            raise SpecError(Problem(field="require", detail=f"{text!r} is not SHARE@RADIUS", mend="write for example 0.60@0.25"))
        return cls(share, radius)


@dataclass(frozen=True)
class GateResult:
    """Whether one certifier met one requirement, in a sentence with the numbers.

    `code` is DONE where it is met whatever the missing answers were, REFUTED where it is missed whatever they were, else UNKNOWN.
    """

    code: Exit
    sentence: str

    @property
    def passed(self) -> bool:
        """Whether it is met for certain."""
        return self.code is Exit.DONE


def exit_code(spec: Spec, findings: Sequence[Certificate | AttackResult]) -> Exit:
    """The strongest of 4 > 3 > 1 > 2 > 0 over all rows.

    With `epsilon` or `radii` the code speaks of correctly classified examples at those radii. A certifier that only searches the
    largest radius is done when every example has an answer, abstained and unknown included; a prediction that was withheld is unknown.
    An attack claims nothing that could be refuted: it is done, whatever it found.
    """
    return strongest(_code(spec, finding) for finding in findings)


def strongest(codes: Iterable[Exit]) -> Exit:
    """The one that wins: 4 > 3 > 1 > 2 > 0."""
    return min(codes, key=_STRENGTH.index, default=Exit.DONE)


def ended(state: str) -> Exit:
    """What the state in which a job ended says by itself: one that was cancelled leaves its question open, one that failed is an error."""
    return {"succeeded": Exit.DONE, "cancelled": Exit.UNKNOWN}.get(state, Exit.ERROR)


def meets(held: int, total: int, share: float) -> bool:
    """Whether `held` of `total` is at least `share`, as the decimal that the share was written as: 7 of 100 meet 0.07."""
    return held >= Fraction(repr(share)) * total


def check_gates(requirements: Iterable[Requirement], findings: Sequence[Certificate | AttackResult]) -> list[GateResult]:
    """Every requirement against every certifier that claims radii, on all its examples.

    Abstentions count as not certified. Errors and timeouts are no answers: they are first taken for the worse, then for the better.
    """
    by_certifier: dict[int, list[Certificate]] = {}
    for finding in findings:
        if isinstance(finding, AttackResult) or finding.kind in PREDICTING:
            continue  # neither a pass nor a failure at any radius: it proves none, or speaks of the inputs themselves
        by_certifier.setdefault(finding.certifier, []).append(finding)
    if not by_certifier:
        why = "no certifier of this run claims a radius, so that nothing meets the gate: certified accuracy"
        return [
            GateResult(Exit.REFUTED, f"{why} {show_given_share(one.share)} at radius {show_given(one.radius)} is required")
            for one in requirements
        ]
    return [_gate(requirement, index, rows) for requirement in requirements for index, rows in sorted(by_certifier.items())]


def _gate(requirement: Requirement, index: int, rows: list[Certificate]) -> GateResult:
    held = sum(row.holds_at(requirement.radius) for row in rows)
    missing = sum(row.verdict in UNANSWERED for row in rows)
    total = len(rows)
    worst = meets(held, total, requirement.share)
    best = meets(held + missing, total, requirement.share)
    code = Exit.DONE if worst else Exit.UNKNOWN if best else Exit.REFUTED
    claim = (rows[0].kind, rows[0].norm, *conditions(row.statement for row in rows))
    share = show_share(held / total) + (f" to {show_share_upper((held + missing) / total)}" if missing else "")
    counted = f"{held} of {total}" + (f", {missing} without an answer" if missing else "")
    return GateResult(
        code,
        f"certifier {index} ({', '.join(claim)}) {_VERBS[code]} the gate: certified accuracy {share} at radius"
        f" {show_given(requirement.radius)} ({counted}), required {show_given_share(requirement.share)}",
    )


def _code(spec: Spec, certificate: Certificate | AttackResult) -> Exit:
    if isinstance(certificate, AttackResult):
        return Exit.ERROR if certificate.prediction is None else Exit.DONE
    code = _OF_VERDICT[certificate.verdict]
    if code in (Exit.ERROR, Exit.TIMEOUT):
        return code
    certifier = spec.certifiers[certificate.certifier]
    asked = _asked(certifier)
    if certifier.kind in PREDICTING:
        return code
    if asked is None:
        return Exit.DONE
    if certificate.verdict is Verdict.CERTIFIED:
        # A wrong answer is an error of the model, not of its robustness: the codes speak of correct ones.
        return Exit.DONE if not certificate.correct or certificate.radius >= asked else Exit.UNKNOWN
    if certificate.verdict is Verdict.REFUTED and not certificate.correct:
        return Exit.DONE
    return code


def _asked(certifier: CertifierSpec) -> float | None:
    if isinstance(certifier, RadiusSpec | SplittingSpec):
        return max(certifier.radii) if certifier.radii else None
    return certifier.epsilon if isinstance(certifier, BoundsSpec) else None
