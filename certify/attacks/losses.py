"""What an attack climbs, and gradients where the network itself has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from certify.attacks.base import Classify
from certify.attacks.geometry import ORDER
from certify.norms import Norm

_OPEN = 0.1  # slope given to a ReLU that is off


class Losses:
    """Values and gradients of one loss for each point; the points take turns.

    The second climbs the cross-entropy; the third the margin of the best rival over the spread of the three largest logits, which no
    scaling of the logits flattens (Croce & Hein 2020); all others the margin of a target each, or of the best rival where there are none.

    Args:
        classify: differentiable, float64.
        label: the answer to get away from.
        points: how many there are.
        targets: other answers, in the order in which they are tried.
    """

    def __init__(self, classify: Classify, label: int, points: int, targets: Sequence[int] = ()) -> None:
        self._classify, self._label = classify, label
        chosen = [targets[(place - 2 if place > 2 else 0) % len(targets)] if targets else label for place in range(points)]
        self._targets = torch.tensor(chosen)

    def __call__(
        self,
        x: Tensor,  # (points, *input), float64
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, (points, classes), values, (points,), and gradients, (points, *input), where a gradient that is no number is zero."""
        logits, values, gradient = self._at(x)
        flat = (gradient == 0).flatten(1).all(1)
        if bool(flat.any()):
            with LeakyBackward():
                _, _, through = self._at(x)
            gradient = torch.where(flat.reshape(-1, *(1,) * (x.dim() - 1)), through, gradient)
        return logits, values, gradient

    def _at(
        self,
        x: Tensor,  # (points, *input)
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.detach().requires_grad_(True)
        logits = self._classify(x)
        values = self._values(logits)
        (gradient,) = torch.autograd.grad(values.sum(), x)
        return logits.detach(), values.detach().nan_to_num(nan=-math.inf), gradient.nan_to_num(0.0, 0.0, 0.0)

    def _values(
        self,
        logits: Tensor,  # (points, classes)
    ) -> Tensor:
        own = logits[:, self._label]
        rivals = logits.clone()
        rivals[:, self._label] = -math.inf
        best = rivals.max(dim=1).values - own
        targets = self._targets.to(logits.device)
        aimed = logits.gather(1, targets.unsqueeze(1))[:, 0] - own
        values = list(torch.where(targets == self._label, best, aimed))
        if len(values) > 1:
            values[1] = logits[1].logsumexp(dim=0) - own[1]
        if len(values) > 2 and logits.shape[1] > 2:
            largest = logits[2].topk(3).values
            values[2] = best[2] / (largest[0] - largest[2]).clamp(min=1e-12)
        return torch.stack(values)


def nearest_rivals(
    classify: Classify,
    x: Tensor,  # (*input)
    label: int,
    norm: Norm,
    count: int,
) -> list[int]:
    """Other answers by how near they would be if the network were linear, nearest first; at most `count` of the largest logits."""
    here = x.double().unsqueeze(0)
    with torch.no_grad():
        logits = classify(here)[0]
    order = [int(place) for place in logits.argsort(descending=True) if int(place) != label][:count]
    points = here.repeat(len(order), *(1,) * x.dim()).requires_grad_(True)
    found = classify(points)
    margins = found[:, label] - found.gather(1, torch.tensor(order, device=x.device).unsqueeze(1))[:, 0]
    (gradient,) = torch.autograd.grad(margins.sum(), points)
    slopes = torch.linalg.vector_norm(gradient.flatten(1), ORDER[norm.dual], dim=1)
    distances = (margins.detach() / slopes).nan_to_num(math.inf)
    return [order[int(place)] for place in distances.argsort(stable=True)]


class LeakyBackward(TorchFunctionMode):
    """Inside it, ReLUs and clips let a tenth of the gradient through where they are flat; what they compute stays exactly the same."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.relu, torch.Tensor.relu, torch.nn.functional.relu):
            return _leaky(args[0], 0.0, math.inf)
        if func in (torch.clamp, torch.Tensor.clamp):
            low, high = (*args[1:], *(None, None))[:2]
            given = {"min": low, "max": high, **(kwargs or {})}
            ends = [end if isinstance(end, (int, float)) else None for end in (given["min"], given["max"])]
            if ends == [given["min"], given["max"]]:  # ends that are tensors are left alone
                return _leaky(args[0], -math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1])
        return func(*args, **(kwargs or {}))


class _Leaky(torch.autograd.Function):
    """min(max(x, low), high) with a slope of `_OPEN` outside, backwards only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:  # x: (*shape)
        ctx.save_for_backward((x > low) & (x < high))
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # gradients: (*shape)
        (free,) = ctx.saved_tensors
        return torch.where(free, gradients[0], _OPEN * gradients[0]), None, None


def _leaky(x: Tensor, low: float, high: float) -> Tensor:  # x: (*shape)
    found: Tensor = _Leaky.apply(x, low, high)  # type: ignore[no-untyped-call]
    return found
