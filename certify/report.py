"""What a report says about one job, as values: the API renders it, a worker computes it (`certify.curves`)."""

from __future__ import annotations

from pydantic import Field

from certify.norms import Norm
from certify.spec import Frozen
from certify.verdict import Verdict


class CurvePoint(Frozen):
    """Certified accuracy at `radius`: the share of examples proved correct at least that far.

    `low` and `high` are a two-sided 95 % Clopper-Pearson band for the population the examples were drawn from; they say nothing
    about the error level alpha of the certificates themselves.
    """

    radius: float = Field(ge=0)
    certified_accuracy: float
    low: float
    high: float


class CertifierReport(Frozen):
    """One certifier of the job. The curve is a step function that holds each value up to and including its radius."""

    certifier: int
    kind: str
    statement: str
    norm: Norm
    alpha: float | None
    method: str | None
    sigma: float | None
    examples: int
    correct: int
    verdicts: dict[Verdict, int]
    clean_accuracy: float
    curve: tuple[CurvePoint, ...]
    median_radius: float
    average_radius: float
    largest_radius: float
    at_cap: int
    note: str


class Report(Frozen):
    """Certifiers side by side; each keeps its own statement and they are never added up."""

    certifiers: tuple[CertifierReport, ...]
