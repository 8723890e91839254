"""What a user asks for: certifiers, examples, seed. Immutable; every default is part of the stored spec and its digest.

Adding a certificate family adds one class here and one name to `CertifierSpec`. Validation that needs the model or the
dataset is in `certify.facts`; this file refuses what is impossible for any model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from itertools import pairwise
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from certify.errors import SpecError, problems_of
from certify.looks import default_looks, shares
from certify.norms import Norm, conversion
from certify.rounding import radius_down

Count = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e6)]
Alpha = Annotated[float, Field(strict=True, ge=1e-10, lt=0.5)]


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


class CopiesSpec(Frozen):
    """What all certifiers that vote over altered copies share. `sigma` is the standard deviation of each coordinate, raw-input units."""

    sigma: Positive
    batch_size: Annotated[int, Field(strict=True, ge=1, le=65_536)] | None = None

    method: ClassVar[None] = None


class NoisySpec(CopiesSpec):
    """What all certifiers share whose copies are drawn at random."""

    noise: Literal["gaussian", "discrete-gaussian", "uniform"] = "gaussian"

    stochastic: ClassVar[bool] = True

    @property
    def grid_field(self) -> str | None:
        """The field because of which only inputs on the 1/255 grid can be answered; null when all can."""
        return "noise" if self.noise == "discrete-gaussian" else None

    @model_validator(mode="after")
    def _grid_is_small(self) -> Self:
        if self.grid_field and self.sigma > 16:
            raise ValueError(f"sigma = {self.sigma:g} is no noise for 8-bit inputs in [0, 1]; use at most 16")
        return self


class SmoothingSpec(NoisySpec):
    """CERTIFY of randomized smoothing: the largest ball in which the smoothed classifier's answer is proved, or decisions at `radii`.

    `looks` are the sample counts at which an adaptive run looks at its votes; fixed here, before any sample, and so part of the digest.
    `norm` other than the noise's own is a conversion by norm inequalities and labelled as such.
    """

    kind: Literal["smoothing"]
    n0: Count = 100
    n: Count = 100_000
    alpha: Alpha = 0.001
    radii: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    error_rate: Literal["per-example", "family-wise"] = "family-wise"
    bound: Literal["one-sided", "top-two"] = "one-sided"
    sampling: Literal["adaptive", "fixed"] = "adaptive"
    looks: Annotated[tuple[Count, ...], Field(min_length=1, max_length=200)]
    tolerance: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    norm: Norm

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        """Defaults that follow from other fields, written out, so that the digest contains them."""
        if not isinstance(data, dict):
            return data
        values = {key: value for key, value in data.items() if value is not None}
        adaptive = values.get("sampling", "adaptive") == "adaptive"
        n = values.get("n", cls.model_fields["n"].default)
        if isinstance(n, int) and n >= 1:
            values.setdefault("looks", default_looks(n) if adaptive else (n,))
        if adaptive and "radii" not in values:
            values.setdefault("tolerance", 0.05)
        values.setdefault("norm", Norm.L1 if values.get("noise") == "uniform" else Norm.L2)
        return values

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if any(a >= b for a, b in pairwise(self.looks)) or self.looks[-1] != self.n:
            raise ValueError(f"looks must ascend and end at n = {self.n}; correct them or leave them out")
        if self.sampling == "fixed" and len(self.looks) > 1:
            raise ValueError("looks belong to adaptive sampling; remove them or use sampling adaptive")
        if self.tolerance is not None and (self.radii or self.sampling == "fixed"):
            raise ValueError("tolerance says when adaptive sampling of the largest radius may stop; remove it, or radii, or sampling fixed")
        if self.noise == "uniform" and self.norm is Norm.L2:
            raise ValueError("uniform noise proves l1 radii, from which no useful l2 radius follows; use norm l1 or gaussian noise")
        # The tests on alpha alone are necessary for any number of examples; `certify.facts` repeats them with alpha / N.
        if impossible := self.impossible(self.alpha):
            raise ValueError(impossible)
        return self

    @property
    def own_norm(self) -> Norm:
        """The norm of the theorem behind this noise."""
        return Norm.L1 if self.noise == "uniform" else Norm.L2

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of alpha that each look may spend."""
        return shares(len(self.looks))

    def work(self, largest_tensor: int) -> float:
        """A rough cost of one example, in tensor elements touched: what shards are cut by."""
        return float(self.n0 + self.n) * largest_tensor / (1.0 if self.sampling == "fixed" else 8.0)

    def alpha_each(self, family: int) -> float:
        """The error level of one certificate when `family` stochastic certificates share `alpha`."""
        return self.alpha / family if self.error_rate == "family-wise" else self.alpha

    def largest_radius(self, alpha: float, dimension: int = 1) -> float:
        """What unanimous votes reach at the last look, p = alpha_last^(1/n) being the Clopper-Pearson limit at k = n.

        Args:
            alpha: error level of one certificate.
            dimension: elements of one input; it matters to converted norms only.
        """
        p = self._unanimous(alpha)
        if p <= 0.5:
            return 0.0
        own = math.sqrt(3.0) * self.sigma * (2 * p - 1) if self.noise == "uniform" else self.sigma * NormalDist().inv_cdf(p)
        return own / conversion(self.own_norm, self.norm, dimension)

    def impossible(self, alpha: float, dimension: int = 1) -> str:
        """Why no certificate can come out at this error level, or an empty string."""
        reach = self.largest_radius(alpha, dimension)
        level = self._last_level(alpha)
        if reach <= 0.0:
            least = math.floor(math.log(level) / math.log(0.5)) + 1
            return (
                f"n = {self.n} samples can never certify at alpha = {alpha:g} for each example"
                f" (unanimous votes give pA_lower = {self._unanimous(alpha):.4f} <= 1/2); use n >= {least}"
            )
        too_far = [r for r in self.radii or () if r > reach]
        if too_far:
            return (
                f"radius {max(too_far):g} is out of reach: n = {self.n}, alpha = {alpha:g} for each example and"
                f" sigma = {self.sigma:g} reach at most {math.floor(reach * 1e4) / 1e4:g} in {self.norm};"
                " use a smaller radius, more samples or a larger sigma"
            )
        return ""

    def _last_level(self, alpha: float) -> float:
        return alpha * self.shares[-1] / (2 if self.bound == "top-two" else 1)

    def _unanimous(self, alpha: float) -> float:
        return math.exp(math.log(self._last_level(alpha)) / self.n)


