"""Who chooses a noise level: networks whose classes are levels. Smoothed like any classifier, their answer has a radius of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.model import Model
from certify.run import Run
from certify.sampling.ballot import Voters
from certify.spec import DualPredictSpec, InstanceSmoothingSpec, Precision
from certify.specs.instance import ConfidenceSelector, ModelSelector


@dataclass(frozen=True)
class Confidence:
    """The network itself, read in another way: how many thresholds its confidence in its own answer reaches.

    A function of the noisy copy alone, fixed by the spec, so that smoothing it is smoothing a classifier of levels.
    """

    model: Model
    thresholds: tuple[float, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.model.input_shape

    @property
    def classes(self) -> int:
        return len(self.thresholds) + 1

    def voters(self, device: str, precision: Precision, field: str) -> Callable[[Tensor], Tensor]:
        network = self.model.voters(device, precision, field)
        limits = torch.tensor([log_odds(threshold) for threshold in self.thresholds], device=device)
        return lambda x: votes(network(x), limits)


def log_odds(share: float) -> float:
    """log(p / (1 - p)), infinite at the ends."""
    if share in (0.0, 1.0):
        return math.inf if share else -math.inf
    return math.log(share / (1.0 - share))


def confidence(logits: Tensor) -> Tensor:  # logits: (batch, classes); (batch,)
    """Log-odds of the top softmax probability: where it is near 1, float32 still tells how near."""
    top, at = logits.max(dim=1)
    others = logits.scatter(1, at.unsqueeze(1), -torch.inf)
    return top - torch.logsumexp(others, dim=1)


def votes(
    logits: Tensor,  # (batch, classes)
    limits: Tensor,  # (levels - 1,), ascending log-odds
) -> Tensor:
    """(batch, levels): 1 for the level, 0 for the others; NaN throughout where a logit is not finite."""
    reached = (confidence(logits).unsqueeze(1) >= limits) & (limits < torch.inf)
    levels = torch.nn.functional.one_hot(reached.sum(dim=1), len(limits) + 1).to(logits.dtype)
    return levels.masked_fill(~logits.isfinite().all(dim=1, keepdim=True), torch.nan)


def selector_of(spec: InstanceSmoothingSpec | DualPredictSpec, model: Model, run: Run) -> Voters:
    """Who votes for a level.

    Args:
        spec: with a selector.
        model: the classifier.
        run: holds the networks that the spec names, checked by the verb.
    """
    selector = spec.selector
    if isinstance(selector, ConfidenceSelector):
        return Confidence(model, selector.thresholds)
    assert isinstance(selector, ModelSelector)
    voters: Voters = run.models[selector.model]
    return voters
