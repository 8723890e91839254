"""A structure-aware fuzzer of the ONNX reader: `python -m tests.hostile.fuzz --seconds 3600 --seed 0`.

A mutant is refused with a short sentence, or it is a graph that evaluates to its declared shape, each row alone. The rest is a finding.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch

from certify.errors import ModelRejected
from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from tests.certify.graph.wide_cases import WIDE
from tests.hostile.forked import forked
from tests.hostile.mutate import mutated
from tests.support.onnx_models import mlp, small_cnn

SECONDS = 5.0  # for one mutant
STRIDE = 64  # seeds for one process
MAX_EVALUATED = 20_000  # elements of the largest tensor, and a thousand times as many operations


@dataclass
class Findings:
    counts: Counter[str] = field(default_factory=Counter)
    found: dict[int, str] = field(default_factory=dict)  # what is wrong, by seed


@functools.cache
def files() -> tuple[bytes, ...]:
    """Valid models: the usual ones, and one for each operator in each of its forms."""
    usual = [mlp((4, 3, 2)), mlp((4, 3, 2), activation="Tanh"), small_cnn(channels=1, size=4, mean=0.5), small_cnn(channels=2, size=4)]
    return (*usual * 5, *(data for data in WIDE.values() if len(data) < 20_000))


def mutant(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    base = files()[int(rng.integers(len(files())))]
    return mutated(base, list(files()), rng)


def outcome(seed: int) -> str:
    """What became of the mutant: "refused", "evaluated" or "too large to evaluate". An AssertionError or any other error is a finding."""
    try:
        graph = read_onnx(mutant(seed))
    except ModelRejected as error:
        for problem in error.problems:
            sentence = problem.sentence()
            assert sentence.isprintable(), f"not printable: {sentence!r}"
            assert len(sentence) <= 700, f"{len(sentence)} characters: {sentence}"
            assert problem.mend, f"no mend: {sentence}"
        return "refused"
    if graph.largest_tensor() > MAX_EVALUATED or graph.flops() > 1_000 * MAX_EVALUATED:
        return "too large to evaluate"
    check(graph)
    return "evaluated"


def check(graph: Graph) -> None:
    module, shape = GraphModule(graph).eval(), graph.input_shape
    generator = torch.Generator().manual_seed(0)
    row, other = torch.rand((2, *shape), generator=generator)
    with torch.no_grad():
        assert module(torch.zeros(2, *shape)).shape == (2, graph.classes)
        one, two = module(torch.stack([row, other])), module(torch.stack([row, 1e3 - 50 * other]))
        alone = module(row[None])
    assert one.shape == (2, graph.classes)
    assert alone.shape == (1, graph.classes)
    for name, value in (("another neighbour", two[0]), ("no neighbour", alone[0])):
        close = torch.isclose(one[0], value, rtol=1e-4, atol=1e-4, equal_nan=True)
        assert bool(close.all()), f"a row changes with {name}: {one[0].tolist()[:5]} and {value.tolist()[:5]}"


def fuzz(seed: int, seconds: float) -> Findings:
    """Mutants of the seeds from `seed` on."""
    findings, end = Findings(), time.monotonic() + seconds
    while time.monotonic() < end:
        for at, answer in forked(outcome, range(seed, seed + STRIDE), SECONDS):
            lost = answer["lost"] if isinstance(answer, dict) else ""
            if lost:
                findings.found[at] = lost
            findings.counts["finding" if lost else answer] += 1
            if time.monotonic() > end:
                break
        seed += STRIDE
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    findings = fuzz(given.seed, given.seconds)
    for seed, what in findings.found.items():
        sys.stdout.write(f"--- seed {seed}\n{what}\n")
    sys.stdout.write(f"{sum(findings.counts.values())} mutants from seed {given.seed}: {dict(findings.counts)}\n")
    return 1 if findings.found else 0


if __name__ == "__main__":
    sys.exit(main())
