"""`scripts/bench radius`: the search for the largest radius beside plain bisection, example by example in turn, in one run.

(a) 12 steps of bisection between 0 and the cap, each a fresh CROWN bound in float32 of one re-used module, then the full verification in
    float64 of what was found;
(b) the search of the certifier: float32 too, guided by where linear bounds end and reusing what is known of larger balls; then the same
    full verification.

A network the size of MNIST's, trained on the handwritten digits for a minute. Prints the ratio of the times and how far the radii are
apart; nothing here gates a test.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from certify import Model
from certify.bounds.engine import LirpaEngine, MarginBound
from certify.bounds.radius import largest_radius
from certify.bounds.scout import Scout
from certify.export import to_onnx
from certify.norms import Norm

STEPS, TOLERANCE = 12, 0.01
CAPS = {Norm.LINF: 0.1, Norm.L2: 1.0, Norm.L1: 4.0}


def trained(epochs: int = 6) -> tuple[Model, Tensor, Tensor]:
    """A network of 4,804 ReLUs, and inputs (N, 1, 28, 28) with labels that it has not seen."""
    from sklearn.datasets import load_digits

    digits, generator = load_digits(), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = functional.interpolate(torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1), (28, 28), mode="bilinear")
    y, seen = torch.tensor(digits.target), len(digits.target) - 200
    layers = [nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 100), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(100, 10))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(seen, generator=generator).split(64):
            noise = 0.1 * torch.randn(x[rows].shape, generator=generator)
            loss = functional.cross_entropy(network(x[rows] + noise), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return Model.from_onnx(to_onnx(network.eval(), (1, 28, 28))), x[seen:], y[seen:]


def plain(scout: Scout, x: Tensor, label: int, verify: Callable[[float], MarginBound], cap: float) -> float:
    low, high = 0.0, cap
    for _ in range(STEPS):
        middle = (low + high) / 2
        scout.begin()  # every bound from nothing
        low, high = (middle, high) if scout.probe(x, label, middle, "crown").margin > 0 else (low, middle)
    while low > 0 and not verify(low).proved:
        low -= cap / 2**STEPS
    return low


def guided(scout: Scout, x: Tensor, label: int, verify: Callable[[float], MarginBound], cap: float) -> float:
    scout.begin()
    found = largest_radius(lambda radius: scout.probe(x, label, radius, "crown"), verify, cap, TOLERANCE)
    return found.radius if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--norm", choices=[norm.value for norm in CAPS], default="linf")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    norm = Norm(asked.norm)
    model, inputs, labels = trained()
    engine = LirpaEngine(model.graph, norm)
    scout = Scout(engine)
    seconds, radii = {"plain": 0.0, "guided": 0.0, "verification": 0.0}, []
    right = [(x, int(y)) for x, y in zip(inputs, labels, strict=True) if int(engine.logits(x).argmax()) == int(y)][: asked.examples]
    for x, label in right:

        def verify(radius: float, x: Tensor = x, label: int = label) -> MarginBound:
            start = time.perf_counter()
            bound = engine.margin(x, label, radius, "crown")
            seconds["verification"] += time.perf_counter() - start
            return bound

        pair = []
        for name, search in (("plain", plain), ("guided", guided)):
            start = time.perf_counter()
            pair.append(search(scout, x, label, verify, CAPS[norm]))
            seconds[name] += time.perf_counter() - start
        radii.append(pair)
    resolved = [(a, b) for a, b in radii if a > 100 * CAPS[norm] / 2**STEPS]
    lines = [
        f"{norm.value}, {len(right)} examples, CROWN, cap {CAPS[norm]:g}",
        f"plain bisection / search   {seconds['plain'] / seconds['guided']:.2f}",
        f"share of the search that is its full verifications   {seconds['verification'] / 2 / seconds['guided']:.2f}",
        f"radius of the search / of bisection   {min(b / a for a, b in resolved):.4f} to {max(b / a for a, b in resolved):.4f}"
        f" (the {len(resolved)} that bisection resolves to 1 %)",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
