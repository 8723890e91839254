"""Fitted thresholds: better than every single level on other examples, where inputs come in two groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from certify import Examples, certify
from certify.calibration import calibrated
from certify.spec import InstanceSmoothingSpec, parse_spec
from tests.support.levels import Line
from tests.support.runs import run_for

# Narrow stripes near 0, where the small noise answers right, and wide open ground on both sides, where the large one reaches far.
LINE = Line(-0.6, (0.0, 0.6, 1.2), steep=2.0)
SIGMAS = [0.15, 1.5]


def examples(count: int, seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(-0.4, 0.4, count // 2), rng.uniform(4, 8, count - count // 2)])
    labels = (LINE.g(x) > 0).astype(np.int64)
    return Examples(tuple(range(count)), torch.tensor(x[:, None], dtype=torch.float32), torch.from_numpy(labels))


def spec(**selector: Any) -> Any:
    return parse_spec({"certifiers": [{"kind": "instance-smoothing", "sigmas": SIGMAS, "n": 5000, "selector": {"sigma": 0.5, **selector}}]})


def mean_radius(job: Any, chosen: Examples) -> float:
    model = LINE.model()
    rows: list[Any] = list(certify(model, chosen, job, run_for(job, model, len(chosen), batch_size=2048)))
    return float(np.mean([row.radius if row.correct else 0.0 for row in rows]))


def test_fitted_thresholds_are_better_than_every_single_level_on_other_examples() -> None:
    asked = spec().certifiers[0]
    assert isinstance(asked, InstanceSmoothingSpec)
    found = calibrated(LINE.model(), examples(30, seed=1), asked, copies=300)
    assert found == calibrated(LINE.model(), examples(30, seed=1), asked, copies=300)
    assert len(found) == 1
    others = examples(30, seed=2)
    fitted = mean_radius(spec(thresholds=list(found)), others)
    assert fitted > 0.1
    # The default was not made for this, and happens to suit it.
    assert fitted > 0.99 * mean_radius(spec(), others)
    assert fitted > 1.05 * max(mean_radius(spec(thresholds=[end]), others) for end in (0.0, 1.0))
