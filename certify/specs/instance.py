"""Smoothing with a noise level for each input: found by search, or chosen by a smoothed selector."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from certify.looks import default_looks
from certify.norms import Norm
from certify.specs.base import Alone, Alpha, Count, ExampleRange, Frozen, OtherModel, Positive
from certify.specs.smoothing import RadiusSpec, SmoothingSpec
from certify.specs.voting import CopiesSpec, too_few_votes

Threshold = Annotated[float, Field(strict=True, ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_SELECTOR_N = 10_000


class SearchSpec(Frozen):
    """A hill climb on log sigma from every level of `sigmas`: `samples` votes at each point, steps that halve in each of `rounds`.

    The step of round r is 2^-r of the way to the next level, so that no climb passes another's start.
    """

    samples: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 256
    rounds: Annotated[int, Field(strict=True, ge=0, le=8)] = 3

    def copies(self, starts: int) -> int:
        """The most votes that one example takes."""
        return starts * (1 + 2 * self.rounds) * self.samples


class SeenRows(ExampleRange):
    """Rows of a dataset that whoever made the selector looked at."""

    dataset: Sha256


class SelectorVotes(Frozen):
    """What all selectors share: votes under gaussian noise of `sigma`, `n0` that choose a level and up to `n` that prove its probability.

    `calibrated_on` declares the rows that it was fitted to; where the job certifies one of them, the statement says `transductive`.
    """

    sigma: Positive
    n0: Count
    n: Count
    looks: Annotated[tuple[Count, ...], Field(min_length=1, max_length=200)]
    calibrated_on: SeenRows | None = None


class ConfidenceSelector(SelectorVotes):
    """The level by the network's own confidence: how many of the `thresholds` the top softmax probability of a noisy copy reaches.

    They ascend, one less than levels; 0 is always reached, 1 never.
    """

    kind: Literal["confidence"]
    thresholds: tuple[Threshold, ...]


class ModelSelector(SelectorVotes):
    """The level by another network, which takes the same inputs and has one logit for each level; `model` is the SHA-256 of its file."""

    kind: Literal["model"]
    model: Sha256


class InstanceSmoothingSpec(RadiusSpec):
    """CERTIFY with gaussian noise at the input whose level is one of `sigmas`, or between them, and depends on the input.

    `statement` says what is claimed, of which classifier (docs/instance.md):
    `dual`, the level is the answer of a smoothed `selector`, and the ball is one in which level and class both stay;
    `frozen`, the level is found by `search` and then held, so that the claim is about a classifier no other input is given;
    `memory`, as `frozen`, and a ledger of certified regions keeps the answers apart.
    """

    kind: Literal["instance-smoothing"]
    sigmas: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=16)]
    statement: Literal["dual", "frozen", "memory"] = "dual"
    search: SearchSpec | None = None
    selector: Annotated[ConfidenceSelector | ModelSelector, Field(discriminator="kind")] | None = None

    noise: ClassVar[Literal["gaussian"]] = "gaussian"
    grid_field: ClassVar[None] = None

    @model_validator(mode="before")
    @classmethod
    def _chosen_how(cls, data: Any) -> Any:
        """The defaults of the search or the selector, written out, so that the digest contains them."""
        if not isinstance(data, dict):
            return data
        values = {key: value for key, value in data.items() if value is not None}
        if values.get("statement", "dual") != "dual":
            values.setdefault("search", {})
        elif isinstance(selector := values.setdefault("selector", {}), dict):
            values["selector"] = _selector({key: value for key, value in selector.items() if value is not None}, values)
        return values

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if any(a >= b for a, b in pairwise(self.sigmas)):
            raise ValueError("sigmas must ascend; sort them and list each once")
        if self.statement == "dual":
            if self.search is not None:
                raise ValueError("search belongs to the statements frozen and memory; remove it, or statement dual")
        elif self.selector is not None:
            raise ValueError(f"selector belongs to statement dual; remove it, or statement {self.statement}")
        if self.statement == "memory" and self.norm is not Norm.L2:
            raise ValueError(f"norm {self.norm}: the regions of a ledger are l2 balls; remove norm, or use statement frozen or dual")
        return self

    @model_validator(mode="after")
    def _selector_fits(self) -> Self:
        selector = self.selector
        if selector is None:
            return self
        if any(a >= b for a, b in pairwise(selector.looks)) or selector.looks[-1] != selector.n:
            raise ValueError(f"selector.looks must ascend and end at selector.n = {selector.n}; correct them or leave them out")
        if self.sampling == "fixed" and len(selector.looks) > 1:
            raise ValueError("selector.looks belong to adaptive sampling; remove them or use sampling adaptive")
        if problem := misfit(selector, len(self.sigmas)):
            raise ValueError(problem)
        return self

    @property
    def largest_sigma(self) -> float:
        return self.sigmas[-1]

    @property
    def other_models(self) -> tuple[OtherModel, ...]:
        return _named(self.selector, self.sigmas)

    @property
    def selection(self) -> SmoothingSpec:
        """What the selector's votes have to prove: the level, under noise of its own."""
        assert self.selector is not None
        return SmoothingSpec.model_construct(
            kind="smoothing",
            noise="gaussian",
            sigma=self.selector.sigma,
            n0=self.selector.n0,
            n=self.selector.n,
            looks=self.selector.looks,
            **{
                name: getattr(self, name)
                for name in ("alpha", "radii", "error_rate", "bound", "sampling", "tolerance", "norm", "precision")
            },
        )

    def saw(self, dataset: str, examples: ExampleRange) -> bool:
        """Whether whoever made the selector declares to have looked at one of these examples of this dataset."""
        seen = self.selector.calibrated_on if self.selector else None
        return seen is not None and seen.dataset == dataset and overlap(_rows(seen), _rows(examples))

    def unanimous_radius(self, level: float, alpha: float) -> float:
        """The l2 radius that unanimous votes of the classifier prove at a level, neither rounded nor claimed."""
        return level * NormalDist().inv_cdf(max(0.5, self._unanimous(alpha)))

    def work(self, largest_tensor: int) -> float:
        found = super().work(largest_tensor)
        if self.selector is not None:
            return found + self.selection.work(largest_tensor)
        return found + float((self.search or SearchSpec()).copies(len(self.sigmas)) * largest_tensor)

    def largest_radius(self, alpha: float, dimension: int = 1) -> float:
        found = super().largest_radius(alpha, dimension)
        return found if self.selector is None else min(found, self.selection.largest_radius(alpha, dimension))

    def impossible(self, alpha: float, dimension: int = 1, lipschitz: float | None = None) -> str:
        if self.selector is not None and (why := self.selection.impossible(alpha, dimension)):
            return f"the selector can never agree: {why}"
        return super().impossible(alpha, dimension, lipschitz)


