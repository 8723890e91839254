"""Thresholds for the confidence selector, fitted to examples that are not the ones to certify. It proves nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import special

from certify.errors import NumericalError
from certify.model import Examples, Model
from certify.precision import computing
from certify.selectors import confidence, log_odds
from certify.spec import InstanceSmoothingSpec
from certify.specs.instance import ConfidenceSelector

Array = np.ndarray[Any, Any]
COPIES = 500
_SWEEPS, _CANDIDATES = 10, 40
_SURE = 16.0  # log-odds: beyond it six digits of a threshold say 1


@dataclass(frozen=True)
class Calibration:
    """Thresholds, and what they let expect on the examples they were fitted to. It claims nothing.

    Mean l2 radii over the examples, 0 where the answer is wrong, estimated from few copies and therefore a little too good.
    """

    thresholds: tuple[float, ...]
    mean: float
    before: float  # under the thresholds that the spec had
    alone: float  # of the best level alone, without a selector
    sigma: float  # that level

    @property
    def constant(self) -> int | None:
        """The index of the only level that is ever chosen, if there is only one."""
        return self.thresholds.count(0.0) if set(self.thresholds) <= {0.0, 1.0} else None


def calibrated(
    model: Model,
    examples: Examples,
    spec: InstanceSmoothingSpec,
    *,
    copies: int = COPIES,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[float, ...]:
    """The thresholds of `calibration` alone."""
    return calibration(model, examples, spec, copies=copies, seed=seed, device=device).thresholds


def calibration(
    model: Model,
    examples: Examples,
    spec: InstanceSmoothingSpec,
    *,
    copies: int = COPIES,
    seed: int = 0,
    device: str = "cpu",
    batch_size: int | None = None,
    on_pass: Callable[[], None] = lambda: None,
) -> Calibration:
    """Thresholds with the largest mean dual radius of correct answers on these examples, as far as a search by turns finds them.

    Write them into `selector.thresholds` and the rows of these examples into `selector.calibrated_on`. Single levels are among what is
    compared, so that on the calibration examples the result is no worse than the best of them, by its own estimate and at the price of
    the selector's copies.

    Args:
        model: the classifier.
        examples: other than those to certify, with labels.
        spec: dual, with a confidence selector; says levels, samples and alpha.
        copies: noisy copies of each example at each level.
        seed: of the noise.
        device: a torch device name.
        batch_size: copies that go through the network at once; all of an example when null.
        on_pass: called once for each example at each of the levels, that of the selector included.

    Raises:
        NumericalError: the model answers NaN or infinity.
    """
    assert isinstance(spec.selector, ConfidenceSelector)
    generator, network = torch.Generator().manual_seed(seed), model.voters(device, spec.precision, "precision")

    def logits(sigma: float) -> Iterator[torch.Tensor]:
        for x in examples.x:
            noise = torch.randn((copies, *x.shape), generator=generator)
            with computing(spec.precision), torch.inference_mode():
                parts = [network(part.to(device)).cpu() for part in (x + sigma * noise).split(batch_size or copies)]
            yield _finite(torch.cat(parts))
            on_pass()

    sure = np.stack([confidence(one).numpy() for one in logits(spec.selector.sigma)])
    wins = [[float((one.argmax(dim=1) == y).float().mean()) for one, y in zip(logits(s), examples.y, strict=True)] for s in spec.sigmas]
    reach = np.stack([_radius(np.array(share), s, _unanimous(spec, spec.n)) for share, s in zip(wins, spec.sigmas, strict=True)], axis=1)
    task = _Task(sure, reach, spec.selector.sigma, _unanimous(spec, spec.selector.n))
    start = [log_odds(one) for one in spec.selector.thresholds]
    found, alone = task.best(start), reach.mean(axis=0)
    return Calibration(
        thresholds=tuple(_share(limit) for limit in found),
        mean=task.value(found),
        before=task.value(start),
        alone=float(alone.max()),
        sigma=spec.sigmas[int(alone.argmax())],
    )


def _finite(logits: torch.Tensor) -> torch.Tensor:  # logits: (batch, classes)
    if not bool(logits.isfinite().all()):
        raise NumericalError.at("model", "a noisy copy of an example gets a NaN or infinite logit", "check the weights")
    return logits


def _share(limit: float) -> float:
    """Log-odds as a threshold is written."""
    return round(float(special.expit(limit)), 6)


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
        """From the given thresholds and from every single level, one threshold at a time while that helps; compared as they are written."""
        count = self.reach.shape[1] - 1
        constant = [[-math.inf] * j + [math.inf] * (count - j) for j in range(count + 1)]
        climbed = [[log_odds(_share(limit)) for limit in self._climb(list(one))] for one in (*constant, start)]
        return max([*climbed, *constant], key=self.value)

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
