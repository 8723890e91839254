"""Where inputs come in two groups, dual smoothing beats every single level with more samples; thresholds can be fitted to other data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from certify import Examples, certify
from certify.calibration import Calibration, calibrated, calibration
from certify.spec import InstanceSmoothingSpec, parse_spec
from tests.support.levels import Line
from tests.support.runs import run_for

# Stripes of width 1 from -6.5 to 6.5, which a strong noise mixes up, and wide open ground beyond, where it reaches far.
LINE = Line(-6.5, tuple(float(knot) for knot in range(-6, 7)))
DUAL: dict[str, Any] = {"kind": "instance-smoothing", "sigmas": [0.2, 1.5], "n": 5000}


def examples(count: int, seed: int) -> Examples:
    """Four of five in the middle of a stripe, the others far outside."""
    rng, far = np.random.default_rng(seed), count // 5
    near = rng.integers(-4, 5, count - far) + rng.uniform(-0.15, 0.15, count - far)
    x = np.concatenate([near, rng.uniform(12, 16, far)])
    return Examples(tuple(range(count)), torch.tensor(x[:, None], dtype=torch.float32), torch.from_numpy((LINE.g(x) > 0).astype(np.int64)))


def mean_radius(entry: dict[str, Any], chosen: Examples) -> tuple[float, float]:
    """Of correct answers; and the mean number of copies."""
    job, model = parse_spec({"certifiers": [entry]}), LINE.model()
    rows: list[Any] = list(certify(model, chosen, job, run_for(job, model, len(chosen), batch_size=2048)))
    return float(np.mean([row.radius if row.correct else 0.0 for row in rows])), float(np.mean([row.evidence.copies for row in rows]))


def fitted(**selector: Any) -> tuple[float, ...]:
    spec = parse_spec({"certifiers": [{**DUAL, "selector": selector}]}).certifiers[0]
    assert isinstance(spec, InstanceSmoothingSpec)
    return calibrated(LINE.model(), examples(30, seed=1), spec, copies=300)


def test_dual_with_its_defaults_beats_every_single_level_where_inputs_come_in_groups() -> None:
    others = examples(60, seed=5)
    dual, copies = mean_radius(DUAL, others)
    for sigma in (0.2, 0.4, 1.5):
        single, more = mean_radius({"kind": "smoothing", "sigma": sigma, "n": 20_000}, others)
        assert more > copies
        assert dual > 1.1 * single


def test_fitted_thresholds_mend_a_bad_guess_on_other_examples() -> None:
    bad = {"thresholds": [0.999]}
    found = fitted(**bad)
    assert found == fitted(**bad)
    assert len(found) == 1
    others = examples(30, seed=2)
    good, _ = mean_radius({**DUAL, "selector": {"thresholds": list(found)}}, others)
    for thresholds in ([0.0], [1.0], [0.999]):
        assert good > 1.1 * mean_radius({**DUAL, "selector": {"thresholds": thresholds}}, others)[0]
    assert good > 0.98 * mean_radius(DUAL, others)[0]


def estimated(steep: float, thresholds: tuple[float, ...]) -> Calibration:
    spec = parse_spec({"certifiers": [{**DUAL, "selector": {"thresholds": list(thresholds)}}]}).certifiers[0]
    assert isinstance(spec, InstanceSmoothingSpec)
    return calibration(Line(LINE.first, LINE.knots, steep).model(), examples(30, seed=1), spec, copies=100, batch_size=7)


@pytest.mark.parametrize("steep", [1.0, 38.0, 42.0, 60.0])
def test_what_is_told_is_told_of_the_thresholds_as_they_are_written(steep: float) -> None:
    """A network so sure of itself that six digits of a threshold say 1 where its log-odds tell inputs apart."""
    found = estimated(steep, (0.9,))
    assert estimated(steep, found.thresholds).before == found.mean
    for single in ((0.0,), (1.0,), (0.9,)):
        assert estimated(steep, single).before <= found.mean
