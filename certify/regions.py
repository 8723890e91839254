"""Certified regions as values: what a ledger keeps, what is held against it, and what came of that. No arithmetic beyond filters.

docs/memory.md says what a ledger proves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from certify.certificate import Certificate, InstanceEvidence, MemoryEvidence, MemoryPredictionEvidence
from certify.rounding import step_up
from certify.specs.instance import InstanceSmoothingSpec
from certify.statement import Base
from certify.verdict import Verdict

# What a row says until its ledger was asked.
NOT_ASKED = "The ledger of certified regions has not been asked yet."

How = Literal["stored", "shrunk", "answered", "abstained", "unanswered"]
# How well and how fast the ball of an input is found; the answers that inputs get do not depend on them.
_EFFORT = {"batch_size", "n0", "n", "radii", "sampling", "looks", "tolerance", "bound"}
# Wider than any rounding of the few operations in which shadows and reaches are compared.
_SLACK = 1.0 + 1e-9


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """What a centre looks like in a few orthonormal directions: `coordinates` are at most `error` in l2 from the exact ones."""

    coordinates: tuple[float, ...]
    error: float

    def reach(self, radius: float) -> float:
        """Shadows of the centres of two overlapping open l2 balls are no farther apart than the sum of their reaches.

        An orthonormal projection lengthens no vector: |Px - Py| <= |x - y| < radius + radius'.
        """
        return step_up((radius + self.error) * _SLACK)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One example of a job that asks the ledger.

    `centre` is the input itself, little-endian float32 in its order, `digest` its SHA-256. `answer` and `radius` are what its own votes
    proved at noise level `sigma`: null and 0 when they proved nothing. `alpha` is the error level of that.
    """

    example: int
    digest: str
    centre: bytes
    answer: int | None
    radius: float
    sigma: float
    alpha: float
    shadow: Shadow


