"""What follows from all rows of a job together: whether any two of them contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from certify import Model
from certify.certificate import Certificate
from certify.contradiction import contradictions, problems, suspects
from certify.errors import Problem
from certify.findings import AttackResult
from certify.run import Plan
from certify.spec import Spec
from workers.datasets import Dataset


def contradicted(
    findings: Sequence[Certificate | AttackResult], spec: Spec, plan: Plan, model: Callable[[], Model], dataset: Callable[[], Dataset]
) -> tuple[Problem, ...]:
    """What to tell about rows that cannot both be true; empty when there are none.

    Args:
        findings: all rows of a job.
        spec: of the job.
        plan: of the job.
        model: reads the model; not called when no row keeps an input with another answer.
        dataset: reads the dataset; likewise.
    """
    pairs = suspects(findings)
    if not pairs:
        return ()
    data = dataset()
    return problems(contradictions(pairs, lambda row: data.x[row], model(), spec, plan))
