"""`scripts/bench instance`: `dual` beside the best single sigma and beside the envelope of all, with equally many noisy copies.

Everything is chosen on rows that are not tested: the network among six, the single level, the selector. The envelope is
not a classifier: at each radius it takes the level that is best there on the very rows tested. The selector's copies count. `digits` is
the worked example; `dimmed` is constructed to need different levels: every second image has a quarter of its contrast.

Intervals: paired bootstrap over the test rows, 95 %, 4000 resamples, seed 0, the envelope taken anew in each. At single radii: the exact
test on pairs (McNemar), two-sided, one radius at a time. Nothing here gates a test.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from certify import Examples, Model, certify
from certify.certificate import Certificate, SmoothingEvidence
from certify.export import to_onnx
from certify.mcnemar import p_value
from certify.sampling.ballot import Voters
from certify.selectors import Confidence
from certify.spec import parse_spec
from deploy.demo.instance import train as example
from deploy.demo.instance.train import SIGMAS, Rows
from tests.support.runs import run_for

Array = np.ndarray[Any, Any]
RADII = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
RESAMPLES, STEPS = 4000, 400


def dimmed(data: Rows) -> Rows:
    """Every second image at a quarter of its contrast: what separates its class from others is a quarter, too."""
    x = data.x.clone()
    x[::2] /= 4
    return Rows(x, data.y)


CASES: dict[str, Callable[[Rows], Rows]] = {"digits": lambda data: data, "dimmed": dimmed}


@dataclass(frozen=True)
class Choice:
    """A network and what is asked of it; `promised` is the mean radius that the choosing rows promise, by a few hundred copies."""

    name: str
    network: str
    promised: float
    entry: Mapping[str, Any]
    selector: Model | None = None


@dataclass(frozen=True)
class Measured:
    """Radii of the right answers, 0 elsewhere, for each test row; the most copies that a row took; rows by level."""

    choice: Choice
    radii: Array
    copies: int
    levels: Mapping[float, int]


def networks(train: Rows) -> dict[str, nn.Module]:
    """Noise of each single level, of a level drawn anew each time, and of a level of each example's own."""
    found = {}
    for sigma in SIGMAS:
        torch.manual_seed(0)
        found[f"gaussian {sigma:g}"] = example.fit(example.network(10), train, example.single(sigma))
    torch.manual_seed(0)
    found["mixed"] = example.fit(example.network(10), train, example.mixed())
    torch.manual_seed(0)
    found["insta"], _ = example.insta(train)
    return found


def singles(nets: Mapping[str, nn.Module], choose: Rows, total: int) -> list[Choice]:
    """The best network for each level, those between the levels of the grid included."""
    found = []
    for sigma in sorted({*SIGMAS, *(round(float(rung), 4) for rung in example.rungs())}):
        level = torch.full((len(choose),), sigma)
        promised = {name: float(example.gain(net, choose, level, 1000).mean()) for name, net in nets.items()}
        best = max(promised, key=lambda name: promised[name])
        found.append(Choice(f"sigma {sigma:g}", best, promised[best], example.alone(total, sigma)))
    return found


@torch.no_grad()
def shares(voters: Voters, data: Rows, copies: int = 512) -> Tensor:
    """(N, levels): of the votes of a selector under noise of the highest level."""
    network = voters.module("cpu", torch.float32)
    votes, levels = torch.zeros(len(data), len(SIGMAS)), torch.full((len(data),), SIGMAS[-1])
    for _ in range(copies):
        votes += nn.functional.one_hot(network(example.noisy(data.x, levels)).argmax(1), len(SIGMAS))
    return votes / copies


def both(share: Tensor, promised: Tensor, copies: int = 512) -> float:  # share, promised: (N, levels)
    """About the mean radius of `dual`: the smaller of the selector's and that of the classifier at the level with most votes."""
    most, level = share.max(dim=1)
    return float(torch.minimum(SIGMAS[-1] * example.quantile(most, copies), promised.gather(1, level[:, None])[:, 0]).mean())


def duals(nets: Mapping[str, nn.Module], train: Rows, choose: Rows, total: int) -> tuple[Choice, Choice]:
    """The best selector by confidence, and the best trained one."""
    by_confidence, trained = [], []
    for name, net in nets.items():
        model, promised = read(net), example.gains(net, choose, 1000)
        asked = example.fitted(model, choose, total)
        value = both(shares(Confidence(model, tuple(asked["thresholds"])), choose), promised)
        by_confidence.append(Choice("dual, confidence", name, value, example.dual(total, **asked)))
        torch.manual_seed(0)
        chooser = read(example.selector(example.gains(net, train, 256), train))
        entry = example.dual(total, kind="model", model=chooser.digest)
        trained.append(Choice("dual, trained", name, both(shares(chooser, choose), promised), entry, chooser))
    return best_of(by_confidence), best_of(trained)


def read(net: nn.Module) -> Model:
    return Model.from_onnx(to_onnx(net, (1, 8, 8)))


def best_of(choices: Sequence[Choice]) -> Choice:
    return max(choices, key=lambda choice: choice.promised)


