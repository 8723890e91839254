"""Our own perturbation class: a closed ball that every operator of auto-LiRPA treats soundly.

The stock class stores an l2 or l1 ball as the interval [x, x] with a tag that only linear operators read, so that behind a
normalisation the ball silently has radius zero. Ours shows every operator the enclosing box, and uses the dual norm only where
linear bounds meet the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from certify.bounds import lirpa_compat
from certify.norms import Norm


def enclosing_box(
    x: Tensor,  # (batch, *input), float64
    radius: Tensor,  # (batch,), float64, >= 0
    value_range: tuple[float, float] | None,
) -> tuple[Tensor, Tensor]:
    """The smallest box around the ball, ends rounded outward, cut to the value range when one is given."""
    reach = radius.reshape(-1, *(1,) * (x.dim() - 1))
    low = torch.nextafter(x - reach, torch.full_like(x, -math.inf))
    high = torch.nextafter(x + reach, torch.full_like(x, math.inf))
    if value_range is not None:
        low, high = low.clamp(min=value_range[0]), high.clamp(max=value_range[1])
    return low, high


def ball(
    x: Tensor,  # (batch, *input), float64
    radius: Tensor,  # (batch,), float64, >= 0
    norm: Norm,
    value_range: tuple[float, float] | None = None,
) -> Any:
    """The perturbation {x' : ||x' - x|| <= radius}, one radius for each example; with `value_range` cut to it (linf only).

    Source: dual norms, min over the ball of a.x' = a.x - radius * ||a||_q (Hoelder).
    """
    engine: Any = lirpa_compat.load()
    perturbation: Any = engine.PerturbationLpNorm  # operators ask for this class by name
    low, high = enclosing_box(x, radius, value_range)
    size = x.abs() + radius.reshape(-1, *(1,) * (x.dim() - 1))

    class Ball(perturbation):  # type: ignore[misc]
        """`norm` reads infinity so that interval propagation starts from the box. `lines` are the last lower linear bounds met.

        `witness` is told of the magnitudes of all linear bounds that meet the ball, of the side, and of the largest values in the ball.
        """

        lines: Tensor | None = None  # (batch, specifications, *input)
        witness: Callable[[Tensor, int, Tensor], None] | None = None

        def __init__(self) -> None:
            super().__init__(norm=math.inf, x_L=low, x_U=high)
            # NaN, whatever the class made of the box, so that an operator that reads it instead of the box proves nothing.
            self.eps = math.nan

        def init(self, x: Tensor, aux: Any = None, forward: bool = False) -> Any:  # x: (batch, *input)
            if forward:
                raise NotImplementedError("forward mode is not used")
            return engine.LinearBound(None, None, None, None, low, high), x, None

        def concretize(
            self, x: Tensor, A: Any, sign: int = -1, aux: Any = None, extra_constr: Any = None
        ) -> Tensor | None:  # x: (batch, *input)
            if A is None:
                return None
            if extra_constr is not None:
                raise NotImplementedError("constraints on neurons are not used")
            self.lines = A.detach() if sign < 0 and isinstance(A, Tensor) else self.lines
            return _extreme(A, sign, self.witness)

    def _extreme(A: Any, sign: int, witness: Callable[[Tensor, int, Tensor], None] | None) -> Tensor:
        if isinstance(A, engine.eyeC):
            return (low if sign < 0 else high).reshape(len(x), -1)
        if not isinstance(A, Tensor):
            raise TypeError(f"linear bounds of type {type(A).__name__} are not supported; conv_mode must be matrix")
        rows = A.reshape(A.shape[0], A.shape[1], -1)
        sizes = rows.abs() if norm is Norm.LINF or witness is not None else rows
        if witness is not None:
            witness(sizes.detach(), sign, size)
        if norm is Norm.LINF:
            centre, reach = (high + low) / 2, (high - low) / 2
            return _product(rows, centre) + sign * _product(sizes, reach)
        deviation: Tensor = rows.norm(2.0 if norm.dual is Norm.L2 else math.inf, -1) * radius.reshape(-1, 1)
        return _product(rows, x) + sign * deviation

    return Ball()


def _product(
    rows: Tensor,  # (batch, specifications, elements)
    x: Tensor,  # (batch, *input)
) -> Tensor:
    return rows.matmul(x.reshape(len(x), -1, 1)).squeeze(-1)