class PredictSpec(NoisySpec):
    """PREDICT of randomized smoothing: the class that the smoothed classifier gives at the input itself, or an abstention."""

    kind: Literal["predict"]
    n: Count = 1000
    alpha: Alpha = 0.001

    norm: ClassVar[Norm] = Norm.L2

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if 2.0 * 0.5**self.n > self.alpha:
            least = math.ceil(1 - math.log2(self.alpha))
            raise ValueError(f"n = {self.n} votes can never single out a class at alpha = {self.alpha:g}; use n >= {least}")
        return self

    def work(self, largest_tensor: int) -> float:
        """A rough cost of one example, in tensor elements touched: what shards are cut by."""
        return float(self.n) * largest_tensor


class SplittingSpec(CopiesSpec):
    """Deterministic splitting noise: the exact answer of the smoothed classifier and a proved l1 ball of grid inputs, without alpha.

    `sigma` is the standard deviation of the uniform noise that the model was trained with, lam = sigma * sqrt(3) its half width.
    `radii` decide exit codes, as for smoothing.
    """

    kind: Literal["dssn"]
    radii: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None

    norm: ClassVar[Norm] = Norm.L1
    noise: ClassVar[str] = "splitting"
    stochastic: ClassVar[bool] = False
    grid_field: ClassVar[str] = "kind"

    @property
    def levels(self) -> int:
        """Copies of one input, one for each offset: floor(2 * lam * 255). The half width used is levels / 510, at most lam."""
        # A sigma that was computed as lam / sqrt(3) gets its own number of levels back.
        return math.floor(2 * 255 * math.sqrt(3.0) * self.sigma + 1e-9)

    @property
    def largest_radius(self) -> float:
        """What unanimous votes reach: each step of 1/255 takes at most one vote from the winner and gives it to a rival."""
        return radius_down(self.levels // 2 / 255)

    def work(self, largest_tensor: int) -> float:
        """The cost of one example, in tensor elements touched: what shards are cut by."""
        return float(self.levels) * largest_tensor

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.levels < 2:
            raise ValueError(f"sigma = {self.sigma:g} moves no 8-bit value to another level; use at least {2 / 510 / math.sqrt(3.0):.4f}")
        if self.levels > 100_000:
            raise ValueError(f"sigma = {self.sigma:g} takes {self.levels} copies of each input, more than 100000; use at most 113")
        if any(radius > self.largest_radius for radius in self.radii or ()):
            raise ValueError(
                f"radius {max(self.radii or ()):g} is out of reach: {self.levels} levels of sigma = {self.sigma:g} reach at most"
                f" {math.floor(self.largest_radius * 1e4) / 1e4:g} in l1; use a smaller radius or a larger sigma"
            )
        return self


class BoundsSpec(Frozen):
    """Bound propagation: either verify at `epsilon`, or the largest radius up to `max_radius`, to a relative `tolerance`."""

    kind: Literal["bounds"]
    method: Literal["ibp", "crown-ibp", "crown", "alpha-crown", "best"]
    norm: Literal["l1", "l2", "linf"]
    epsilon: Positive | None = None
    max_radius: Positive | None = None
    tolerance: Annotated[float, Field(strict=True, ge=1e-9, le=0.5)] | None = None
    iterations: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    timeout_seconds: Annotated[float, Field(strict=True, gt=0)] | None = None

    stochastic: ClassVar[bool] = False
    grid_field: ClassVar[None] = None

    def work(self, largest_tensor: int) -> float:
        """A rough cost of one example, in tensor elements touched: linear bounds keep a matrix of neurons by inputs."""
        calls = (1 if self.epsilon is not None else 20) * (2 * (self.iterations or 0) + 1)
        return calls * float(largest_tensor) ** 2

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        """Defaults that follow from other fields, written out, so that the digest contains them."""
        if not isinstance(data, dict):
            return data
        values = {key: value for key, value in data.items() if value is not None}
        if "max_radius" in values:
            values.setdefault("tolerance", 0.001)
        if values.get("method") in ("alpha-crown", "best"):
            values.setdefault("iterations", 20)
        return values

    @model_validator(mode="after")
    def _one_mode(self) -> Self:
        if (self.epsilon is None) == (self.max_radius is None):
            raise ValueError(
                "needs exactly one of epsilon and max_radius; give epsilon to verify one radius, max_radius to search the largest"
            )
        if self.epsilon is not None and self.tolerance is not None:
            raise ValueError("tolerance belongs to max_radius; remove it or ask for max_radius instead of epsilon")
        if self.iterations is not None and self.method not in ("alpha-crown", "best"):
            raise ValueError("iterations belong to alpha-crown; remove them or use method alpha-crown or best")
        return self


class AttackSpec(Frozen):
    """A search by gradients for the nearest input with another answer, up to `max_radius`. Where none is found, nothing is proved.

    `steps` gradient steps from each of `restarts` points, in some ten rounds that bisect the distance. With the job's `clip` only inputs of
    the model's value range are tried.
    """

    kind: Literal["attack"]
    method: Literal["apgd", "pgd"] = "apgd"
    norm: Literal["l1", "l2", "linf"]
    max_radius: Positive
    restarts: Annotated[int, Field(strict=True, ge=1, le=1000)] = 5
    steps: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 50

    stochastic: ClassVar[bool] = False
    grid_field: ClassVar[None] = None

    def work(self, largest_tensor: int) -> float:
        """A rough cost of one example, in tensor elements touched: forward and backward passes of every restart in every round."""
        return 40.0 * self.restarts * self.steps * largest_tensor


# Those whose evidence is votes of altered copies.
VotingSpec = SmoothingSpec | PredictSpec | SplittingSpec
CertifierSpec = Annotated[VotingSpec | BoundsSpec | AttackSpec, Field(discriminator="kind")]


def decided_radii(certifier: CertifierSpec) -> tuple[float, ...] | None:
    """The only radii a certifier speaks about, ascending; null when its certificates speak about all radii."""
    if isinstance(certifier, BoundsSpec) and certifier.epsilon is not None:
        return (certifier.epsilon,)
    if isinstance(certifier, PredictSpec):
        return (0.0,)
    if isinstance(certifier, SmoothingSpec) and certifier.sampling == "adaptive" and certifier.radii:
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
