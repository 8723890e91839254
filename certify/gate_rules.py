"""What a run must pass: rules as users write them. Immutable; every default is part of the stored rule.

A new rule is one class here and its judgement in `certify.gates`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from certify.errors import InputError, Problem, problems_of
from certify.rounding import show_given, show_radius
from certify.spec import (
    AttackSpec,
    BoundsSpec,
    CertifierSpec,
    Frozen,
    LatentSmoothingSpec,
    LipschitzSpec,
    PredictingSpec,
    RadiusSpec,
    Spec,
    SplittingSpec,
    decided_radii,
)

Radius = Annotated[float, Field(strict=True, ge=0, le=1e6)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Level = Annotated[float, Field(strict=True, ge=1e-12, le=0.5)]
Baseline = Annotated[str, Field(pattern=r"^(previous|pinned|job_[0-9a-z]{1,40})$")]


class Match(Frozen):
    """Certifiers by what they are; what is left out does not matter."""

    kind: str | None = None
    norm: str | None = None
    method: str | None = None
    sigma: float | None = None

    def fits(self, certifier: CertifierSpec) -> bool:
        return all(getattr(certifier, name, None) == value for name, value in self if value is not None)


class GateRule(Frozen):
    """The certifiers a rule speaks of: one by its index in the spec, those that match, or all of them. Each is judged on its own."""

    certifier: Annotated[int, Field(strict=True, ge=0, lt=64)] | None = None
    match: Match | None = None

    claims_radii: ClassVar[bool] = True

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.certifier is not None and self.match is not None:
            raise ValueError("name certifiers in one way; remove certifier or match")
        return self

    def chosen(self, spec: Spec) -> tuple[int, ...]:
        """Indices of the certifiers of this spec that the rule speaks of. Attacks prove nothing, predictions claim no radius."""
        return tuple(index for index, certifier in enumerate(spec.certifiers) if self._means(index, certifier))

    def _means(self, index: int, certifier: CertifierSpec) -> bool:
        if isinstance(certifier, AttackSpec) or (self.claims_radii and isinstance(certifier, PredictingSpec)):
            return False
        return self.certifier in (None, index) and (self.match is None or self.match.fits(certifier))


class CertifiedAccuracy(GateRule):
    """Certified accuracy at `radius` on the examples of the run is at least `at_least`."""

    kind: Literal["certified-accuracy"]
    radius: Radius
    at_least: Share


class NoDrop(GateRule):
    """No significant drop of certified accuracy at `radius` against a baseline, by the exact test on the same examples.

    `baseline`: `previous` (the run before, of the same schedule), `pinned` (the job pinned to the gate; the first run it judged until
    somebody pins another) or a job. One of two levels is given: `level_per_night` is the probability that an unchanged night is flagged,
    `level_per_year` that any night of a year is. Where a gate makes several comparisons, they share the level.
    """

    kind: Literal["no-drop"]
    radius: Radius
    baseline: Baseline = "previous"
    level_per_night: Level | None = None
    level_per_year: Level | None = None

    @model_validator(mode="before")
    @classmethod
    def _default(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("level_per_night") is None and data.get("level_per_year") is None:
            return {**data, "level_per_night": 0.01}
        return data

    @model_validator(mode="after")
    def _one_level(self) -> Self:
        if self.level_per_night is not None and self.level_per_year is not None:
            raise ValueError("one level follows from the other; give level_per_night or level_per_year")
        return self

    def level(self, nights: int) -> Fraction:
        """The error level of one night, exactly as written in decimal; `nights` comparisons a year share `level_per_year`."""
        if self.level_per_night is not None:
            return Fraction(repr(self.level_per_night))
        return Fraction(repr(self.level_per_year)) / nights


class Abstention(GateRule):
    """At most this share of examples is left without a decision: abstained, unknown, timed out or failed."""

    kind: Literal["abstention"]
    at_most: Share

    claims_radii: ClassVar[bool] = False


Rule = Annotated[CertifiedAccuracy | NoDrop | Abstention, Field(discriminator="kind")]


class Rules(Frozen):
    """All rules of a gate. It fails when one fails; it is inconclusive when none fails and one is."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1, max_length=16)]

    def canonical(self) -> str:
        """JSON with every default written."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def comparisons(self, spec: Spec) -> int:
        """How many tests against a baseline a run of this spec undergoes."""
        return sum(len(rule.chosen(spec)) for rule in self.rules if isinstance(rule, NoDrop))

    def baselines(self) -> tuple[str, ...]:
        """The different baselines that are asked for."""
        return tuple(dict.fromkeys(rule.baseline for rule in self.rules if isinstance(rule, NoDrop)))


def parse_rules(data: str | Sequence[Mapping[str, Any]]) -> Rules:
    """Rules from stored JSON, or from a parsed list.

    Raises:
        InputError: names every field that is wrong and its mend.
    """
    try:
        return Rules.model_validate_json(data) if isinstance(data, str) else Rules.model_validate({"rules": data})
    except ValidationError as error:
        raise InputError(*problems_of(error)) from None


def check_rules(rules: Rules, spec: Spec, *, scheduled: bool) -> None:
    """Refuse rules that no run of this spec could ever answer.

    Raises:
        InputError: every problem, each with its field and mend.
    """
    found = [problem for index, rule in enumerate(rules.rules) for problem in _problems(f"rules.{index}", rule, spec, scheduled)]
    if found:
        raise InputError(*found)


def _problems(place: str, rule: Rule, spec: Spec, scheduled: bool) -> Iterator[Problem]:
    chosen = rule.chosen(spec)
    if not chosen:
        yield _nothing_chosen(place, rule, spec)
    for index in chosen:
        if why := silent(rule, spec.certifiers[index]):
            detail, _, mend = why.partition("; ")
            yield Problem(field=f"{place}.radius", detail=f"certifier {index} {detail}", mend=mend)
    if isinstance(rule, NoDrop) and not scheduled:
        if rule.baseline in ("previous", "pinned"):
            yield Problem(field=f"{place}.baseline", detail=f"{rule.baseline} needs a schedule", mend="name a job, or gate a schedule")
        if rule.level_per_year is not None:
            yield Problem(field=f"{place}.level_per_year", detail="a single job has no nights to share it", mend="give level_per_night")


def silent(rule: Rule, certifier: CertifierSpec) -> str:
    """Why a certifier can say nothing at the rule's radius; and, after a semicolon, the mend. Empty when it can.

    Rows decided at given radii are decisions at those radii (design 4.2): between them the share that holds is no certified accuracy.
    Beyond the reach of a certifier nothing ever holds, and so nothing ever falls.
    """
    if isinstance(rule, Abstention):
        return ""
    radii = decided_radii(certifier)
    if radii is not None and rule.radius not in radii:
        listed = ", ".join(show_given(radius) for radius in radii)
        return f"decides radius {listed} only, not {show_given(rule.radius)}; use one of these radii, or ask the job for this one"
    if radii is None and rule.radius > (reach := _reach(certifier)):
        why = f"never certifies radius {show_given(rule.radius)}: it reaches {show_radius(reach, 6)} at most"
        return f"{why}; use a smaller radius, or a job that reaches further"
    return ""


def _reach(certifier: CertifierSpec) -> float:
    """No certificate of this certifier has a larger radius."""
    if isinstance(certifier, BoundsSpec):
        return certifier.max_radius or 0.0
    if isinstance(certifier, LatentSmoothingSpec | LipschitzSpec):
        return math.inf  # it depends on the model, which may shrink distances
    if isinstance(certifier, RadiusSpec):
        return certifier.largest_radius(certifier.alpha)
    return certifier.largest_radius if isinstance(certifier, SplittingSpec) else 0.0


def _nothing_chosen(place: str, rule: Rule, spec: Spec) -> Problem:
    kinds = ", ".join(f"{index} {certifier.kind}" for index, certifier in enumerate(spec.certifiers))
    field = f"{place}.match" if rule.match else f"{place}.certifier"
    claim = " that claims radii" if rule.claims_radii else ""
    return Problem(field=field, detail=f"no certifier of the spec{claim} is meant (it has {kinds})", mend="choose one of these")
