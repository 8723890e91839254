"""The end of a job: what its ledgers make of its rows, whether any two of them contradict each other, and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from certify import Model
from certify.certificate import Certificate
from certify.curves import report
from certify.errors import Problem
from certify.facts import ModelFacts
from certify.memory import answering, candidates, points, resolve
from certify.regions import Rule
from certify.report import Report
from certify.spec import MemoryPredictSpec
from storage import ledger, results
from storage.database import Database
from storage.records import Job, JobState
from workers.datasets import Dataset
from workers.together import Clash, clashes, contradicted, inputs_of, remembering

_NAMED = 5


def concluded(
    db: Database, job: Job, facts: ModelFacts | None, model: Callable[[], Model], dataset: Callable[[], Dataset]
) -> tuple[Report, tuple[Problem, ...]]:
    """What ends a job: ledgers are asked, and then its report, and what to tell about rows that cannot both be true.

    It may be called again after it was killed, and then does what is left.

    Args:
        db: where.
        job: all of whose shards have ended.
        facts: of its model.
        model: reads the model; called when it is needed.
        dataset: reads the dataset; likewise.
    """
    assert job.plan is not None
    remember(db, job, dataset)
    findings = list(results.iter_findings(db, job.tenant_id, job.id))
    wrong, found = contradicted(findings, job.spec, job.plan, model, dataset), clashes(findings, job.spec, dataset)
    revoke(db, job.tenant_id, found)
    asked = job.progress.certificates_total // len(job.spec.certifiers)
    made = report(findings, job.spec, asked, facts.runtime if facts else None)
    return made, (*wrong, *(clash.problem() for clash in found[:_NAMED]))


def remember(db: Database, job: Job, dataset: Callable[[], Dataset]) -> None:
    """Take every certifier of the job that asks for it through its ledger, in the order of the spec; once, however often it is called.

    Predictions come first: they ask for a version that was there when the job was submitted.

    Args:
        db: where.
        job: all of whose shards have ended.
        dataset: reads the dataset; not called when no certifier asks.
    """
    for index, asking in enumerate(job.spec.certifiers):
        if isinstance(asking, MemoryPredictSpec):
            rows, data = _rows(db, job, index), dataset()
            ledger.foretell(db, job.tenant_id, job.id, index, asking, points(rows, inputs_of(data)), answering)
    if job.state is not JobState.FINALIZING:
        return
    for index, certifier in remembering(job.spec):
        # Read before, so that nobody waits for a file behind the ledger's lock.
        rows, data = _rows(db, job, index), dataset()
        asked = candidates(rows, inputs_of(data))
        ledger.apply(db, job.tenant_id, job.id, index, Rule.of(certifier, job.spec.noise_key), asked, resolve)


def revoke(db: Database, tenant_id: str, found: Sequence[Clash]) -> None:
    """The regions behind rows that cannot both be true answer no more."""
    for clash in found:
        for where, number in clash.regions():
            ledger.revoke(db, tenant_id, where, number, clash.problem().detail)


def _rows(db: Database, job: Job, certifier: int) -> list[Certificate]:
    return [row for row in results.iter_certificates(db, job.tenant_id, job.id) if row.certifier == certifier]
