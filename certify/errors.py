"""Every error a user can meet, as one tree. Outcomes of a certification are verdicts, not errors.

AssayError                     code, problems; str() is one sentence with the field and the mend
├── InputError                 something the user sent is wrong
│   ├── SpecError              the job specification
│   ├── ModelRejected          the model file, or what it contains
│   └── DatasetRejected        the dataset file, or what it contains
├── NumericalError             the model answered NaN or infinity; never a vote, never a bound
├── EngineUnavailable          a verification engine is missing or of the wrong version
├── ContradictionError         two results cannot both be true; the job fails and names both
└── Cancelled                  the run was asked to stop; nothing partial is kept
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from pydantic import ValidationError


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: where it stands, what it is, what mends it."""

    field: str
    detail: str
    mend: str = ""

    def sentence(self) -> str:
        text = f"{self.field}: {self.detail}" if self.field else self.detail
        return f"{text}; {self.mend}" if self.mend else text

    @property
    def pointer(self) -> str:
        """The field as a JSON pointer (RFC 6901)."""
        return "".join(f"/{part}" for part in self.field.split(".") if part)


class AssayError(Exception):
    """Something went wrong in Assay."""

    code: ClassVar[str] = "error"

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems or (Problem(field="", detail=(type(self).__doc__ or "").strip()),)
        super().__init__("; ".join(problem.sentence() for problem in self.problems))

    @classmethod
    def at(cls, field: str, detail: str, mend: str = "") -> Self:
        """The usual case: one problem at one field."""
        return cls(Problem(field=field, detail=detail, mend=mend))

    def __reduce__(self) -> tuple[Any, ...]:  # errors cross process borders with their problems
        return type(self), self.problems


class InputError(AssayError):
    """Something that was sent cannot be used."""

    code = "invalid-input"


class SpecError(InputError):
    """The job specification cannot be used."""

    code = "invalid-spec"


class ModelRejected(InputError):
    """The model cannot be certified."""

    code = "model-rejected"


class ExportError(InputError):
    """A torch module cannot be turned into a file that Assay reads."""

    code = "export-impossible"


class DatasetRejected(InputError):
    """The dataset cannot be used."""

    code = "dataset-rejected"


class NumericalError(AssayError):
    """The model answered NaN or infinity."""

    code = "numerical-error"


class EngineUnavailable(AssayError):
    """A verification engine is missing or has the wrong version."""

    code = "engine-unavailable"


class ContradictionError(AssayError):
    """Two results cannot both be true."""

    code = "contradiction"


class Cancelled(AssayError):
    """The run was asked to stop."""

    code = "cancelled"


def problems_of(error: ValidationError, root: str = "") -> tuple[Problem, ...]:
    """Pydantic's findings in our form: the dotted field, what is wrong, what mends it."""
    return tuple(_merged(found(item, root) for item in error.errors(include_url=False)))


def found(item: Any, root: str = "") -> Problem:
    """One of pydantic's findings in our form."""
    # A tagged union puts its tag into the location (certifiers.0.smoothing.sigma); users never wrote it.
    parts = [str(part) for i, part in enumerate(item["loc"]) if not (i and isinstance(item["loc"][i - 1], int))]
    field = ".".join(([root] if root else []) + parts)
    if item["type"] == "extra_forbidden":
        return Problem(field=field, detail="unknown field", mend="remove it or check its spelling")
    if item["type"] == "missing":
        return Problem(field=field, detail="is required", mend="add it")
    context = item.get("ctx", {})
    if isinstance(context.get("error"), ValueError):
        detail, _, mend = str(context["error"]).partition("; ")
        return Problem(field=field, detail=detail, mend=mend)
    got = item.get("input")
    shown = f", got {got!r}" if isinstance(got, (int, float, str, bool)) or got is None else ""
    message = item["msg"][0].lower() + item["msg"][1:]
    return Problem(field=field, detail=message + shown[:120], mend="correct the value")


def _merged(problems: Iterable[Problem]) -> Iterable[Problem]:
    seen: set[Problem] = set()
    for problem in problems:
        if problem not in seen:
            seen.add(problem)
            yield problem
