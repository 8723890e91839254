"""Certifiers without statistics, and attacks."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from certify.specs.base import Alone, Positive


class BoundsSpec(Alone):
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


class LipschitzSpec(Alone):
    """The largest l2 radius that follows from the margin and the network's Lipschitz constants: one forward pass for each example."""

    kind: Literal["lipschitz"]
    norm: Literal["l2"] = "l2"

    method: ClassVar[None] = None
    stochastic: ClassVar[bool] = False
    grid_field: ClassVar[None] = None

    def work(self, largest_tensor: int) -> float:
        """A rough cost of one example, in tensor elements touched: a few forward passes, and a short look for what contradicts them."""
        return 1000.0 * largest_tensor


class AttackSpec(Alone):
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
