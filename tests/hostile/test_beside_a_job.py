"""Hostile uploads beside a job that runs: the job ends as if it were alone, and every upload gets its sentence."""

from __future__ import annotations

import re
from pathlib import Path

from storage import catalog
from storage.records import ArtifactState, JobState
from tests.hostile.catalogue import CATALOGUE
from tests.hostile.hostile import Hostile, marker, traps
from tests.support.service import Service, drive, plain
from workers.executor import LocalExecutor

WORST = (
    "a TorchScript archive",
    "a pickle of protocol 0 as dataset",
    "an npz of 1:1000 with an honest header",
    "weights by an absolute path",
    "weights whose size wraps int64 to the truth",
    "ConvTranspose with huge strides",
    "thousands of constants that together are 16 GB",
    "a million empty nodes",
    "graphs nested a thousand deep",
    "the batch moved away, reduced and moved back",
)


def certified(folder: Path, uploads: list[Hostile]) -> tuple[list[str], list[str]]:
    """The certificates of a job with these uploads beside it, and what became of each."""
    folder.mkdir()
    service, executor = Service(folder), LocalExecutor()
    try:
        dispatcher = service.dispatcher(executor)
        model, data = service.upload()
        service.inspected(dispatcher, model, data)
        job = service.submit(model, data)
        drive(dispatcher, lambda: service.job(job).state is JobState.RUNNING)
        sent = [(case.kind, _register(service, case)) for case in uploads]
        drive(dispatcher, lambda: service.job(job).state.ended and not _inspecting(service, sent), 300)
        assert service.job(job).state is JobState.SUCCEEDED
        return plain(service.certificates(job)), [_reason(service, kind, found) for kind, found in sent]
    finally:
        executor.close()


def _register(service: Service, case: Hostile) -> str:
    register = catalog.register_model if case.kind == "model" else catalog.register_dataset
    more = {"value_range": (0.0, 1.0)} if case.kind == "model" else {}
    return str(register(service.db, service.tenant, name=f"h{WORST.index(case.name)}", blob=service.put(case.build()), **more).id)


def _artifact(service: Service, kind: str, found: str):  # type: ignore[no-untyped-def]
    return (catalog.get_model if kind == "model" else catalog.get_dataset)(service.db, service.tenant, found)


def _inspecting(service: Service, sent: list[tuple[str, str]]) -> bool:
    return any(_artifact(service, kind, found).state is ArtifactState.INSPECTING for kind, found in sent)


def _reason(service: Service, kind: str, found: str) -> str:
    artifact = _artifact(service, kind, found)
    assert artifact.state is ArtifactState.REJECTED
    return "; ".join(problem.sentence() for problem in artifact.rejection)


def test_a_job_is_undisturbed(tmp_path: Path) -> None:
    traps()
    uploads = [next(case for case in CATALOGUE if case.name == name) for name in WORST]
    alone, _ = certified(tmp_path / "alone", [])
    among, reasons = certified(tmp_path / "among", uploads)
    assert among == alone != []
    for case, reason in zip(uploads, reasons, strict=True):
        assert re.search(case.says, reason), f"{case.name}: {reason}"
    assert not marker().exists()