@dataclass(frozen=True, kw_only=True)
class Region:
    """An open l2 ball in which one class is answered. Nobody changes it; it may be revoked, and stays on record.

    `number` counts the regions of a ledger from 1. `job`, `certifier` and `example` name the certificate it came from; `job` is empty
    in a run without service.
    """

    number: int
    digest: str
    centre: bytes
    answer: int
    radius: float
    sigma: float
    alpha: float
    job: str
    certifier: int
    example: int
    revoked: bool = False


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What becomes of a candidate.

    `stored`: it keeps its answer and radius and becomes a region; `shrunk` likewise, with a smaller radius because of the region `by`;
    `answered`: it gets the answer of the region `by` and what is left of that; `abstained`: because of the region `by` nothing is left,
    or it was revoked; `unanswered`: its own votes proved nothing and no region contains it. `revokes` are stored regions that this
    candidate contradicts.
    """

    how: How
    answer: int | None = None
    radius: float = 0.0
    by: Region | None = None
    distance: float | None = None
    reason: str = ""
    revokes: tuple[Region, ...] = ()

    @property
    def keeps(self) -> bool:
        """Whether it becomes a region of its own."""
        return self.how in ("stored", "shrunk")


Resolve = Callable[[Candidate, Sequence[Region]], Resolution]
Answering = Callable[[bytes, Sequence[Region]], Region | None]


def in_order(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """The same, examples ascending; what comes of them depends on it.

    Raises:
        ValueError: they come in another order.
    """
    last = -1
    for candidate in candidates:
        if candidate.example <= last:
            raise ValueError(f"example {candidate.example} comes behind example {last}")
        last = candidate.example
        yield candidate


def region_of(candidate: Candidate, found: Resolution, number: int, job: str, certifier: int) -> Region:
    """The region that a candidate becomes.

    Args:
        candidate: the example.
        found: its resolution, which keeps it.
        number: of the region in its ledger.
        job: whose certificate it is.
        certifier: index in the job's spec.
    """
    assert found.answer is not None
    return Region(
        number=number,
        digest=candidate.digest,
        centre=candidate.centre,
        answer=found.answer,
        radius=found.radius,
        sigma=candidate.sigma,
        alpha=candidate.alpha,
        job=job,
        certifier=certifier,
        example=candidate.example,
    )


@dataclass(frozen=True)
class Rule:
    """Whose regions may lie in one ledger: the certifier without what only says how hard it tried, and who knew the noise.

    `text` is canonical JSON; the model is the other half of a ledger's key.
    """

    text: str

    @classmethod
    def of(cls, certifier: InstanceSmoothingSpec, noise_key: str | None) -> Rule:
        """The rule of a certifier whose noise comes from that kind of key."""
        values = {**certifier.model_dump(mode="json", exclude=_EFFORT), "noise_key": noise_key}
        return cls(json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False))

    def digest(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def remembers(certifier: object) -> bool:
    """Whether the rows of a certifier go through a ledger when all of them are there."""
    return isinstance(certifier, InstanceSmoothingSpec) and certifier.statement == "memory"


def remembered(row: Certificate, found: Resolution, *, ledger: str | None, size: int) -> Certificate:
    """The row as the ledger leaves it: what it claims now, and what its own votes had proved.

    A row that another region answers is wrong about the classifier behind that region only if the region's own certificate is: it gets
    the larger error level of the two.

    Args:
        row: of the sampling, with votes.
        found: what became of it.
        ledger: id of the ledger; null in a run without service.
        size: regions before it.
    """
    assert isinstance(row.evidence, InstanceEvidence)
    note = MemoryEvidence(
        ledger=ledger,
        size=size,
        how=found.how,
        region=size + 1 if found.keeps else None,
        by=found.by.number if found.by else None,
        distance_upper=found.distance,
        own_prediction=row.prediction,
        own_radius=row.radius,
        revoked=tuple(region.number for region in found.revokes),
    )
    certified = found.answer is not None
    alpha = max(row.alpha or 0.0, found.by.alpha) if found.by and found.how == "answered" else row.alpha
    claimed = {
        "statement": replace(row.statement, base=Base.MEMORY),
        "prediction": found.answer,
        "correct": found.answer == row.label,
        "verdict": Verdict.CERTIFIED if certified else Verdict.ABSTAINED,
        "reason": _reason(row, found, size),
        "radius": found.radius,
        "alpha": alpha,
        "evidence": row.evidence.model_copy(update={"memory": note}),
    }
    return Certificate(**{**dict(row), **claimed})


def foretold(row: Certificate, by: Region | None, *, ledger: str, size: int) -> Certificate:
    """A prediction as the ledger leaves it: the class of the region that contains the input, or what the votes said.

    Args:
        row: of the sampling, with votes.
        by: the oldest region in force that contains the input; null when none does.
        ledger: id of the ledger.
        size: regions it had.
    """
    assert isinstance(row.evidence, MemoryPredictionEvidence)
    how: How = "answered" if by else "unanswered"
    note = MemoryEvidence(ledger=ledger, size=size, how=how, by=by.number if by else None, own_prediction=row.prediction)
    claimed = {
        "statement": replace(row.statement, base=Base.MEMORY_PREDICTION),
        "reason": f"{row.reason.removesuffix(NOT_ASKED).rstrip()} No region contains the input.",
        "evidence": row.evidence.model_copy(update={"memory": note}),
    }
    if by:
        reason = f"The input lies in region {by.number} of the ledger, which answers; no radius is claimed."
        claimed |= {"prediction": by.answer, "correct": by.answer == row.label, "verdict": Verdict.CERTIFIED, "reason": reason}
    return Certificate(**{**dict(row), **claimed})


def withdrawn(row: Certificate, revoked: Mapping[int, str]) -> Certificate:
    """The row, or an abstention where the region that it leans on was revoked later in the same pass.

    Args:
        row: from `remembered`.
        revoked: why, by the number of the region.
    """
    note = row.evidence.memory if isinstance(row.evidence, InstanceEvidence) else None
    leans = None if note is None else note.region or (note.by if note.how == "answered" else None)
    if leans is None or leans not in revoked:
        return row
    claimed = {"prediction": None, "correct": False, "verdict": Verdict.ABSTAINED, "radius": 0.0}
    reason = f"Region {leans} was revoked in the same pass. {revoked[leans]}"
    return Certificate(**{**dict(row), **claimed, "reason": reason})


def restated(row: Certificate, base: Base) -> Certificate:
    """The row with that base in its statement, under the same conditions: what all rows of a pass say, those without votes too."""
    return row.model_copy(update={"statement": replace(row.statement, base=base)})


def _reason(row: Certificate, found: Resolution, size: int) -> str:
    if found.how == "unanswered":
        return row.reason.removesuffix(NOT_ASKED).rstrip()
    kept = f"It is region {size + 1} of the ledger." if found.keeps else ""
    return " ".join(part for part in (found.reason, kept) if part)
