"""Dual smoothing on simulated votes, and a classifier of one number whose every probability is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import special

from certify import Examples, Model
from certify.certificate import InstanceEvidence
from certify.instance_smoothing import InstanceSmoothingCertifier
from certify.sampling.streams import Stage
from certify.spec import parse_spec
from tests.support.linear import LinearTruth
from tests.support.onnx_models import model_bytes, node
from tests.support.runs import run_for
from tests.support.votes import remembered

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Shares:
    """What is really voted for: each level by the selector, under noise of `sigma`, and each class under each of `sigmas`."""

    selector: Sequence[float]
    classes: Sequence[Sequence[float]]
    sigmas: Sequence[float]
    sigma: float

    def selector_radius(self, index: int) -> float:
        return _radius(self.selector, index, self.sigma)

    def radius(self, index: int, top: int) -> float:
        """How far level and class both stay."""
        return min(self.selector_radius(index), self.class_radius(index, top))

    def class_radius(self, index: int, top: int) -> float:
        """How far the class stays while the level is held."""
        return _radius(self.classes[index], top, self.sigmas[index])


def _radius(shares: Sequence[float], top: int, sigma: float) -> float:
    """In the worst case that these shares allow: not positive when another leads."""
    others = max((share for label, share in enumerate(shares) if label != top), default=0.0)
    return float(sigma / 2 * (special.ndtri(shares[top]) - special.ndtri(others)))


@dataclass(frozen=True)
class Claimed:
    """What the product says of each run: radius, selected level and class, and the radius of the classifier alone."""

    radius: Array
    index: Array
    top: Array
    classifier_radius: Array


def simulate(shares: Shares, runs: int, seed: int, **fields: Any) -> Claimed:
    """The product's certifier, from its questions to its outcomes, on votes that are drawn from these shares."""
    entry = {"kind": "instance-smoothing", "sigmas": list(shares.sigmas), "error_rate": "per-example", "n0": 10, **fields}
    if fields.get("statement", "dual") == "dual":
        selector = {"sigma": shares.sigma, "thresholds": [0.5] * (len(shares.sigmas) - 1), "n0": 10}
        entry["selector"] = {**selector, **fields.get("selector", {})}
    job, rng = parse_spec({"certifiers": [entry]}), np.random.default_rng(seed)

    class Simulated(InstanceSmoothingCertifier):
        def ballot(self, examples: Any, points: Any, noises: Any, network: Any, each: int = 1) -> Any:
            chooses = self.spec.selector is not None and network is self._selector
            return _Ballot(shares, None if chooses else [noise.sigma for noise in noises], rng)

    model = LinearTruth.random(1, 2, seed=0).model()
    examples = Examples(tuple(range(runs)), torch.zeros(runs, 1), torch.zeros(runs, dtype=torch.int64))
    with remembered():
        answers = dict(Simulated(job, 0, model, run_for(job, model, runs)).answers(examples))
    found = [(answers[i].radius, *_chosen(answers[i].evidence, shares.sigmas)) for i in range(runs)]
    return Claimed(*(np.array(column) for column in zip(*found, strict=True)))


@dataclass(frozen=True)
class _Ballot:
    shares: Shares
    sigmas: Sequence[float] | None
    rng: np.random.Generator

    def votes(self, positions: Any, stage: Stage, start: int, stop: int) -> dict[int, list[int]]:
        return self.ask(stage, dict.fromkeys(positions, (start, stop)))

    def ask(self, stage: Stage, ranges: Mapping[int, tuple[int, int]]) -> dict[int, list[int]]:
        wanted, sizes = list(ranges), [stop - start for start, stop in ranges.values()]
        if self.sigmas is None:
            p = np.broadcast_to(self.shares.selector, (len(wanted), len(self.shares.selector)))
        else:
            p = np.array([self.shares.classes[list(self.shares.sigmas).index(self.sigmas[i])] for i in wanted])
        return dict(zip(wanted, self.rng.multinomial(sizes, p).tolist(), strict=True)) if wanted else {}


def _chosen(evidence: Any, sigmas: Sequence[float]) -> tuple[int, int, float]:
    assert isinstance(evidence, InstanceEvidence)
    top = int(np.argmax(evidence.counts_selection)) if evidence.counts_selection else 0
    if evidence.selector is None:
        return sigmas.index(evidence.sigma), top, 0.0
    return evidence.selector.index, top, evidence.selector.classifier_radius


@dataclass(frozen=True)
class Line:
    """A classifier of one number: logits (0, g), g linear between `knots` with slopes +steep and -steep in turn, rising from `first`.

    Class 1 is where g > 0. Every level set of |g| is a union of intervals, so that votes under noise have exact probabilities.
    """

    first: float
    knots: Sequence[float]
    steep: float = 1.0

    def g(self, x: Array) -> Array:
        value = self.steep * (x - self.first)
        for sign, knot in zip((-2, 2) * len(self.knots), self.knots, strict=False):
            value = value + sign * self.steep * np.maximum(x - knot, 0)
        return np.asarray(value)

    def model(self) -> Model:
        return Model.from_onnx(self.onnx())

    def onnx(self) -> bytes:
        """The same in ONNX; x must stay above -30."""
        signs = [(-2.0, 2.0)[i % 2] * self.steep for i in range(len(self.knots))]
        weights = {
            "w": np.ones((1 + len(self.knots), 1), dtype=np.float32),
            "b": np.array([30.0, *(-knot for knot in self.knots)], dtype=np.float32),
            "v": np.array([[0.0] * (1 + len(signs)), [self.steep, *signs]], dtype=np.float32),
            "c": np.array([0.0, -self.steep * (30.0 + self.first)], dtype=np.float32),
        }
        nodes = [node("Gemm", "x w b", "h", transB=1), node("Relu", "h", "a"), node("Gemm", "a v c", "logits", transB=1)]
        return model_bytes(nodes, weights, input_shape=("batch", 1))

    def share(self, x: Array, sigma: float, inside: Callable[[Array], Array], edges: Sequence[float]) -> Array:
        """P(inside(g(x + sigma z))) for each x, where `inside` changes only where g has one of the values `edges`."""
        cuts = [-np.inf, *self._crossings(edges), np.inf]
        total = np.zeros(len(x))
        for a, b in pairwise(cuts):
            middle = np.array([(max(a, -25.0) + min(b, 25.0)) / 2])
            if bool(inside(self.g(middle))[0]):
                total += special.ndtr((b - x) / sigma) - special.ndtr((a - x) / sigma)
        return total

    def _crossings(self, values: Sequence[float]) -> list[float]:
        ends = [-25.0, *self.knots, 25.0]
        found = set()
        for (a, b), value in ((pair, value) for pair in pairwise(ends) for value in values):
            low, high = (float(self.g(np.array([end]))[0]) - value for end in (a, b))
            if low != high and low * high <= 0:
                found.add(a + (b - a) * low / (low - high))
        return sorted(found)

    def wins(self, x: Array, sigma: float) -> Array:
        """The share of class 1 under noise."""
        return self.share(x, sigma, lambda g: g > 0, [0.0])

    def confident(self, x: Array, sigma: float, threshold: float) -> Array:
        """The share of copies whose top softmax probability reaches the threshold."""
        limit = float(np.log(threshold / (1 - threshold)))
        return self.share(x, sigma, lambda g: np.abs(g) >= limit, [-limit, limit])
