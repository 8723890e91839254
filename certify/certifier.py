"""What every certifier is: a small class that answers examples one after another, and what becomes of its answers as rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from certify.certificate import Certificate, Evidence, Provenance
from certify.findings import AttackResult
from certify.model import Examples, Model
from certify.norms import Norm
from certify.rounding import radius_down
from certify.run import PUBLIC_SEED, Run, commitment, public_key
from certify.spec import CertifierSpec, Spec
from certify.statement import Statement
from certify.verdict import Verdict


class Timed(Protocol):
    """An answer that may know how long it took."""

    @property
    def seconds(self) -> float | None: ...


S = TypeVar("S", bound=CertifierSpec)
O = TypeVar("O", bound=Timed)  # noqa: E741


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a certifier says about one example. `reason` empty means the verdict's own sentence, `statement` null the certifier's own.

    `radius` is what was proved; the row says a little less (`radius_down`). Where the question or the method stops at a certain radius,
    that is `cap`, and a row whose proof goes beyond it claims exactly the cap.

    `seconds` is the time spent on it, for certifiers that work on many examples at once; otherwise it is measured between outcomes.
    """

    prediction: int | None
    verdict: Verdict
    reason: str = ""
    radius: float = 0.0
    cap: float = math.inf
    epsilon_verified: bool | None = None
    evidence: Evidence | None = None
    seconds: float | None = None
    statement: Statement | None = None


class Finder(ABC, Generic[S, O]):
    """Whatever a spec may list: it answers examples, one after another (`outcomes`), and makes rows of the answers (`finding`).

    `job` is the whole spec (its `clip` and `seed` concern every certifier), `spec` the certifier's own part at `index`.
    """

    dtype: ClassVar[str]

    def __init__(self, job: Spec, index: int, model: Model, run: Run) -> None:
        self.job = job
        self.index = index
        self.spec: S = job.certifiers[index]  # type: ignore[assignment]
        self.model = model
        self.run = run

    @property
    def norm(self) -> Norm:
        return Norm(self.spec.norm)

    @property
    def engine_version(self) -> str | None:
        """Name and version of a verification engine behind it; null when there is none."""
        return None

    @property
    def batch_size(self) -> int | None:
        """The fixed batch shape that decides low bits of the result; null where none does."""
        return None

    def findings(self, examples: Examples) -> Iterator[Certificate | AttackResult]:
        """One row for each example, in order.

        Raises:
            ContradictionError: what was computed contradicts itself.
            Cancelled: the run was asked to stop.
        """
        started = self.run.now()
        for position, outcome in enumerate(self.outcomes(examples)):
            seconds = self.run.now() - started if outcome.seconds is None else outcome.seconds
            found = self.finding(outcome, examples.rows[position], int(examples.y[position]), seconds)
            yield found.model_copy(update={"example_digest": examples.digest(position)})
            started = self.run.now()

    @abstractmethod
    def outcomes(self, examples: Examples) -> Iterator[O]:
        """One outcome for each example, in order.

        Raises:
            NumericalError: never; a NaN or infinite answer becomes an outcome that says so.
            Cancelled: the run was asked to stop.
        """

    @abstractmethod
    def finding(self, outcome: O, row: int, label: int, seconds: float) -> Certificate | AttackResult:
        """The row of an outcome for the example of that dataset row and label."""

    def provenance(self) -> Provenance:
        """Everything needed to repeat the computation."""
        # By the key itself: a label must not promise a secret that anyone can derive.
        run = self.run
        origin = PUBLIC_SEED if run.noise_key == public_key(self.job) else f"service:{commitment(run.noise_key)}"
        return run.provenance.model_copy(
            update={
                "noise_key": origin if self.spec.stochastic else None,
                "dtype": self.dtype,
                "batch_size": self.batch_size,
                "versions": run.provenance.versions.model_copy(update={"engine": self.engine_version}),
            }
        )


class Certifier(Finder[S, Outcome], Generic[S]):
    """Base of all certifiers. A subclass writes `outcomes` and names what it proves (`statement`)."""

    @property
    @abstractmethod
    def statement(self) -> Statement:
        """What exactly a certificate proves (docs/design.md)."""

    @property
    def alpha(self) -> float | None:
        """The error level of one certificate; null when deterministic."""
        return None

    def finding(self, outcome: Outcome, row: int, label: int, seconds: float) -> Certificate:
        """A certificate, its radius rounded down and no larger than the outcome's cap."""
        return Certificate(
            example=row,
            certifier=self.index,
            kind=self.spec.kind,
            statement=outcome.statement or self.statement,
            label=label,
            prediction=outcome.prediction,
            correct=outcome.prediction == label,
            verdict=outcome.verdict,
            reason=outcome.reason or outcome.verdict.sentence,
            norm=self.norm,
            radius=min(radius_down(outcome.radius), outcome.cap) if outcome.verdict is Verdict.CERTIFIED else 0.0,
            epsilon_verified=outcome.epsilon_verified,
            alpha=self.alpha,
            evidence=outcome.evidence,
            provenance=self.provenance(),
            seconds=seconds,
        )
