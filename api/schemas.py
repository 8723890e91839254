"""What goes over the wire."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from certify.certificate import Certificate, PredictionEvidence
from certify.errors import Problem
from certify.facts import DatasetFacts, ModelFacts
from certify.run import Plan
from certify.spec import Alpha, Count, ExampleRange, Positive, Precision
from certify.verdict import Verdict
from storage import records

T = TypeVar("T")
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$", examples=["digits-cnn"])]


def _shown_as_it_is(value: str) -> str:
    if not value.isprintable():
        raise ValueError("holds control characters, or marks that turn the direction of text; use letters, digits, punctuation and spaces")
    return value


Label = Annotated[str, Field(max_length=200), AfterValidator(_shown_as_it_is)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the uploaded bytes, in hex")]


def _written_out(value: Any) -> Any:
    if not (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[Tt ]\d", value, re.ASCII)):
        raise ValueError("is no moment of RFC 3339; write it as 2027-01-31T02:00:00Z")
    return value


# Pydantic alone takes numbers of seconds too, also those of years or milliseconds that somebody mistook for them.
Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]


class In(BaseModel):
    """A body that is sent. No text in it, however deep, holds what cannot be stored."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, data: Any) -> Any:
        waiting = [data]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                waiting += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                waiting += value
            elif isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
                raise ValueError("holds a NUL character or half a surrogate pair, which no text can hold; send valid Unicode")
        return data


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class NewModel(In):
    name: Name
    blob: Digest
    range: tuple[float, float] | None = Field(default=None, description="declared range of raw input values, [low, high]")

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (-1e30 < value[0] < value[1] < 1e30):
            raise ValueError(f"is [{value[0]}, {value[1]}]; use [low, high] with low < high, both finite")
        return value


class NewDataset(In):
    name: Name
    blob: Digest


class NewJob(In):
    model: str
    dataset: str
    spec: dict[str, Any] = Field(
        description="see Spec in docs/design.md", examples=[{"certifiers": [{"kind": "smoothing", "sigma": 0.25}]}]
    )
    name: Label = ""


class NewPrediction(In):
    """PREDICT of randomized smoothing: at one `sigma`, or through the `ledger` of a job with statement `memory`.

    With probability at least 1 - alpha over the noise an answer is not a class other than the smoothed classifier's; it may abstain.
    No radius is claimed. Through a ledger, the region that contains an input answers; elsewhere the votes do, at the level that the
    ledger's search finds for the input.
    """

    model: str
    dataset: str
    ledger: Annotated[str | None, Field(max_length=40)] = Field(default=None, description="id of a ledger, in place of sigma")
    sigma: Annotated[Positive | None, Field(validate_default=True)] = Field(
        default=None, description="standard deviation of the noise in each coordinate, raw-input units", examples=[0.25]
    )
    n: Count = Field(default=1000, description="votes of noisy copies for each example")
    alpha: Alpha = Field(default=0.001, description="error level of each answer")
    noise: Literal["gaussian", "discrete-gaussian", "uniform"] = "gaussian"
    precision: Precision = Field(default="float32", description="in which the network runs; a ledger has its own")
    examples: ExampleRange = ExampleRange()
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    name: Label = ""

    @field_validator("sigma")
    @classmethod
    def _one_way(cls, sigma: float | None, info: ValidationInfo) -> float | None:
        if (sigma is None) == (info.data.get("ledger") is None):
            raise ValueError("is needed, or the id of a ledger in its place; give exactly one of sigma and ledger")
        return sigma

    @field_validator("noise")
    @classmethod
    def _of_ledgers(cls, noise: str, info: ValidationInfo) -> str:
        if info.data.get("ledger") is not None and noise != "gaussian":
            raise ValueError("is gaussian where a ledger is asked; remove it")
        return noise

    @field_validator("precision")
    @classmethod
    def _of_the_rule(cls, precision: Precision, info: ValidationInfo) -> Precision:
        if info.data.get("ledger") is not None and precision != "float32":
            raise ValueError("is that of its rule where a ledger is asked; remove it")
        return precision


class ProblemOut(Out):
    field: str
    detail: str
    mend: str

    @classmethod
    def of(cls, problems: tuple[Problem, ...]) -> list[ProblemOut]:
        return [cls(field=p.field, detail=p.detail, mend=p.mend) for p in problems]


