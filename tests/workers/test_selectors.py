"""A second network, that chooses noise levels, goes from upload to certificates; what is refused: tests/storage/test_other_models.py."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from certify import Examples, Model, certify
from certify.certificate import Certificate
from certify.spec import parse_spec
from storage import catalog
from storage.records import JobState
from tests.support.files import dataset
from tests.support.onnx_models import small_cnn
from tests.support.runs import run_for
from tests.support.service import Service, drive
from workers.datasets import read_dataset
from workers.executor import Executor, LocalExecutor
from workers.ray_executor import RayExecutor
from workers.settings import WorkerSettings

SELECTOR = small_cnn(seed=5, classes=2, mean=0.5)


@pytest.fixture(params=["in this process", pytest.param("on Ray", marks=pytest.mark.slow)])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Executor]:
    made: Executor = LocalExecutor() if request.param == "in this process" else RayExecutor(WorkerSettings(home=tmp_path))
    yield made
    made.close()


def spec() -> dict[str, Any]:
    chosen = {"kind": "model", "model": hashlib.sha256(SELECTOR).hexdigest(), "sigma": 0.25, "n": 300}
    entry = {"kind": "instance-smoothing", "sigmas": [0.12, 0.25], "n": 300, "alpha": 0.01, "selector": chosen}
    return {"noise_key": "public-seed", "examples": {"stop": 4}, "certifiers": [entry]}


def test_the_service_certifies_what_the_library_certifies_with_that_selector(tmp_path: Path, executor: Executor) -> None:
    service = Service(tmp_path)
    dispatcher = service.dispatcher(executor)
    model_id, dataset_id = service.upload()
    selector_id = catalog.register_model(service.db, service.tenant, name="selector", blob=service.put(SELECTOR), value_range=None).id
    for one in (model_id, selector_id):
        service.inspected(dispatcher, one, dataset_id)
    job = service.submit(model_id, dataset_id, spec())
    drive(dispatcher, lambda: service.job(job).state.ended)
    assert service.job(job).state is JobState.SUCCEEDED, service.job(job).error
    stored = service.certificates(job)
    model, data, asked = Model.from_onnx(small_cnn(mean=0.5), (0.0, 1.0)), read_dataset(dataset()), parse_spec(spec())
    plan = service.job(job).plan
    assert plan is not None
    others = {hashlib.sha256(SELECTOR).hexdigest(): Model.from_onnx(SELECTOR)}
    run = run_for(asked, model, 4, plan=plan, models=others)
    direct = list(certify(model, Examples(tuple(range(4)), data.x[:4], data.y[:4]), asked, run))
    assert [(c.radius, c.evidence) for c in stored] == [(c.radius, c.evidence) for c in direct if isinstance(c, Certificate)]
    assert {str(c.statement) for c in stored} == {"S4-dual"}
