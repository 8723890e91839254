"""What a run finds out, as rows: certificates, which prove, and attack results, which only show. `kind` tells them apart.

An attack result is never a certificate and has no radius: a distance at which the answer changes is an upper limit of every true radius.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from certify.certificate import BoundsEvidence, Certificate, Provenance, Sha256
from certify.norms import Norm
from certify.spec import Frozen

ATTACK = "attack"


class AttackResult(Frozen):
    """What an attack found about one example: an input with another answer than `prediction`, or none, which proves nothing.

    `distance_upper` is at least the distance from the example to `counterexample` (base64 of little-endian float32 in the order of the
    input), in `norm` and raw-input units, and at most `max_radius`; both are null when none was found. Where `clipped`, only inputs of the
    model's value range were tried. `prediction` is null when the example itself got no finite logits, and then nothing was tried.
    """

    example: int
    certifier: int
    kind: Literal["attack"] = "attack"
    method: str
    label: int
    prediction: int | None
    correct: bool
    found: bool
    answer: int | None
    distance_upper: Annotated[float, Field(ge=0)] | None
    norm: Norm
    max_radius: float
    clipped: bool
    counterexample: str | None
    reason: str
    provenance: Provenance
    seconds: float
    example_digest: Sha256 | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.correct != (self.prediction == self.label):
            raise ValueError("correct must say whether the prediction is the label")
        shown = (self.answer is not None, self.distance_upper is not None, self.counterexample is not None)
        if set(shown) != {self.found}:
            raise ValueError("a find needs its answer, its distance and the input; nothing found has none of them")
        if self.found and (self.prediction is None or self.answer == self.prediction):
            raise ValueError("a counterexample has another answer than the example")
        if self.distance_upper is not None and self.distance_upper > self.max_radius:
            raise ValueError("a find lies within max_radius")
        return self

    def unbroken_at(self, radius: float) -> bool:
        """True when the example is answered correctly and no counterexample was found up to `radius`: no proof that there is none."""
        return self.correct and not (self.distance_upper is not None and self.distance_upper <= radius)

    def line(self) -> str:
        """One line of JSON; floats in the shortest form that reads back the same."""
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":"), allow_nan=False)


def _tag(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return ATTACK if kind == ATTACK else "certificate"


Finding = Annotated[Annotated[Certificate, Tag("certificate")] | Annotated[AttackResult, Tag(ATTACK)], Discriminator(_tag)]
_FINDING: TypeAdapter[Certificate | AttackResult] = TypeAdapter(Finding)


def parse_finding(line: str | bytes) -> Certificate | AttackResult:
    """A row from its line of JSON.

    Raises:
        pydantic.ValidationError: it is none.
    """
    return _FINDING.validate_json(line)


def counterexample_of(finding: Certificate | AttackResult) -> str | None:
    """The input that the row keeps because it gets another answer, as stored; null when it keeps none."""
    if isinstance(finding, AttackResult):
        return finding.counterexample
    return finding.evidence.counterexample if isinstance(finding.evidence, BoundsEvidence) else None
