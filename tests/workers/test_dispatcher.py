"""From upload to report with the in-process executor; what goes wrong stays in its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from certify import Examples, Model, certify
from certify.spec import parse_spec
from storage import catalog, jobs
from storage.errors import Conflict
from storage.records import ArtifactState, JobState
from tests.support.files import SPEC, dataset, npz
from tests.support.onnx_models import linear_model, small_cnn
from tests.support.runs import run_for
from tests.support.service import Service, drive, plain
from workers.datasets import read_dataset
from workers.executor import LocalExecutor


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    made = LocalExecutor()
    yield made
    made.close()


def test_a_job_goes_from_upload_to_report(service: Service, executor: LocalExecutor) -> None:
    dispatcher = service.dispatcher(executor)
    model_id, dataset_id = service.upload()
    with pytest.raises(Conflict, match="inspected"):
        service.submit(model_id, dataset_id)
    service.inspected(dispatcher, model_id, dataset_id)
    job = service.submit(model_id, dataset_id)
    drive(dispatcher, lambda: service.job(job).state.ended)
    ended = service.job(job)
    assert ended.state is JobState.SUCCEEDED
    assert ended.progress.certificates_done == ended.progress.certificates_total == 16
    assert ended.report is not None
    assert [c.kind for c in ended.report.certifiers] == ["smoothing", "bounds"]


def test_the_service_certifies_exactly_what_the_library_certifies(service: Service, executor: LocalExecutor) -> None:
    dispatcher = service.dispatcher(executor)
    model_id, dataset_id = service.upload()
    service.inspected(dispatcher, model_id, dataset_id)
    job = service.submit(model_id, dataset_id)
    drive(dispatcher, lambda: service.job(job).state.ended)
    stored = service.certificates(job)

    model, data, spec = Model.from_onnx(small_cnn(mean=0.5), (0.0, 1.0)), read_dataset(dataset()), parse_spec(SPEC)
    plan = service.job(job).plan
    assert plan is not None
    run = run_for(spec, model, 8, batch_size=plan.batch_sizes[0])
    direct = list(certify(model, Examples(tuple(range(8)), data.x, data.y), spec, run))
    assert [c.radius for c in stored] == [c.radius for c in direct]
    assert [c.evidence for c in stored] == [c.evidence for c in direct]
    assert plain(stored) != []


@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        (b"junk", None, "not an ONNX file"),
        (linear_model(np.array([[np.nan, 0], [0, 1]], np.float32), np.zeros(2, np.float32)), None, "NaN"),
        (None, npz(np.full((3, 1, 8, 8), np.nan, np.float32), np.zeros(3, np.int64)), "NaN"),
        (None, npz(np.zeros((3, 1, 8, 8), np.float32), np.zeros(2, np.int64)), "one label for each"),
        (None, npz(np.array([{"a": 1}], dtype=object), np.zeros(1, np.int64)), "pickle"),
    ],
)
def test_bad_files_are_rejected_with_the_reason(
    service: Service, executor: LocalExecutor, model: bytes | None, data: bytes | None, reason: str
) -> None:
    dispatcher = service.dispatcher(executor)
    model_id, dataset_id = service.upload(model, data)
    service.inspected(dispatcher, model_id, dataset_id)
    found = catalog.get_model(service.db, service.tenant, model_id), catalog.get_dataset(service.db, service.tenant, dataset_id)
    rejected = [artifact for artifact in found if artifact.state is ArtifactState.REJECTED]
    assert len(rejected) == 1
    assert reason in " ".join(problem.sentence() for problem in rejected[0].rejection)


def test_cancelling_a_running_job_keeps_what_is_finished(service: Service, executor: LocalExecutor) -> None:
    dispatcher = service.dispatcher(executor)
    model_id, dataset_id = service.upload()
    service.inspected(dispatcher, model_id, dataset_id)
    slow = {**SPEC, "certifiers": [SPEC["certifiers"][1], {"kind": "smoothing", "sigma": 0.2, "n": 5_000_000, "sampling": "fixed"}]}
    job = service.submit(model_id, dataset_id, slow)
    drive(dispatcher, lambda: service.job(job).progress.certificates_done >= 8)
    jobs.request_cancel(service.db, service.tenant, job.id)
    drive(dispatcher, lambda: service.job(job).state.ended)
    assert service.job(job).state is JobState.CANCELLED
    assert {c.certifier for c in service.certificates(job)} == {0}
    assert service.job(job).report is not None


def test_a_shard_that_fails_fails_its_job_and_no_other(service: Service, executor: LocalExecutor, tmp_path: Path) -> None:
    dispatcher = service.dispatcher(executor)
    model_id, dataset_id = service.upload()
    service.inspected(dispatcher, model_id, dataset_id)
    broken = service.submit(model_id, dataset_id, {**SPEC, "seed": 1})
    digest = catalog.get_dataset(service.db, service.tenant, dataset_id).blob
    stored = tmp_path / "artifacts" / "sha256" / digest[:2] / digest
    kept = stored.read_bytes()
    stored.write_bytes(b"damaged")
    dispatcher.fetch.cache_clear()
    drive(dispatcher, lambda: service.job(broken).state.ended)
    assert service.job(broken).state is JobState.FAILED
    assert "damaged" in service.job(broken).error[0].sentence()
    stored.write_bytes(kept)
    job = service.submit(model_id, dataset_id)
    drive(dispatcher, lambda: service.job(job).state.ended)
    assert service.job(job).state is JobState.SUCCEEDED