class ModelOut(Out):
    id: str
    name: str
    version: int
    blob: str
    size: int
    range: tuple[float, float] | None
    state: records.ArtifactState
    facts: ModelFacts | None
    rejection: list[ProblemOut]
    condition: str = Field(description="why it is inspected again, or why it failed; empty otherwise")
    reader: str | None = Field(description="version of what inspected it; null while that is not known")
    created_at: datetime

    @classmethod
    def of(cls, model: records.Model) -> ModelOut:
        return cls.model_validate({**vars(model), "range": model.value_range, "rejection": ProblemOut.of(model.rejection)})


class DatasetOut(Out):
    id: str
    name: str
    version: int
    blob: str
    size: int
    state: records.ArtifactState
    facts: DatasetFacts | None
    rejection: list[ProblemOut]
    condition: str = Field(description="why it is inspected again, or why it failed; empty otherwise")
    reader: str | None = Field(description="version of what inspected it; null while that is not known")
    created_at: datetime

    @classmethod
    def of(cls, dataset: records.Dataset) -> DatasetOut:
        return cls.model_validate({**vars(dataset), "rejection": ProblemOut.of(dataset.rejection)})


class ProgressOut(Out):
    certificates_total: int
    certificates_done: int
    shards_total: int
    shards_done: int
    samples_done: int
    rate: float | None
    eta_seconds: float | None
    verdicts: dict[str, int] = Field(default_factory=dict, description="stored rows by verdict; empty in lists of jobs")


class JobOut(Out):
    id: str
    name: str
    model: str
    dataset: str
    model_digest: str
    dataset_digest: str
    spec: dict[str, Any]
    spec_digest: str
    attempt: int = Field(description="number of this spec among all that this tenant has tried on this model and dataset")
    attempts: list[int | None] = Field(description="of each certifier, which throw of it this is among them; null: it draws no noise")
    noise_commitment: str | None
    noise_key: str | None
    state: records.JobState
    plan: Plan | None
    progress: ProgressOut
    condition: str
    error: list[ProblemOut]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reused: bool = Field(default=False, description="true when an unchanged question returned the job that already answers it")

    @classmethod
    def of(cls, job: records.Job, *, reused: bool = False) -> JobOut:
        values = {**vars(job), "model": job.model_id, "dataset": job.dataset_id, "spec": job.spec.model_dump(mode="json")}
        return cls.model_validate({**values, "error": ProblemOut.of(job.error), "reused": reused})


class PredictionOut(Out):
    """A prediction is a job; the rest of it is at /v1/jobs/{id}."""

    id: str
    name: str
    model: str
    dataset: str
    sigma: float | None = None
    ledger: str | None = None
    version: int | None = Field(default=None, description="the state of the ledger that is asked")
    n: int
    alpha: float
    noise: str = "gaussian"
    precision: Precision = "float32"
    examples: ExampleRange
    seed: int
    attempt: int
    noise_commitment: str | None
    noise_key: str | None
    state: records.JobState
    progress: ProgressOut
    condition: str
    error: list[ProblemOut]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reused: bool = Field(default=False, description="true when an unchanged question returned the prediction that already answers it")

    @classmethod
    def of(cls, job: records.Job, *, reused: bool = False) -> PredictionOut:
        asked = {**vars(job.spec), **vars(job.spec.certifiers[0])}
        values = {**asked, **vars(job), "model": job.model_id, "dataset": job.dataset_id}
        return cls.model_validate({**values, "error": ProblemOut.of(job.error), "reused": reused})


class AnswerOut(Out):
    """The smoothed classifier's answer for one example: `prediction` is null when it abstained or failed, as `verdict` says.

    `p_value` is that of the two most frequent classes being equally likely, `counts` the votes by class.
    """

    example: int
    label: int
    prediction: int | None
    correct: bool
    p_value: float | None
    counts: list[int] | None
    verdict: Verdict
    reason: str

    @classmethod
    def of(cls, row: Certificate) -> AnswerOut:
        votes = row.evidence if isinstance(row.evidence, PredictionEvidence) else None
        return cls.model_validate({**vars(row), "p_value": votes and votes.p_value, "counts": votes and list(votes.counts)})


class PredictionPageOut(PredictionOut):
    """A prediction and a page of its answers."""

    items: list[AnswerOut]
    next_cursor: str | None


class PageOut(BaseModel, Generic[T]):
    """Some of a list. `next_cursor` leads to the next page, and is null on the last."""

    items: list[T]
    next_cursor: str | None


class BlobOut(BaseModel):
    sha256: str
    size: int


class UploadOut(BaseModel):
    """An upload of which not all parts are here."""

    sha256: str
    received: int = Field(description="bytes that are here, from the first on")
    total: int
