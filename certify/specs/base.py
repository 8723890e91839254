"""What all parts of a spec share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e6)]
Alpha = Annotated[float, Field(strict=True, ge=1e-10, lt=0.5)]
# In which smoothed networks run: IEEE float32, or what multiplies shorter numbers.
Precision = Literal["float32", "tf32", "bf16"]


class Frozen(BaseModel):
    """Immutable, unknown fields refused, no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ExampleRange(Frozen):
    """Which examples of the dataset: `range(start, stop, step)`; `stop` null means to the end."""

    start: Annotated[int, Field(strict=True, ge=0)] = 0
    stop: Annotated[int, Field(strict=True, ge=0)] | None = None
    step: Annotated[int, Field(strict=True, ge=1)] = 1

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"start {self.start} to stop {self.stop} selects no example; choose stop > start")
        return self

    def indices(self, total: int) -> range:
        """The selected dataset rows of a dataset of `total` rows."""
        stop = total if self.stop is None else min(self.stop, total)
        return range(self.start, stop, self.step)


class OtherModel(Frozen):
    """A network besides the job's own that takes part in a certifier: where the spec names it, and what it must be.

    It takes the raw input of the job's own network, and has `outputs` logits, one for each of what `each` names.
    """

    field: str
    digest: str
    noun: str
    outputs: int
    each: str


class Part(Frozen, ABC):
    """One entry of a spec's `certifiers`."""

    @property
    @abstractmethod
    def other_models(self) -> tuple[OtherModel, ...]:
        """Networks besides the job's own that take part; `field` is where this entry names them.

        A job may use those that its tenant has uploaded. Abstract, so that no kind can forget to say.
        """


class Alone(Part):
    """An entry in which the job's own network takes part and no other."""

    @property
    def other_models(self) -> tuple[OtherModel, ...]:
        return ()
