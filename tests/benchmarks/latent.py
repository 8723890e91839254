"""`scripts/bench latent`: latent smoothing beside smoothing at the input of the same network, equal n, in one run.

The cost model says that latent smoothing takes (FLOPs behind the split) / (all FLOPs) of the time. What it leaves out: noise is drawn for
every element of the split instead of the input, small layers run less efficiently than large ones, and the encoder is evaluated once
for each example, in float64 with its rounding error. Prints medians of ratios taken round by round; nothing here gates a test.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from certify import Examples, Model, certify
from certify.export import to_onnx
from certify.lipschitz.orthogonal import GroupSort, OrthogonalLinear, ParaunitaryConv2d
from certify.sampling.batch import default_batch_size
from certify.spec import parse_spec
from tests.support.runs import run_for
from workers.facts import model_facts


def digits() -> nn.Module:
    """The network of the worked example; the split has 64 elements."""
    encoder: list[nn.Module] = [ParaunitaryConv2d(1, 32, 3), GroupSort(), ParaunitaryConv2d(32, 32, 3), GroupSort()]
    encoder += [ParaunitaryConv2d(32, 64, 2, stride=2), GroupSort(), nn.Flatten(), OrthogonalLinear(1024, 64)]
    return nn.Sequential(*encoder, nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def images() -> nn.Module:
    """32 x 32 colour images; the split is 128 x 4 x 4."""
    encoder: list[nn.Module] = [ParaunitaryConv2d(3, 32, 3), GroupSort(), ParaunitaryConv2d(32, 32, 3), GroupSort()]
    encoder += [ParaunitaryConv2d(32, 64, 2, stride=2), GroupSort(), ParaunitaryConv2d(64, 64, 3), GroupSort()]
    encoder += [ParaunitaryConv2d(64, 64, 2, stride=2), GroupSort(), ParaunitaryConv2d(64, 128, 2, stride=2)]
    head: list[nn.Module] = [nn.Conv2d(128, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 128, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*encoder, *head, nn.Flatten(), nn.Linear(2048, 10))


def plain() -> nn.Module:
    """Ordinary convolutions on 32 x 32 colour images; the split is 64 x 8 x 8."""
    encoder: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()]
    encoder += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, stride=2, padding=1)]
    return nn.Sequential(*encoder, nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...], int]] = {
    "digits": (digits, (1, 8, 8), (64,), 20_000),
    "images": (images, (3, 32, 32), (128, 4, 4), 2000),
    "plain": (plain, (3, 32, 32), (64, 8, 8), 2000),
}


def measure(name: str, rounds: int, examples: int) -> None:
    make, shape, latent, n = CASES[name]
    torch.manual_seed(0)
    model = Model.from_onnx(to_onnx(make().eval(), shape))
    graph, facts = model.graph, model_facts(model)
    split = next(cut for cut in graph.cuts() if graph.shapes[cut] == latent)
    share = graph.after(split).flops() / graph.flops()
    x = torch.rand(examples, *shape, generator=torch.Generator().manual_seed(0))
    data = Examples(tuple(range(examples)), x, torch.zeros(examples, dtype=torch.int64))

    def seconds(entry: Mapping[str, object]) -> float:
        spec = parse_spec({"certifiers": [{"sigma": 0.25, "n": n, "sampling": "fixed", **entry}]})
        size = default_batch_size(*facts.sampled(split if entry["kind"] == "latent-smoothing" else None), "cpu")
        run = run_for(spec, model, examples, batch_size=size)
        started = time.perf_counter()
        list(certify(model, data, spec, run))
        return time.perf_counter() - started

    at_input, behind = {"kind": "smoothing"}, {"kind": "latent-smoothing", "split": split}
    for entry in (at_input, behind):
        seconds({**entry, "n": 100})  # the modules and the Lipschitz bound are made once for a model, not for an example
    ratios = [seconds(behind) / seconds(at_input) for _ in range(rounds)]
    found = statistics.median(ratios)
    sys.stdout.write(
        f"{name}: {graph.flops():,} FLOPs, {share:.1%} of them behind the split of {list(latent)} elements, n = {n}, {examples} examples\n"
        f"  latent / input: {found:.4f} (of {rounds} rounds: {min(ratios):.4f} to {max(ratios):.4f}),"
        f" {found / share:.2f} times the share of FLOPs\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"which networks: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.cases:
        measure(name, options.rounds, options.examples)


if __name__ == "__main__":
    main()
