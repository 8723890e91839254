"""From certificates to a report: certified-accuracy curves and their bands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from statistics import median_low

from certify.certificate import BoundsEvidence, Certificate
from certify.report import CertifierReport, CurvePoint, Report
from certify.statistics.binomial import lower_limit, upper_limit
from certify.verdict import Verdict

_BAND = 0.05


def report(certificates: Sequence[Certificate]) -> Report:
    """What the certificates of one job say, certifier by certifier.

    Certified accuracy at r is the share of all examples, abstentions and errors included, whose certificate proves the correct
    answer at least as far as r. Certifiers are never merged: each keeps its own statement.
    """
    ordered = sorted(certificates, key=lambda c: (c.certifier, c.example))
    return Report(certifiers=tuple(_certifier(list(group)) for _, group in groupby(ordered, key=lambda c: c.certifier)))


def _certifier(rows: list[Certificate]) -> CertifierReport:
    first, count = rows[0], len(rows)
    proved = sorted(row.radius for row in rows if row.verdict is Verdict.CERTIFIED and row.correct)
    radii = [row.radius if row.correct else 0.0 for row in rows]
    evidence = next((row.evidence for row in rows if row.evidence), None)
    return CertifierReport(
        certifier=first.certifier,
        kind=first.kind,
        statement=first.statement,
        norm=first.norm,
        alpha=first.alpha,
        method=evidence.method if isinstance(evidence, BoundsEvidence) else None,
        sigma=getattr(evidence, "sigma", None),
        examples=count,
        correct=sum(row.correct for row in rows),
        verdicts=dict(sorted(Counter(row.verdict for row in rows).items())),
        clean_accuracy=sum(row.correct for row in rows) / count,
        curve=tuple(curve(proved, count)),
        median_radius=median_low(radii),
        average_radius=sum(radii) / count,
        largest_radius=max(radii),
        at_cap=sum(isinstance(row.evidence, BoundsEvidence) and row.evidence.at_cap for row in rows),
        note=_note(first),
    )


def curve(proved: Sequence[float], count: int) -> list[CurvePoint]:
    """Certified accuracy at 0 and at every radius where it steps.

    Args:
        proved: radii of the correctly certified examples, ascending.
        count: number of all examples, >= 1.

    Returns:
        Points by ascending radius; between two of them the value of the right one holds.
    """
    points = [_point(0.0, len(proved), count)]
    for index, radius in enumerate(proved):
        if index == 0 or radius != proved[index - 1]:
            points.append(_point(radius, len(proved) - index, count))
    return points


def accuracy_at(certificates: Sequence[Certificate], radius: float) -> float:
    """Certified accuracy at `radius` over all given certificates of one certifier."""
    return sum(certificate.holds_at(radius) for certificate in certificates) / len(certificates)


def _point(radius: float, wins: int, count: int) -> CurvePoint:
    return CurvePoint(
        radius=radius,
        certified_accuracy=wins / count,
        low=lower_limit(wins, count, _BAND / 2),
        high=upper_limit(wins, count, _BAND / 2),
    )


def _note(row: Certificate) -> str:
    if row.epsilon_verified is not None:
        return "Verified at one given epsilon: the radii are decisions at that epsilon, not largest radii."
    return ""
