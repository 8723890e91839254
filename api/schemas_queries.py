"""Answers to questions across jobs."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from api.schemas import Out
from certify.certificate import Certificate
from certify.comparison import Side, claimed, compare, counterpart, unlike
from certify.mcnemar import p_value
from certify.statement import Statement
from storage import queries

_EVENLY = 8


class FoundOut(Out):
    """A certificate, and the job, model and dataset it belongs to; `partial` is empty where the job succeeded."""

    job: str
    model: str
    dataset: str
    partial: str = Field(description='what a job without all of its answers is called: "PARTIAL: 256 of 399, cancelled"')
    certificate: Certificate

    @classmethod
    def of(cls, found: queries.Found) -> FoundOut:
        return cls.model_validate(vars(found))


class PointOut(Out):
    """One radius. Missing answers count as not certified in the accuracies and as unchanged in `lost` and `gained`.

    The p-values are exact one-sided McNemar tests, for a drop and for a rise, each by itself: who looks at many radii or runs and picks
    one must correct for that; a gate does.
    """

    radius: float
    base_accuracy: float
    head_accuracy: float
    lost: int = Field(description="examples certified by base and not by head")
    gained: int
    unanswered: int
    p_drop: float
    p_rise: float


class PairOut(Out):
    """One certifier of head beside its counterpart of base; `points` is empty where `reason` says why they cannot be compared."""

    certifier: int
    kind: str
    base_certifier: int | None
    statement: Statement | None = Field(description="what both claim, with all its conditions; of some rows more may be proved")
    reason: str
    points: list[PointOut]


class CompareOut(Out):
    base: str
    head: str
    examples: int
    compared: int = Field(description="certifiers of head with any example that both runs answered; 0 is no answer, not a good one")
    certifiers: list[PairOut]

    @classmethod
    def of(cls, base: Side, head: Side, radii: Sequence[float]) -> CompareOut:
        pairs = [_pair(base, head, index, radii) for index in range(len(head.spec.certifiers)) if head.rows.get(index)]
        compared = sum(any(point.unanswered < len(head.examples) for point in pair.points) for pair in pairs)
        return cls(base=base.job, head=head.job, examples=len(head.examples), compared=compared, certifiers=pairs)


def _pair(base: Side, head: Side, certifier: int, radii: Sequence[float]) -> PairOut:
    reason, where = unlike(head, base, certifier), counterpart(head, base, certifier)
    points = (
        [] if reason or where is None else [_point(base, head, where, certifier, r) for r in radii or _radii(base, head, where, certifier)]
    )
    kind = head.spec.certifiers[certifier].kind
    stated = claimed(head, certifier)
    return PairOut(certifier=certifier, kind=kind, base_certifier=where, statement=stated, reason=reason, points=points)


def _radii(base: Side, head: Side, where: int, certifier: int) -> list[float]:
    """Those that were asked for, or evenly spaced ones."""
    spec = head.spec.certifiers[certifier]
    epsilon: float | None = getattr(spec, "epsilon", None)
    decided: Sequence[float] | None = getattr(spec, "radii", None) or (None if epsilon is None else [epsilon])
    if decided:
        return list(decided)
    largest = max((row.radius for side, index in ((base, where), (head, certifier)) for row in side.rows[index].values()), default=0.0)
    return [largest * i / _EVENLY for i in range(_EVENLY + 1)] if largest > 0 else [0.0]


def _point(base: Side, head: Side, where: int, certifier: int, radius: float) -> PointOut:
    before, now = base.held(where, radius), head.held(certifier, radius)
    changes = compare(before, now)
    lost, gained = changes.least_lost, changes.gained
    total = max(1, len(now))
    return PointOut(
        radius=radius,
        base_accuracy=sum(held is True for held in before) / total,
        head_accuracy=sum(held is True for held in now) / total,
        lost=lost,
        gained=gained,
        unanswered=changes.unanswered,
        p_drop=float(p_value(lost, gained)),
        p_rise=float(p_value(gained, lost)),
    )
