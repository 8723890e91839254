"""Thresholds for the confidence selector, fitted to examples that are not the ones to certify. It proves nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import special

from certify.model import Examples, Model
from certify.selectors import confidence, log_odds
from certify.spec import InstanceSmoothingSpec
from certify.specs.instance import ConfidenceSelector

Array = np.ndarray[Any, Any]
_SWEEPS, _CANDIDATES = 10, 40
_SURE = 16.0  # log-odds: beyond it six digits of a threshold say 1


def calibrated(
    model: Model,
    examples: Examples,
    spec: InstanceSmoothingSpec,
    *,
    copies: int = 500,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[float, ...]:
    """Thresholds with the largest mean dual radius of correct answers on these examples, as far as a search by turns finds them.

    Write them into `selector.thresholds` and the rows of these examples into `selector.calibrated_on`. Single levels are among what is
    compared, so that on the calibration examples the result is no worse than the best of them, by its own estimate.

    Args:
        model: the classifier.
        examples: other than those to certify, with labels.
        spec: dual, with a confidence selector; says levels, samples and alpha.
        copies: noisy copies of each example at each level.
        seed: of the noise.
        device: a torch device name.
    """
    assert isinstance(spec.selector, ConfidenceSelector)
    generator, network = torch.Generator().manual_seed(seed), model.module(device)

    def logits(sigma: float) -> Iterator[torch.Tensor]:
        for x in examples.x:
            noise = torch.randn((copies, *x.shape), generator=generator)
            with torch.inference_mode():
                yield network((x + sigma * noise).to(device)).cpu()

    sure = np.stack([confidence(one).numpy() for one in logits(spec.selector.sigma)])
    wins = [[float((one.argmax(dim=1) == y).float().mean()) for one, y in zip(logits(s), examples.y, strict=True)] for s in spec.sigmas]
    reach = np.stack([_radius(np.array(share), s, _unanimous(spec, spec.n)) for share, s in zip(wins, spec.sigmas, strict=True)], axis=1)
    task = _Task(sure, reach, spec.selector.sigma, _unanimous(spec, spec.selector.n))
    return tuple(round(float(special.expit(limit)), 6) for limit in task.best([log_odds(one) for one in spec.selector.thresholds]))


def _unanimous(spec: InstanceSmoothingSpec, n: int) -> float:
    return math.exp(math.log(spec.alpha) / n)


def _radius(share: Array, sigma: float, limit: float) -> Array:
    """What such a share of the votes lets expect."""
    return np.asarray(np.maximum(0.0, sigma * special.ndtri(np.minimum(share, limit))))


@dataclass(frozen=True)
class _Task:
    """Log-odds of the copies (examples, copies), and the classifier's radius by level (examples, levels)."""

    sure: Array
    reach: Array
    sigma: float
    limit: float

    def value(self, limits: Sequence[float]) -> float:
        """The mean dual radius under these thresholds."""
        reached = np.stack([(self.sure >= limit).mean(axis=1) for limit in (-math.inf, *limits)] + [np.zeros(len(self.sure))])
        shares = reached[:-1] - reached[1:]
        index = shares.argmax(axis=0)
        rows = np.arange(len(index))
        return float(np.minimum(_radius(shares[index, rows], self.sigma, self.limit), self.reach[rows, index]).mean())

    def best(self, start: Sequence[float]) -> list[float]:
        """From the given thresholds and from every single level, one threshold at a time while that helps."""
        count = self.reach.shape[1] - 1
        constant = [[-math.inf] * j + [math.inf] * (count - j) for j in range(count + 1)]
        return max((self._climb(list(one)) for one in (*constant, start)), key=self.value)

    def _climb(self, limits: list[float]) -> list[float]:
        inner = np.quantile(np.minimum(self.sure, _SURE), np.linspace(0.01, 0.99, _CANDIDATES))
        candidates = [-math.inf, *inner.tolist(), math.inf]
        value = self.value(limits)
        for _ in range(_SWEEPS):
            before = value
            for place in range(len(limits)):
                tried = [[*limits[:place], one, *limits[place + 1 :]] for one in candidates if _between(one, limits, place)]
                limits = max([limits, *tried], key=self.value)
            value = self.value(limits)
            if value <= before:
                break
        return limits


def _between(value: float, limits: Sequence[float], place: int) -> bool:
    low = limits[place - 1] if place else -math.inf
    high = limits[place + 1] if place + 1 < len(limits) else math.inf
    return low <= value <= high
