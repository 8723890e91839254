"""What every certifier is: a small class that answers examples one after another. The verb makes the certificates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from certify.certificate import Evidence
from certify.model import Examples, Model
from certify.norms import Norm
from certify.run import Run
from certify.spec import CertifierSpec, Spec
from certify.verdict import Verdict

S = TypeVar("S", bound=CertifierSpec)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a certifier says about one example. `reason` empty means the verdict's own sentence, `statement` empty the certifier's own.

    `seconds` is the time spent on it, for certifiers that work on many examples at once; otherwise it is measured between outcomes.
    """

    prediction: int | None
    verdict: Verdict
    reason: str = ""
    radius: float = 0.0
    epsilon_verified: bool | None = None
    evidence: Evidence | None = None
    seconds: float | None = None
    statement: str = ""


class Certifier(ABC, Generic[S]):
    """Base of all certifiers. A subclass writes `outcomes` and names what it proves (`statement`).

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
    @abstractmethod
    def statement(self) -> str:
        """What exactly a certificate proves, by name (docs/design.md)."""

    @property
    def norm(self) -> Norm:
        return Norm(self.spec.norm)

    @property
    def alpha(self) -> float | None:
        """The error level of one certificate; null when deterministic."""
        return None

    @property
    def engine_version(self) -> str | None:
        """Name and version of a verification engine behind it; null when there is none."""
        return None

    @property
    def batch_size(self) -> int | None:
        """The fixed batch shape that decides low bits of the result; null where none does."""
        return None

    @abstractmethod
    def outcomes(self, examples: Examples) -> Iterator[Outcome]:
        """One outcome for each example, in order.

        Raises:
            NumericalError: never; a NaN or infinite answer becomes an outcome with verdict error.
            Cancelled: the run was asked to stop.
        """
