"""The statement that follows from the evidence of a row: derived anew, so that an edited name is found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from certify.certificate import (
    BoundsEvidence,
    Certificate,
    CorrectedEvidence,
    DualPredictionEvidence,
    Evidence,
    InstanceEvidence,
    LatentEvidence,
    LipschitzEvidence,
    MemoryPredictionEvidence,
    PredictionEvidence,
    SmoothingEvidence,
    SplittingEvidence,
)
from certify.errors import InputError
from certify.norms import Norm
from certify.statement import Base, Statement
from certify.verdict import Verdict

_MEND = "use the line as it was written"


class _Row(NamedTuple):
    """What a statement may depend on beside the evidence."""

    norm: Norm
    verdict: Verdict


def following(kind: str, evidence: Evidence, norm: Norm, verdict: Verdict) -> Statement:
    """The one statement that a row of this kind makes with this evidence.

    A condition that only the spec knows (that the selector was fitted to examples of the job, that settings were chosen after the votes)
    stands in the evidence too, where the certifier or `recompute` wrote it.

    Args:
        kind: of the certifier.
        evidence: of the row.
        norm: of the ball that is claimed.
        verdict: of the row.

    Raises:
        InputError: a certifier of this kind makes no such evidence.
    """
    rule = _RULES.get(kind, {}).get(type(evidence))
    if rule is None:
        raise InputError.at("evidence", f"is not that of {kind}", _MEND)
    return rule(evidence, _Row(norm, verdict))


def check_statement(certificate: Certificate) -> None:
    """Refuse a row whose statement does not follow from its evidence.

    A row without evidence claims nothing; its statement must be one that its kind can make.

    Raises:
        InputError: it does not.
    """
    if certificate.evidence is None:
        if certificate.statement.base not in _BASES.get(certificate.kind, ()):
            raise InputError.at("statement", f"is {certificate.statement}, which {certificate.kind} never makes", _MEND)
        return
    found = following(certificate.kind, certificate.evidence, certificate.norm, certificate.verdict)
    if found != certificate.statement:
        raise InputError.at("statement", f"is {certificate.statement}, and {found} follows from the evidence", _MEND)


def _converted(own: Norm, row: _Row) -> Norm | None:
    return None if row.norm is own else own


def _fixed(evidence: SmoothingEvidence, row: _Row) -> Statement:
    return Statement(
        base=Base.FIXED,
        grid=evidence.noise == "discrete-gaussian",
        precision=evidence.precision,
        from_norm=_converted(Norm.L1 if evidence.noise == "uniform" else Norm.L2, row),
        exploratory=evidence.exploratory,
    )


def _latent(evidence: LatentEvidence, row: _Row) -> Statement:
    converted = _converted(Norm.L2, row)
    return Statement(base=Base.FIXED_LATENT, precision=evidence.precision, from_norm=converted, exploratory=evidence.exploratory)


def _corrected(evidence: CorrectedEvidence, row: _Row) -> Statement:
    return Statement(base=Base.CORRECTED, precision=evidence.precision, exploratory=evidence.exploratory)


def _own_level(evidence: InstanceEvidence, row: _Row) -> Statement:
    if evidence.memory is not None:
        return Statement(base=Base.MEMORY, precision=evidence.precision)
    selector = evidence.selector
    return Statement(
        base=Base.FROZEN if selector is None else Base.DUAL,
        precision=evidence.precision,
        transductive=selector is not None and selector.transductive,
        from_norm=_converted(Norm.L2, row),
        exploratory=evidence.exploratory,
    )


def _every_offset(evidence: SplittingEvidence, row: _Row) -> Statement:
    return Statement(base=Base.EXACT_GRID, precision=evidence.precision)


def _prediction(evidence: PredictionEvidence, row: _Row) -> Statement:
    base = Base.PREDICTION if evidence.split is None else Base.PREDICTION_LATENT
    return Statement(base=base, grid=evidence.noise == "discrete-gaussian", precision=evidence.precision)


def _dual_prediction(evidence: DualPredictionEvidence, row: _Row) -> Statement:
    return Statement(base=Base.DUAL_PREDICTION, precision=evidence.precision)


def _memory_prediction(evidence: MemoryPredictionEvidence, row: _Row) -> Statement:
    base = Base.FROZEN_PREDICTION if evidence.memory is None else Base.MEMORY_PREDICTION
    return Statement(base=base, precision=evidence.precision)


def _bounds(evidence: BoundsEvidence, row: _Row) -> Statement:
    return Statement(
        base=Base.FLOAT32_RUNTIME if row.verdict is Verdict.CERTIFIED and _beyond_rounding(evidence) else Base.REAL_ARITHMETIC,
        clipped=evidence.clipped,
    )


def _beyond_rounding(evidence: BoundsEvidence) -> bool:
    """Whether the margin exceeds all rounding, that of a float32 runtime included."""
    if evidence.margin_lower is None or evidence.tau is None or evidence.float32_error is None:
        return False
    return evidence.margin_lower > evidence.tau + evidence.float32_error


def _lipschitz(evidence: LipschitzEvidence, row: _Row) -> Statement:
    return Statement(base=Base.REAL_ARITHMETIC)


_RULES: dict[str, dict[type, Callable[[Any, _Row], Statement]]] = {
    "smoothing": {SmoothingEvidence: _fixed, CorrectedEvidence: _corrected},
    "latent-smoothing": {LatentEvidence: _latent},
    "instance-smoothing": {InstanceEvidence: _own_level, CorrectedEvidence: _corrected},
    "predict": {PredictionEvidence: _prediction},
    "dual-predict": {DualPredictionEvidence: _dual_prediction},
    "memory-predict": {MemoryPredictionEvidence: _memory_prediction},
    "dssn": {SplittingEvidence: _every_offset},
    "bounds": {BoundsEvidence: _bounds},
    "lipschitz": {LipschitzEvidence: _lipschitz},
}
# What a row without evidence may say: it ended in an error, or was decided without any.
_BASES: dict[str, tuple[Base, ...]] = {
    "smoothing": (Base.FIXED, Base.CORRECTED),
    "latent-smoothing": (Base.FIXED_LATENT,),
    "instance-smoothing": (Base.FROZEN, Base.MEMORY, Base.DUAL, Base.CORRECTED),
    "predict": (Base.PREDICTION, Base.PREDICTION_LATENT),
    "dual-predict": (Base.DUAL_PREDICTION,),
    "memory-predict": (Base.FROZEN_PREDICTION, Base.MEMORY_PREDICTION),
    "dssn": (Base.EXACT_GRID,),
    "bounds": (Base.REAL_ARITHMETIC,),
    "lipschitz": (Base.REAL_ARITHMETIC,),
}
