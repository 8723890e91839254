"""Runs for tests: the surroundings that a worker would give."""

from __future__ import annotations

import time
from typing import Any

from certify import Model
from certify.certificate import Provenance, Versions
from certify.run import Plan, Run, public_key
from certify.spec import Spec


def provenance(model: Model, spec: Spec) -> Provenance:
    return Provenance(
        model=model.digest,
        dataset="0" * 64,
        spec=spec.digest(),
        noise_key=None,
        seed=spec.seed,
        device="cpu",
        dtype="float32",
        batch_size=None,
        versions=Versions(assay="0", torch="0", numpy="0"),
    )


def run_for(spec: Spec, model: Model, examples: int, *, family: int | None = None, batch_size: int = 256, **changes: Any) -> Run:
    plan = Plan(family=family or spec.family(examples), batch_sizes=(batch_size,) * len(spec.certifiers))
    values: dict[str, Any] = {
        "plan": plan,
        "noise_key": public_key(spec),
        "provenance": provenance(model, spec),
        "now": time.monotonic,
        **changes,
    }
    return Run(**values)
