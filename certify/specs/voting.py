"""Certifiers whose evidence is votes of altered copies, without a radius of their own statistics: PREDICT and splitting noise."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from certify.norms import Norm
from certify.rounding import show_given, show_radius
from certify.specs.base import Alone, Alpha, Count, Part, Positive, Precision


def _is_float32(precision: str) -> bool:
    return precision == "float32"


class CopiesSpec(Part):
    """What all certifiers share that vote over altered copies.

    `precision` is that of the networks which vote: the classifier of another precision is another classifier. It is left out of the
    canonical spec when it is float32, so that specs from before it came keep their digests.
    """

    batch_size: Annotated[int, Field(strict=True, ge=1, le=65_536)] | None = None
    precision: Annotated[Precision, Field(exclude_if=_is_float32)] = "float32"

    method: ClassVar[None] = None

    @property
    def noisy_tensor(self) -> str | None:
        """The tensor that is altered; null for the input."""
        return getattr(self, "split", None)

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """Every level of noise under which the classifier may be asked."""
        found: tuple[float, ...] = getattr(self, "sigmas", ()) or (getattr(self, "sigma", 0.0),)
        return found


class NoisySpec(CopiesSpec, Alone):
    """Noise of one level, drawn at random. `sigma` is the standard deviation of each coordinate, raw-input units."""

    sigma: Positive
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


def too_few_votes(n: int, alpha: float) -> str:
    """Why not even unanimous votes single out a class, or an empty string."""
    if 2.0 * 0.5**n <= alpha:
        return ""
    return f"n = {n} votes can never single out a class at alpha = {alpha:g}; use n >= {math.ceil(1 - math.log2(alpha))}"


class PredictSpec(NoisySpec):
    """PREDICT of randomized smoothing: the class that the smoothed classifier gives at the input itself, or an abstention.

    With `split` the classifier is that of `latent-smoothing`: noise is added at that tensor, and `sigma` has its units.
    """

    kind: Literal["predict"]
    split: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    n: Count = 1000
    alpha: Alpha = 0.001

    norm: ClassVar[Norm] = Norm.L2

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.split is not None and self.noise != "gaussian":
            raise ValueError(f"split is for gaussian noise; remove it or noise {self.noise}")
        if why := too_few_votes(self.n, self.alpha):
            raise ValueError(why)
        return self

    def work(self, largest_tensor: int) -> float:
        """A rough cost of one example, in tensor elements touched: what shards are cut by."""
        return float(self.n) * largest_tensor


class SplittingSpec(CopiesSpec, Alone):
    """Deterministic splitting noise: the exact answer of the smoothed classifier and a proved l1 ball of grid inputs, without alpha.

    `sigma` is the standard deviation of the uniform noise that the model was trained with, lam = sigma * sqrt(3) its half width.
    `radii` decide exit codes, as for smoothing.
    """

    kind: Literal["dssn"]
    sigma: Positive
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
        return self.levels // 2 / 255

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
                f"radius {show_given(max(self.radii or ()))} is out of reach: {self.levels} levels of sigma = {self.sigma:g} reach at most"
                f" {show_radius(self.largest_radius)} in l1; use a smaller radius or a larger sigma"
            )
        return self
