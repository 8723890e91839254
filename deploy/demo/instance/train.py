"""Trains the example of a noise level for each input, on the handwritten digits that ship with scikit-learn; writes ONNX, npz and a spec.

The network is trained in the spirit of Insta-RS Train (Chen et al. 2021, arXiv 2103.04436; its inner details are not public, so these are
ours): first with noise of one level, then every training example gets a level of its own, by hill climbs that alternate with training
under these levels. A second network learns which level of the grid pays for a noisy image. The spec asks the first network for `dual`,
with that selector and with one by confidence whose thresholds fit rows that nobody certifies, for `frozen`, and for each level alone, all
with the same number of noisy copies.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import special
from sklearn.datasets import load_digits
from torch import Tensor, nn

from certify.calibration import calibrated
from certify.export import to_onnx
from certify.level_search import ladder
from certify.model import Examples, Model
from certify.spec import InstanceSmoothingSpec, parse_spec

SIGMAS = (0.1, 0.2, 0.3, 0.4)
BASE = 0.2
TRAINED, CHOOSING = 997, 1297  # rows before the first train, rows before the second choose, the others test
EPOCHS, ALTERNATIONS, CLIMBS, COPIES = 40, 5, 3, 64
EXAMPLES, SAMPLES = 100, 20_000
Levels = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rows:
    """Images in [0, 1], float32, and their labels, int64."""

    x: Tensor  # (N, 1, 8, 8)
    y: Tensor  # (N,)

    def __len__(self) -> int:
        return len(self.y)


def digits() -> tuple[Rows, Rows, Rows]:
    """Rows to train on, rows to choose by, rows to test with."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x = torch.from_numpy((found.images[order] / 16.0).astype(np.float32)[:, None])
    y = torch.from_numpy(found.target[order].astype(np.int64))
    train, choose, test = (Rows(x[a:b], y[a:b]) for a, b in pairwise((0, TRAINED, CHOOSING, len(y))))
    return train, choose, test


def network(outputs: int) -> nn.Module:
    """Fully connected: the many noisy copies of a small image take little time."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs))


def noisy(x: Tensor, sigma: Tensor) -> Tensor:  # x: (batch, 1, 8, 8); sigma: (batch,)
    return x + sigma[:, None, None, None] * torch.randn_like(x)


def minimise(model: nn.Module, rows: int, loss: Callable[[Tensor], Tensor], epochs: int, rate: float) -> nn.Module:
    """Adam on batches of rows, with steps that fall to 0 along a cosine; the model is changed in place."""
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(rows).split(64):
            optimiser.zero_grad()
            loss(batch).backward()
            optimiser.step()
        schedule.step()
    return model.eval()


def fit(model: nn.Module, data: Rows, levels: Levels, epochs: int = EPOCHS, rate: float = 3e-3) -> nn.Module:
    """Gaussian augmentation; `levels` gives the noise level of each row of a batch."""

    def loss(batch: Tensor) -> Tensor:  # (batch,)
        return nn.functional.cross_entropy(model(noisy(data.x[batch], levels(batch))), data.y[batch])

    return minimise(model, len(data), loss, epochs, rate)


def single(sigma: float) -> Levels:
    return lambda batch: torch.full((len(batch),), sigma)


def mixed() -> Levels:
    """A level of the grid, drawn anew each time."""
    grid = torch.tensor(SIGMAS)
    return lambda batch: grid[torch.randint(len(grid), (len(batch),))]


@torch.no_grad()
def gain(model: nn.Module, data: Rows, sigma: Tensor, copies: int) -> Tensor:  # sigma: (N,)
    """(N,): about the radius that `copies` noisy copies promise, sigma * Phi^-1(share of right answers); 0 where most are wrong."""
    right = torch.zeros(len(data))
    for _ in range(copies):
        right += model(noisy(data.x, sigma)).argmax(1) == data.y
    return sigma * quantile(right / copies, copies)


def gains(model: nn.Module, data: Rows, copies: int) -> Tensor:
    """(N, levels): at each level of the grid."""
    return torch.stack([gain(model, data, torch.full((len(data),), level), copies) for level in SIGMAS], dim=1)


def quantile(share: Tensor, copies: int) -> Tensor:
    """Phi^-1, at least 0; half a vote less, so that no number of right answers promises infinity."""
    return torch.from_numpy(special.ndtri((share.double().numpy() - 0.5 / copies).clip(0.5))).float()


def rungs() -> Tensor:
    """The levels that training may give an example: those that a search may try, one between each two of the grid."""
    return torch.tensor(ladder(SIGMAS, rounds=1))


def climb(model: nn.Module, data: Rows, at: Tensor, copies: int = COPIES) -> Tensor:  # at: (N,), int64
    """(N,): each example's rung after a step up, a step down or none, whichever promises most; of equals it stays."""
    levels = rungs()
    places = torch.stack([(at + step).clamp(0, len(levels) - 1) for step in (0, -1, 1)])
    promised = torch.stack([gain(model, data, levels[place], copies) for place in places])
    return places.gather(0, promised.argmax(0, keepdim=True))[0]


