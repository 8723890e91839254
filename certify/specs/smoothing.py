"""Certifiers that prove a radius from votes of noisy copies: CERTIFY, with the noise at the input or at a tensor inside."""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import pairwise
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from certify.looks import default_looks, shares
from certify.norms import Norm, conversion
from certify.rounding import show_given, show_radius
from certify.specs.base import Alone, Alpha, Count, Positive
from certify.specs.voting import CopiesSpec, NoisySpec


class RadiusSpec(CopiesSpec):
    """What all share that prove a radius from votes: the largest ball in which the answer is proved, or decisions at `radii`.

    `looks` are the sample counts at which an adaptive run looks at its votes; fixed here, before any sample, and so part of the digest.
    `norm` other than the noise's own is a conversion by norm inequalities and labelled as such.
    """

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

    stochastic: ClassVar[bool] = True
    untouched: ClassVar[float] = 1.0  # the least Lipschitz constant of what may stand before the noise

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
        if self.own_norm is Norm.L1 and self.norm is Norm.L2:
            raise ValueError("uniform noise proves l1 radii, from which no useful l2 radius follows; use norm l1 or gaussian noise")
        # The tests on alpha alone are necessary for any number of examples; `certify.facts` repeats them with alpha / N.
        if impossible := self.impossible(self.alpha):
            raise ValueError(impossible)
        return self

    @property
    def own_norm(self) -> Norm:
        """The norm of the theorem behind this noise."""
        return Norm.L2

    @property
    @abstractmethod
    def largest_sigma(self) -> float:
        """The strongest noise that it may use."""

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
        """What unanimous votes reach at the last look where the noise is added, p = alpha_last^(1/n) being the limit at k = n.

        Args:
            alpha: error level of one certificate.
            dimension: elements of one input; it matters to converted norms only.
        """
        p = self._unanimous(alpha)
        if p <= 0.5:
            return 0.0
        return self._own_radius(p) / conversion(self.own_norm, self.norm, dimension)

    def _own_radius(self, p: float) -> float:
        return self.largest_sigma * NormalDist().inv_cdf(p)

    def impossible(self, alpha: float, dimension: int = 1, lipschitz: float | None = None) -> str:
        """Why no certificate can come out at this error level, or an empty string.

        Args:
            alpha: error level of one certificate.
            dimension: as in `largest_radius`.
            lipschitz: constant of what stands before the noise; null where nothing does, or where it is not known yet.
        """
        lipschitz = self.untouched if lipschitz is None else lipschitz
        reach = self.largest_radius(alpha, dimension) / lipschitz
        level = self._last_level(alpha)
        if reach <= 0.0:
            least = math.floor(math.log(level) / math.log(0.5)) + 1
            return (
                f"n = {self.n} samples can never certify at alpha = {alpha:g} for each example"
                f" (unanimous votes give pA_lower = {self._unanimous(alpha):.4f} <= 1/2); use n >= {least}"
            )
        too_far = [r for r in self.radii or () if r > reach]
        if too_far:
            behind = "" if lipschitz == 1.0 else f" behind an encoder of Lipschitz constant {lipschitz:.4g}"
            return (
                f"radius {show_given(max(too_far))} is out of reach: n = {self.n}, alpha = {alpha:g} for each example and"
                f" sigma = {self.largest_sigma:g}{behind} reach at most {show_radius(reach)} in {self.norm};"
                " use a smaller radius, more samples or a larger sigma"
            )
        return ""

    def _last_level(self, alpha: float) -> float:
        return alpha * self.shares[-1] / (2 if self.bound == "top-two" else 1)

    def _unanimous(self, alpha: float) -> float:
        return math.exp(math.log(self._last_level(alpha)) / self.n)


class SmoothingSpec(NoisySpec, RadiusSpec):
    """CERTIFY of randomized smoothing, with noise of one level added to the input."""

    kind: Literal["smoothing"]

    @property
    def own_norm(self) -> Norm:
        return Norm.L1 if self.noise == "uniform" else Norm.L2

    @property
    def largest_sigma(self) -> float:
        return self.sigma

    def _own_radius(self, p: float) -> float:
        return math.sqrt(3.0) * self.sigma * (2 * p - 1) if self.noise == "uniform" else super()._own_radius(p)


class LatentSmoothingSpec(RadiusSpec, Alone):
    """CERTIFY with gaussian noise added at the tensor `split`, carried back to the input by the Lipschitz constant of what is before it.

    `sigma` is the standard deviation of each coordinate of that tensor, in its own units; `radii` and all radii that come out are of the
    raw input. Every path from the input to the logits must go through `split`.
    """

    kind: Literal["latent-smoothing"]
    split: Annotated[str, Field(min_length=1, max_length=512)]
    sigma: Positive

    noise: ClassVar[Literal["gaussian"]] = "gaussian"
    untouched: ClassVar[float] = 1e-300
    grid_field: ClassVar[None] = None

    @property
    def largest_sigma(self) -> float:
        return self.sigma