def measure(choice: Choice, nets: Mapping[str, nn.Module], test: Rows) -> Measured:
    """The certificates of the product, alpha = 0.001 for each."""
    spec = parse_spec({"certifiers": [{**choice.entry, "error_rate": "per-example"}]})
    model, others = read(nets[choice.network]), {choice.selector.digest: choice.selector} if choice.selector else {}
    run = run_for(spec, model, len(test), batch_size=4096, models=others)
    rows = [row for row in certify(model, Examples(tuple(range(len(test))), test.x, test.y), spec, run) if isinstance(row, Certificate)]
    found = [row.evidence for row in rows if isinstance(row.evidence, SmoothingEvidence)]
    levels = Counter(evidence.sigma for evidence in found)
    radii = np.array([row.radius if row.correct else 0.0 for row in rows])
    return Measured(choice, radii, max(evidence.copies for evidence in found), dict(sorted(levels.items())))


@dataclass(frozen=True)
class Resampled:
    """Draws of the test rows with replacement: how often each row is in it, (resamples, N), over N."""

    weights: Array

    @classmethod
    def of(cls, count: int) -> Resampled:
        drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        return cls(np.concatenate([np.ones((1, count)), drawn]) / count)

    def mean(self, radii: Array) -> Array:
        """Average radius: of the rows themselves, then of each draw."""
        found: Array = self.weights @ radii
        return found

    def envelope(self, curves: Sequence[Array]) -> Array:
        """The same of a curve that is the highest of all at every radius."""
        reach = max(float(radii.max()) for radii in curves)
        at = (np.arange(STEPS) + 0.5) * reach / STEPS
        highest = np.max([self.weights @ (radii[:, None] >= at) for radii in curves], axis=0)
        found: Array = highest.mean(axis=1) * reach
        return found


def table(measured: Sequence[Measured], envelope: Array, highest: Sequence[float]) -> Iterator[str]:
    yield f"  {'':18}{'network':15}{'copies':>7}{'ACR':>8}" + "".join(f"{radius:>7}" for radius in RADII)
    for one in measured:
        line = f"  {one.choice.name:18}{one.choice.network:15}{one.copies:>7}{one.radii.mean():>8.4f}"
        yield line + "".join(f"{(one.radii >= radius).mean():>7.3f}" for radius in RADII)
    yield f"  {'envelope':18}{'not one':15}{'':>7}{envelope[0]:>8.4f}" + "".join(f"{share:>7.3f}" for share in highest)


def compared(dual: Measured, other: Measured, draws: Resampled) -> Iterator[str]:
    yield verdict(dual.choice.name, other.choice.name, draws.mean(dual.radii) - draws.mean(other.radii))
    pairs = [(dual.radii >= radius, other.radii >= radius) for radius in RADII]
    found = []
    for radius, (ours, theirs) in zip(RADII, pairs, strict=True):
        gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        p = min(1.0, 2 * float(min(p_value(lost, gained), p_value(gained, lost))))
        found.append(f"{radius:g}: +{gained} -{lost} (p {p:.2g})")
    yield f"    rows gained and lost, by radius: {'; '.join(found)}"


def verdict(name: str, other: str, differences: Array) -> str:
    """A sentence that follows from the numbers: `differences` of average radii, the rows' own first."""
    low, high = np.quantile(differences[1:], [0.025, 0.975])
    word = "wins against" if low > 0 else "loses against" if high < 0 else "is undecided against"
    return f"  {name} {word} {other}: average radius {differences[0]:+.4f}, 95 % from {low:+.4f} to {high:+.4f}"


def case(name: str, total: int, count: int) -> Iterator[str]:
    train, choose, test = (CASES[name](rows) for rows in example.digits())
    test = Rows(test.x[:count], test.y[:count])
    nets = networks(train)
    alone = singles(nets, choose, total)
    grid = [choice for choice in alone if choice.entry["sigma"] in SIGMAS]
    wanted = grid if best_of(alone) in grid else [*grid, best_of(alone)]
    levels = [measure(choice, nets, test) for choice in wanted]
    asked = [measure(choice, nets, test) for choice in duals(nets, train, choose, total)]
    held = measure(Choice("frozen (S1)", "insta", 0.0, example.frozen(total)), nets, test)
    draws = Resampled.of(len(test))
    envelope = draws.envelope([one.radii for one in levels])
    highest = [max(float((one.radii >= radius).mean()) for one in levels) for radius in RADII]
    yield f"{name}: {len(test)} test rows, at most {total} copies of each, certified accuracy by radius"
    yield from table([*levels, *asked], envelope, highest)
    for one in asked:
        chosen = ", ".join(f"{sigma:g} for {rows}" for sigma, rows in one.levels.items())
        yield f"  {one.choice.name} chose {chosen}"
        for rival in dict.fromkeys((best_of(grid).name, best_of(alone).name)):
            yield from compared(one, next(level for level in levels if level.choice.name == rival), draws)
        yield verdict(one.choice.name, "the envelope (not simultaneous)", draws.mean(one.radii) - envelope)
    yield f"  Not compared, for it proves less (the level is held): {held.choice.name}, {held.copies} copies, ACR {held.radii.mean():.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"which rows: {', '.join(CASES)}")
    parser.add_argument("--total", type=int, default=10_000, help="copies of each test row, those of the selector included")
    parser.add_argument("--examples", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.cases:
        for line in case(name, options.total, options.examples):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