def insta(data: Rows, epochs: int = EPOCHS, alternations: int = ALTERNATIONS, copies: int = COPIES) -> tuple[nn.Module, Tensor]:
    """Two stages: noise of one level; then levels of the training examples' own, (N,), and training under them, in turns."""
    levels = rungs()
    model = fit(network(10), data, single(BASE), epochs)
    at = (levels - BASE).abs().argmin().repeat(len(data))
    for _ in range(alternations):
        for _ in range(CLIMBS):
            at = climb(model, data, at, copies)
        model = fit(model, data, levels[at].__getitem__, max(1, epochs // 4), rate=1e-3)
    return model, levels[at]


def selector(promised: Tensor, data: Rows, epochs: int = EPOCHS) -> nn.Module:  # promised: (N, levels)
    """A network that sees an image under noise of the highest level and learns to bet on the level that promises most for it.

    Its loss is what is promised on average when its softmax picks the level: where levels promise much the same, it need not be right.
    """
    chooser = network(len(SIGMAS))

    def loss(batch: Tensor) -> Tensor:  # (batch,)
        bets: Tensor = chooser(noisy(data.x[batch], single(SIGMAS[-1])(batch))).softmax(1)
        return -(bets * promised[batch]).sum(1).mean() / promised.mean()

    return minimise(chooser, len(data), loss, epochs, rate=3e-3)


def fitted(model: Model, data: Rows, total: int) -> dict[str, Any]:
    """The selector by confidence, with the thresholds that promise most on these rows; single levels are among what is compared."""
    asked = parse_spec({"certifiers": [dual(total)]}).certifiers[0]
    assert isinstance(asked, InstanceSmoothingSpec)
    return {"thresholds": list(calibrated(model, Examples(tuple(range(len(data))), data.x, data.y), asked))}


def dual(total: int, **of_selector: Any) -> dict[str, Any]:
    """A quarter of the copies for the selector, under noise of the highest level."""
    asked = {"sigma": SIGMAS[-1], "n0": 100, "n": total // 4 - 100, **of_selector}
    return {**_own_levels(total - total // 4), "statement": "dual", "selector": asked}


def frozen(total: int) -> dict[str, Any]:
    """At most a tenth of the copies for the search."""
    rounds = 2
    points = len(SIGMAS) * (1 + 2 * rounds)
    samples = total // 10 // points
    return {**_own_levels(total - samples * points), "statement": "frozen", "search": {"samples": samples, "rounds": rounds}}


def alone(total: int, sigma: float) -> dict[str, Any]:
    return {"kind": "smoothing", "sigma": sigma, **_votes(total)}


def _own_levels(copies: int) -> dict[str, Any]:
    return {"kind": "instance-smoothing", "sigmas": list(SIGMAS), **_votes(copies)}


def _votes(copies: int) -> dict[str, Any]:
    return {"n0": 100, "n": copies - 100, "alpha": 0.001, "sampling": "fixed"}


def spec(selectors: Sequence[dict[str, Any]], total: int = SAMPLES, examples: int = EXAMPLES) -> dict[str, Any]:
    """The same network and no more than `total` copies of an example, whoever asks."""
    asked = [dual(total, **of_selector) for of_selector in selectors]
    certifiers = [*asked, frozen(total), *(alone(total, sigma) for sigma in SIGMAS)]
    return {"seed": 0, "examples": {"start": 0, "stop": examples}, "certifiers": certifiers}


def write(folder: Path, model: nn.Module, chooser: nn.Module, choose: Rows, test: Rows, total: int = SAMPLES) -> None:
    """Networks, test rows and spec; the thresholds are fitted to `choose`, which is not written."""
    data, selecting = to_onnx(model, (1, 8, 8)), to_onnx(chooser, (1, 8, 8))
    (folder / "model.onnx").write_bytes(data)
    (folder / "selector.onnx").write_bytes(selecting)
    np.savez(folder / "data.npz", x=test.x.numpy(), y=test.y.numpy())
    trained = {"kind": "model", "model": hashlib.sha256(selecting).hexdigest()}
    asked = spec([fitted(Model.from_onnx(data), choose, total), trained], total, min(EXAMPLES, len(test)))
    (folder / "spec.json").write_text(json.dumps(asked, indent=2))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    train, choose, test = digits()
    model, levels = insta(train)
    chooser = selector(gains(model, train, 4 * COPIES), train)
    write(folder, model, chooser, choose, test)
    with torch.no_grad():
        accuracy = float((model(test.x).argmax(1) == test.y).float().mean())
    low, middle, high = (float(level) for level in levels.quantile(torch.tensor([0.1, 0.5, 0.9])))
    sys.stdout.write(
        f"     {len(test)} test images, accuracy without noise {accuracy:.1%}; written to {folder}\n"
        f"     Levels of the training images: {middle:.2g} in the middle, a tenth below {low:.2g}, a tenth above {high:.2g}\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)  # small layers: threads would wait for one another
    main(Path(sys.argv[1]))
