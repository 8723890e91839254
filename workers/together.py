"""What follows from all rows of a job together, without a database: which contradict each other, what a ledger of the run makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from certify import Model
from certify.certificate import Certificate, InstanceEvidence
from certify.contradiction import contradictions, problems, suspects
from certify.errors import Problem
from certify.findings import AttackResult
from certify.memory import Memory, candidates, disagreeing
from certify.regions import Region, Rule, remembers
from certify.run import Plan
from certify.spec import InstanceSmoothingSpec, Spec
from certify.statement import Base
from workers.datasets import Dataset

_Row = Certificate | AttackResult
_Array = np.ndarray[Any, Any]


def contradicted(
    findings: Sequence[_Row], spec: Spec, plan: Plan, model: Callable[[], Model], dataset: Callable[[], Dataset]
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


def remembered_here(findings: Iterator[_Row], spec: Spec, dataset: Dataset) -> Iterator[_Row]:
    """The rows of a run without service, as ledgers of its own leave them: empty at first, one for each rule.

    Args:
        findings: certifier by certifier, examples in order.
        spec: of the run.
        dataset: of the run.
    """
    asking, ledgers = dict(remembering(spec)), dict[Rule, Memory]()
    for index, group in groupby(findings, key=lambda row: row.certifier):
        if index not in asking:
            yield from group
            continue
        rows = [row for row in group if isinstance(row, Certificate)]
        memory = ledgers.setdefault(Rule.of(asking[index], spec.noise_key), Memory())
        yield from memory.take(rows, candidates(rows, inputs_of(dataset)), index)


@dataclass(frozen=True)
class Clash:
    """Two rows of a ledger that answer differently in one place: the rules were broken. Neither is to be believed."""

    rows: tuple[Certificate, Certificate]

    def problem(self) -> Problem:
        one, other = self.rows
        detail = (
            f"certifier {one.certifier} ({one.kind}, {one.statement}) answers {one.prediction} around example {one.example} and"
            f" {other.prediction} around example {other.example}, and the balls overlap"
        )
        return Problem(
            field="results", detail=detail, mend="the regions behind them are revoked; this is a defect of the service, report it"
        )

    def regions(self) -> list[tuple[str, int]]:
        """Ledger and number of what the rows lean on."""
        notes = [row.evidence.memory for row in self.rows if isinstance(row.evidence, InstanceEvidence) and row.evidence.memory]
        found = [(note.ledger, note.region or note.by) for note in notes]
        return [(where, number) for where, number in found if where is not None and number is not None]


def clashes(findings: Sequence[_Row], spec: Spec, dataset: Callable[[], Dataset]) -> list[Clash]:
    """Pairs of rows of one certifier that went through a ledger and still answer differently in one place: looked for anew, from the rows.

    Args:
        findings: all rows of a job.
        spec: of the job.
        dataset: reads the dataset; not called when no certifier asks a ledger.
    """
    found = []
    for index, _ in remembering(spec):
        rows = [row for row in findings if isinstance(row, Certificate) and row.certifier == index]
        mine = [row for row in rows if row.statement.base is Base.MEMORY]
        claimed = [row for row in mine if row.radius > 0]
        centres = inputs_of(dataset())([row.example for row in claimed]) if claimed else ()
        balls = [_ball(row, place, x.astype("<f4").tobytes()) for place, (row, x) in enumerate(zip(claimed, centres, strict=True))]
        found += [Clash((claimed[one.number], claimed[other.number])) for one, other in disagreeing(balls)]
    return found


def remembering(spec: Spec) -> Iterator[tuple[int, InstanceSmoothingSpec]]:
    """Certifiers that ask a ledger, with their places."""
    for index, certifier in enumerate(spec.certifiers):
        if remembers(certifier):
            assert isinstance(certifier, InstanceSmoothingSpec)
            yield index, certifier


def inputs_of(dataset: Dataset) -> Callable[[Sequence[int]], _Array]:
    """The inputs of some examples, (N, *input), float32."""
    return lambda examples: dataset.x[list(examples)].numpy()


def _ball(row: Certificate, place: int, centre: bytes) -> Region:
    """What a row claims, as a region whose number is its place."""
    assert row.prediction is not None
    return Region(
        number=place,
        digest=row.example_digest or "",
        centre=centre,
        answer=row.prediction,
        radius=row.radius,
        sigma=0.0,
        alpha=0.0,
        job="",
        certifier=row.certifier,
        example=row.example,
    )
