"""What a user asks for: certifiers, examples, seed. Immutable; every default is part of the stored spec and its digest.

Adding a certificate family adds one class in `certify/specs/` and one name to `CertifierSpec`. Validation that needs the model or the
dataset is in `certify.facts`; a spec refuses what is impossible for any model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from certify.errors import SpecError, problems_of
from certify.specs.base import Alpha, Count, ExampleRange, Frozen, OtherModel, Part, Positive, Precision
from certify.specs.deterministic import AttackSpec, BoundsSpec, LipschitzSpec
from certify.specs.instance import DualPredictSpec, InstanceSmoothingSpec, MemoryPredictSpec
from certify.specs.smoothing import LatentSmoothingSpec, RadiusSpec, SmoothingSpec
from certify.specs.voting import CopiesSpec, NoisySpec, PredictSpec, SplittingSpec

__all__ = [
    "Alpha",
    "AttackSpec",
    "BoundsSpec",
    "CertifierSpec",
    "CopiesSpec",
    "Count",
    "DualPredictSpec",
    "ExampleRange",
    "Frozen",
    "InstanceSmoothingSpec",
    "LatentSmoothingSpec",
    "LipschitzSpec",
    "MemoryPredictSpec",
    "NoisySpec",
    "OtherModel",
    "Part",
    "Positive",
    "Precision",
    "PredictSpec",
    "PredictingSpec",
    "ProvingSpec",
    "RadiusSpec",
    "SmoothingSpec",
    "Spec",
    "SplittingSpec",
    "VotingSpec",
    "decided_radii",
    "parse_spec",
]

# Those that prove a radius from votes of noisy copies, those that answer at the inputs themselves, and all whose evidence is votes.
ProvingSpec = SmoothingSpec | LatentSmoothingSpec | InstanceSmoothingSpec
PredictingSpec = PredictSpec | DualPredictSpec | MemoryPredictSpec
VotingSpec = ProvingSpec | PredictingSpec | SplittingSpec
CertifierSpec = Annotated[VotingSpec | BoundsSpec | LipschitzSpec | AttackSpec, Field(discriminator="kind")]


def decided_radii(certifier: CertifierSpec) -> tuple[float, ...] | None:
    """The only radii a certifier speaks about, ascending; null when its certificates speak about all radii."""
    if isinstance(certifier, BoundsSpec) and certifier.epsilon is not None:
        return (certifier.epsilon,)
    if isinstance(certifier, PredictingSpec):
        return (0.0,)
    if isinstance(certifier, RadiusSpec) and certifier.sampling == "adaptive" and certifier.radii:
        return tuple(sorted(set(certifier.radii)))
    return None


class Spec(Frozen):
    """A whole job: `certifiers` are applied, each on its own, to the selected `examples`."""

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    clip: Annotated[bool, Field(strict=True)] = False
    noise_key: Literal["service", "public-seed"] | None = None
    examples: ExampleRange = ExampleRange()
    certifiers: tuple[CertifierSpec, ...]

    @field_validator("certifiers")
    @classmethod
    def _some(cls, certifiers: tuple[CertifierSpec, ...]) -> tuple[CertifierSpec, ...]:
        if not 1 <= len(certifiers) <= 64:
            raise ValueError(f"lists {len(certifiers)} certifiers; list 1 to 64")
        return certifiers

    def with_noise_key(self, default: Literal["service", "public-seed"]) -> Spec:
        """This spec with the place's own default filled in, so that the stored digest contains it."""
        return self if self.noise_key else self.model_copy(update={"noise_key": default})

    def family(self, examples: int) -> int:
        """How many stochastic certificates share a family-wise alpha: examples x stochastic certifiers, at least 1."""
        return max(1, examples * sum(certifier.stochastic for certifier in self.certifiers))

    def clips(self, certifier: int) -> bool:
        """Whether the balls of that certifier are cut to the model's declared value range: `clip` is about linf balls of `bounds`."""
        asked = self.certifiers[certifier]
        return self.clip and isinstance(asked, BoundsSpec) and asked.norm == "linf"

    def canonical(self) -> str:
        """Canonical JSON: every default written, keys sorted, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def parse_spec(data: str | bytes | Mapping[str, Any]) -> Spec:
    """A spec from JSON text or from a parsed object.

    Raises:
        SpecError: names every field that is wrong and its mend.
    """
    try:
        return Spec.model_validate(data if isinstance(data, Mapping) else _parsed(data))
    except ValidationError as error:
        raise SpecError(*problems_of(error)) from None


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError.at("spec", f"is not JSON ({error})", "send one JSON object") from None
