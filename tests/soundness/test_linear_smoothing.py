"""Smoothing a linear model, whose true radius is its distance to the boundary: near it, and above it only as often as alpha allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from certify import Examples, certify
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support.linear import LinearTruth
from tests.support.runs import run_for

SIGMA, ALPHA = 0.25, 0.001


@pytest.mark.parametrize("count", [60, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("normalised", [False, True])
def test_radii_are_near_the_truth_and_rarely_above(normalised: bool, count: int) -> None:
    truth = LinearTruth.random(3, 2, seed=11, normalised=normalised)
    rng = np.random.default_rng(1)
    gap = (truth.weight[0].astype(np.float64) - truth.weight[1]) / (truth.std if truth.std is not None else 1.0)
    unit = gap / np.linalg.norm(gap)
    start = np.full(3, 0.5)
    offset = float(truth.logits(start)[0] - truth.logits(start)[1]) / np.linalg.norm(gap)
    wanted = SIGMA * rng.uniform(1.0, 2.3, count)
    x = (start + (wanted - offset)[:, None] * unit).astype(np.float32)
    examples = Examples(tuple(range(count)), torch.from_numpy(x), torch.zeros(count, dtype=torch.int64))
    spec = parse_spec(
        {
            "certifiers": [
                {"kind": "smoothing", "sigma": SIGMA, "n": 100_000, "alpha": ALPHA, "error_rate": "per-example", "sampling": "fixed"}
            ]
        }
    )
    near = above = 0
    for certificate, row in zip(
        certify(truth.model(), examples, spec, run_for(spec, truth.model(), count, batch_size=4096)), x, strict=True
    ):
        assert certificate.verdict is Verdict.CERTIFIED
        exact = float(truth.distance(row, 0, Norm.L2))
        near += certificate.radius >= 0.97 * exact
        above += certificate.radius > exact
    assert near >= 0.99 * count
    assert above <= stats.binom.ppf(0.999, count, ALPHA)
