"""What follows from all rows of a job together: the report, and whether any two of them contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from certify import Model
from certify.certificate import Certificate
from certify.contradiction import contradictions, problems, suspects
from certify.errors import Problem
from certify.findings import AttackResult
from workers.datasets import Dataset


def contradicted(
    findings: Sequence[Certificate | AttackResult], model: Callable[[], Model], dataset: Callable[[], Dataset]
) -> tuple[Problem, ...]:
    """What to tell about rows that cannot both be true; empty when there are none.

    Args:
        findings: all rows of a job.
        model: reads the model; not called when no row keeps an input with another answer.
        dataset: reads the dataset; likewise.
    """
    pairs = suspects(findings)
    if not pairs:
        return ()
    network, data = model(), dataset()
    found = contradictions(pairs, lambda row: data.x[row], network.module("cpu", torch.float64), network.value_range)
    return problems(found)