def _named(selector: ConfidenceSelector | ModelSelector | None, sigmas: tuple[float, ...]) -> tuple[OtherModel, ...]:
    """The network that a selector is, if it is one of its own."""
    if not isinstance(selector, ModelSelector):
        return ()
    return (OtherModel(field="selector.model", digest=selector.model, noun="selector", outputs=len(sigmas), each="sigmas"),)


def misfit(selector: ConfidenceSelector | ModelSelector, levels: int) -> str:
    """Why a selector cannot choose among so many levels, or an empty string."""
    if not isinstance(selector, ConfidenceSelector):
        return ""
    if len(selector.thresholds) != levels - 1:
        return f"selector.thresholds lists {len(selector.thresholds)}; {levels} sigmas need one less"
    return "selector.thresholds must ascend; sort them" if any(a > b for a, b in pairwise(selector.thresholds)) else ""


def overlap(a: range, b: range) -> bool:
    """Whether two ascending ranges share a number; without listing them."""
    step = math.gcd(a.step, b.step)
    if (a.start - b.start) % step:
        return False
    first = a.start + -(-max(0, b.start - a.start) // a.step) * a.step
    return any(i in a and i in b for i in range(first, first + a.step * (b.step // step), a.step))


def _rows(examples: ExampleRange) -> range:
    return examples.indices(2**62)


def _selector(given: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A selector with every default. What has a wrong type is left alone: its own field says so."""
    found = {"kind": "confidence", "n0": 100, **given}
    sigmas, n = values.get("sigmas"), values.get("n", InstanceSmoothingSpec.model_fields["n"].default)
    levels = [float(one) for one in sigmas if _is(one, float)] if isinstance(sigmas, list | tuple) else []
    if levels:
        found.setdefault("sigma", max(levels))
    if _is(n, int):
        found.setdefault("n", min(n, _SELECTOR_N))
    if _is(found.get("n"), int):
        adaptive = values.get("sampling", "adaptive") == "adaptive"
        found.setdefault("looks", default_looks(found["n"]) if adaptive else (found["n"],))
    if found["kind"] == "confidence" and levels and _is(found.get("sigma"), float) and _is(n, int):
        alpha = values.get("alpha", InstanceSmoothingSpec.model_fields["alpha"].default)
        if _is(alpha, float) and alpha < 1:
            found.setdefault("thresholds", default_thresholds(sorted(levels), float(found["sigma"]), alpha, n))
    return found


def _is(value: Any, kind: type[int] | type[float]) -> bool:
    wanted = int if kind is int else int | float
    return isinstance(value, wanted) and not isinstance(value, bool) and 0 < value < math.inf


def default_thresholds(sigmas: list[float], sigma: float, alpha: float, n: int) -> tuple[float, ...]:
    """Confidences at which the next level pays off, were the network linear: no data is looked at.

    At distance d from the boundary of two classes a level proves at most sigma_j * Phi^-1(alpha^(1/n)), and loses less to sampling the
    smaller it is: the best is the smallest with that limit above d. A network that is calibrated under the selector's noise has the
    confidence Phi(d / sigma) there.

    Args:
        sigmas: the levels, ascending.
        sigma: of the selector.
        alpha: error level that is shared by nobody.
        n: samples of the classifier.
    """
    best = NormalDist().inv_cdf(max(0.5, math.exp(math.log(alpha) / n)))
    return tuple(round(NormalDist().cdf(level * best / sigma), 6) for level in sigmas[:-1])


class DualPredictSpec(CopiesSpec):
    """PREDICT of the rule that a `dual` certificate speaks of: a level by the smoothed selector, then the class under that level.

    `sigmas` and `selector` are those of the certificate; `selector.n` votes choose the level, `n` the class. Only these counts have
    defaults: other thresholds would be another rule.
    """

    kind: Literal["dual-predict"]
    sigmas: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=16)]
    selector: Annotated[ConfidenceSelector | ModelSelector, Field(discriminator="kind")]
    n: Count = 1000
    alpha: Alpha = 0.001

    norm: ClassVar[Norm] = Norm.L2
    noise: ClassVar[Literal["gaussian"]] = "gaussian"
    stochastic: ClassVar[bool] = True
    grid_field: ClassVar[None] = None

    @model_validator(mode="before")
    @classmethod
    def _votes_of_the_selector(cls, data: Any) -> Any:
        """What only matters to certificates may be left out of the selector."""
        selector = data.get("selector") if isinstance(data, dict) else None
        if not isinstance(selector, dict):
            return data
        n = selector.get("n", cls.model_fields["n"].default)
        return {**data, "selector": {"n0": 1, "n": n, "looks": (n,), **selector}}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if any(a >= b for a, b in pairwise(self.sigmas)):
            raise ValueError("sigmas must ascend; sort them and list each once")
        if problem := misfit(self.selector, len(self.sigmas)):
            raise ValueError(problem)
        for n in (self.n, self.selector.n):
            if why := too_few_votes(n, self.alpha / 2):
                raise ValueError(why)
        return self

    @property
    def other_models(self) -> tuple[OtherModel, ...]:
        return _named(self.selector, self.sigmas)

    def work(self, largest_tensor: int) -> float:
        """A rough cost of one example, in tensor elements touched: what shards are cut by."""
        return float(self.n + self.selector.n) * largest_tensor


class MemoryPredictSpec(CopiesSpec, Alone):
    """PREDICT through a ledger of certified regions: the region's class inside one, the answer at the searched level elsewhere.

    `version` is the state of the `ledger` that is asked; regions that were revoked since do not answer either. `sigmas` and `search` are
    those of the ledger's rule.
    """

    kind: Literal["memory-predict"]
    ledger: Annotated[str, Field(pattern=r"^ldg_[0-9a-z]{26}$")]
    version: Annotated[int, Field(strict=True, ge=0, lt=2**31)]
    sigmas: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=16)]
    search: SearchSpec
    n: Count = 1000
    alpha: Alpha = 0.001

    norm: ClassVar[Norm] = Norm.L2
    noise: ClassVar[Literal["gaussian"]] = "gaussian"
    stochastic: ClassVar[bool] = True
    grid_field: ClassVar[None] = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if any(a >= b for a, b in pairwise(self.sigmas)):
            raise ValueError("sigmas must ascend; sort them and list each once")
        if why := too_few_votes(self.n, self.alpha):
            raise ValueError(why)
        return self

    def work(self, largest_tensor: int) -> float:
        """A rough cost of one example, in tensor elements touched: what shards are cut by."""
        return float((self.n + self.search.copies(len(self.sigmas))) * largest_tensor)
