"""Whether a row says what follows from its own evidence: statement, answer and radius. For auditors, who have rows and no model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from certify.certificate import (
    BoundsEvidence,
    Certificate,
    DualPredictionEvidence,
    InstanceEvidence,
    LipschitzEvidence,
    MemoryEvidence,
    PredictionEvidence,
    SplittingEvidence,
)
from certify.errors import InputError
from certify.following import check_statement
from certify.lipschitz.certifier import FARTHEST, distance
from certify.prediction import decide
from certify.rounding import radius_down
from certify.sampling.noise.grid import LEVELS
from certify.splitting import lead
from certify.statement import Base
from certify.verdict import Verdict

_MEND = "use the line as it was written"
# What another version or library may differ by in a number that it derived.
_NEAR = 1e-9


def check_row(certificate: Certificate) -> None:
    """Refuse a row that claims what does not follow from its evidence.

    The statement is derived anew for every row. Answer and radius are where the evidence fixes them: `dssn`, `lipschitz` and predictions.
    A row of a ledger claims no more than its own votes had proved. Votes for a radius are checked in `recompute`, by the same formulas as
    the radius itself. Of `bounds` the margin must exceed its
    rounding error; its radius is not in the evidence, and only the model can give it again.

    Raises:
        InputError: names what does not follow.
    """
    check_statement(certificate)
    if certificate.verdict is not Verdict.CERTIFIED:
        return
    evidence = certificate.evidence
    if isinstance(evidence, SplittingEvidence):
        top, steps = lead(evidence.counts)
        _same_answer(certificate, top)
        _same_radius(certificate, steps / LEVELS)
    elif isinstance(evidence, LipschitzEvidence):
        _same_radius(certificate, min(distance(evidence.margin_lower, evidence.lipschitz_upper), FARTHEST))
    elif isinstance(evidence, BoundsEvidence):
        _beyond_rounding(evidence)
    elif isinstance(evidence, InstanceEvidence) and evidence.memory is not None:
        _as_resolved(certificate, evidence.memory)
    elif isinstance(evidence, PredictionEvidence) and certificate.statement.base is not Base.MEMORY_PREDICTION:
        _same_prediction(certificate, evidence)


def _same_answer(certificate: Certificate, answer: int) -> None:
    if certificate.prediction != answer:
        raise InputError.at("prediction", f"is {certificate.prediction}, and the votes are for {answer}", _MEND)


def _same_radius(certificate: Certificate, radius: float) -> None:
    if not math.isclose(certificate.radius, radius_down(radius), rel_tol=_NEAR):
        raise InputError.at("radius", "does not follow from the evidence", _MEND)


def _beyond_rounding(evidence: BoundsEvidence) -> None:
    if evidence.margin_lower is None or evidence.tau is None or evidence.margin_lower <= evidence.tau:
        raise InputError.at("evidence", "its margin is within its rounding error, so that no radius follows", _MEND)


def _as_resolved(certificate: Certificate, memory: MemoryEvidence) -> None:
    """What became a region keeps its answer, and no more than its radius. Other rows follow from the ledger, which is not here."""
    if memory.how not in ("stored", "shrunk"):
        return
    assert memory.own_prediction is not None
    _same_answer(certificate, memory.own_prediction)
    if certificate.radius > memory.own_radius or (memory.how == "stored" and certificate.radius < memory.own_radius):
        raise InputError.at("radius", "is not what the row's own votes had proved", _MEND)


def _same_prediction(certificate: Certificate, evidence: PredictionEvidence) -> None:
    """The winner of the votes, where a test at the row's level tells it from the second."""
    assert certificate.alpha is not None
    level = certificate.alpha
    if isinstance(evidence, DualPredictionEvidence):
        level = certificate.alpha / 2
        _tested(evidence.selector_counts, evidence.selector_p_value, level)
    _same_answer(certificate, _tested(evidence.counts, evidence.p_value, level))


def _tested(counts: Sequence[int], stored: float, level: float) -> int:
    """The most frequent class. The stored p-value may be larger than that of the votes: it pays for their law and place too."""
    top, p_value = decide(counts) if len(counts) > 1 else (0, 0.0)
    if stored > level or stored < p_value * (1 - _NEAR):
        raise InputError.at("evidence", "its p-value is not that of its votes, or is above alpha", _MEND)
    return top
