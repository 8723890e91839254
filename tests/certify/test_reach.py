"""What is refused as out of reach is exactly what unanimous votes could not prove."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from certify.errors import SpecError
from certify.norms import conversion
from certify.sampling.noise import NOISES
from certify.spec import SmoothingSpec, parse_spec
from certify.statistics.sequential import Look, limits

CASES = [
    {"noise": noise, "norm": norm, "bound": bound, "sampling": sampling}
    for (noise, norm), bound, sampling in itertools.product(
        [("gaussian", "l2"), ("gaussian", "linf"), ("gaussian", "l1"), ("uniform", "l1"), ("uniform", "linf"), ("discrete-gaussian", "l2")],
        ["one-sided", "top-two"],
        ["fixed", "adaptive"],
    )
]


def parsed(**fields: Any) -> SmoothingSpec:
    [certifier] = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": 0.5, **fields}]}).certifiers
    assert isinstance(certifier, SmoothingSpec)
    return certifier


@pytest.mark.parametrize("n", [100, 5_000, 100_000])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case.values()))
def test_the_reach_is_what_unanimous_votes_prove_at_the_last_look(case: dict[str, str], n: int) -> None:
    spec, alpha, dimension = parsed(n=n, **case), 1e-4, 12
    noise = NOISES[spec.noise](spec.sigma, (dimension,), "cpu")
    found = limits([Look(n, n, 0, spec.shares[-1])], alpha, spec.bound, noise.slack)
    proved = noise.radius(found.pA_lower, found.pB_upper) / conversion(spec.own_norm, spec.norm, dimension)
    assert spec.largest_radius(alpha, dimension) == pytest.approx(proved, rel=1e-5)
    assert spec.largest_radius(alpha, dimension) >= proved  # nothing that could be proved is refused


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case.values()))
def test_a_radius_out_of_reach_is_refused_with_the_reach(case: dict[str, str]) -> None:
    reach = parsed(n=1000, **case).largest_radius(0.001)
    parsed(n=1000, radii=[reach * 0.999], **case)
    with pytest.raises(SpecError, match="reach at most") as caught:
        parsed(n=1000, radii=[0.01, reach * 1.001], **case)
    assert f"{reach:.3f}"[:-1] in str(caught.value)
