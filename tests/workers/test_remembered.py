"""Jobs with statement `memory`, from upload to report: rows are S1 until the ledger was asked, and `assay certify` says the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certify.certificate import Certificate, InstanceEvidence, MemoryEvidence
from certify.findings import parse_finding
from certify.regions import Candidate, Resolution
from storage import ledger
from storage.ledger_rows import list_regions
from storage.records import Job, JobState
from storage.records_ledgers import StoredRegion
from tests.support.files import npz, write_job
from tests.support.onnx_models import linear_model
from tests.support.service import Service, drive
from workers.executor import LocalExecutor
from workers.local import main

MEMORY: dict[str, Any] = {
    "kind": "instance-smoothing",
    "statement": "memory",
    "sigmas": [0.1, 0.3],
    "n": 500,
    "n0": 20,
    "search": {"samples": 20, "rounds": 1},
    "sampling": "fixed",
    "error_rate": "per-example",
}


def model() -> bytes:
    """Two classes on either side of x0 = 1/2."""
    return linear_model(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32), np.array([-0.5, 0.5], np.float32))


def data() -> bytes:
    """Six inputs from one class to the other; the last one is the first again."""
    x = np.array([[0.1, 0.5], [0.3, 0.5], [0.7, 0.5], [0.9, 0.5], [0.5, 0.5], [0.1, 0.5]], np.float32)
    return npz(x, np.array([1, 1, 0, 0, 0, 1]))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Callable[[dict[str, Any]], Job]]]:
    """One for all tests, each of which has a rule, and so a ledger, of its own."""
    executor = LocalExecutor()
    found = Service(tmp_path_factory.mktemp("service"))
    dispatcher = found.dispatcher(executor)
    ids = found.upload(model(), data())
    found.inspected(dispatcher, *ids)

    def ended(spec: dict[str, Any]) -> Job:
        job = found.submit(*ids, spec)
        drive(dispatcher, lambda: found.job(job).state.ended)
        return found.job(job)

    yield found, ended
    executor.close()


def note(row: Certificate) -> MemoryEvidence:
    assert isinstance(row.evidence, InstanceEvidence)
    assert row.evidence.memory is not None
    return row.evidence.memory


def regions(place: Service, job: Job) -> tuple[StoredRegion, ...]:
    """All of the ledger that a job went through."""
    here = note(place.certificates(job)[0]).ledger
    assert here is not None
    return list_regions(place.db, place.tenant, here, limit=100).items


def test_a_job_goes_through_its_ledger_before_its_report(service: tuple[Service, Any]) -> None:
    place, ended = service
    job = ended({"certifiers": [MEMORY]})
    assert job.state is JobState.SUCCEEDED, job.error
    rows = place.certificates(job)
    assert {str(row.statement) for row in rows} == {"S2-memory"}
    assert job.report is not None
    assert str(job.report.certifiers[0].statement) == "S2-memory"
    assert note(rows[5]).how == "answered"  # the same input, asked twice
    assert (rows[5].radius, rows[5].prediction) == (rows[0].radius, rows[0].prediction)
    kept = regions(place, job)
    assert [(one.example, one.radius) for one in kept] == [(r.example, r.radius) for r in rows if note(r).region]

    again = ended({"certifiers": [{**MEMORY, "n": 2000}]})  # more samples: the same ledger, and nothing grows
    assert regions(place, again)[: len(kept)] == kept
    for first, second in zip(rows, place.certificates(again), strict=True):
        if first.radius > 0:
            assert (second.radius, note(second).how) == (first.radius, "answered")


def test_assay_certify_says_what_the_service_says(service: tuple[Service, Any], tmp_path: Path) -> None:
    place, ended = service
    spec = {"noise_key": "public-seed", "certifiers": [MEMORY, {"kind": "smoothing", "sigma": 0.2, "n": 500}, {**MEMORY, "n": 400}]}
    served = place.certificates(ended(spec))
    folder = tmp_path / "local"
    folder.mkdir()
    paths = write_job(folder, spec)
    paths["model"].write_bytes(model())
    paths["data"].write_bytes(data())
    arguments = ["certify", "--model", str(paths["model"]), "--data", str(paths["data"]), "--spec", str(paths["spec"])]
    assert main([*arguments, "--out", str(paths["out"]), "--range", "0,1", "--device", "cpu"]) == 0
    rows = [parse_finding(line) for line in paths["out"].read_text().splitlines()]
    for row, one in zip(rows, served, strict=True):
        assert isinstance(row, Certificate)
        assert (str(row.statement), row.prediction, row.radius, row.reason) == (str(one.statement), one.prediction, one.radius, one.reason)
        if row.certifier != 1:
            assert note(row) == note(one).model_copy(update={"ledger": None})
    assert all(note(row).region is None for row in rows[12:] if isinstance(row, Certificate) and row.radius > 0)  # the same rule again


def test_broken_rules_fail_the_job_and_revoke_the_regions(service: tuple[Service, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(one: Candidate, _: object) -> Resolution:
        """Stores every other example with a ball that reaches over all of them."""
        return Resolution(how="stored", answer=one.example % 2, radius=1.0)

    monkeypatch.setattr("workers.finalize.resolve", careless)
    place, ended = service
    job = ended({"certifiers": [{**MEMORY, "sigmas": [0.1, 0.2]}]})
    assert job.state is JobState.FAILED
    assert "answers 0 around example 0 and 1 around example 1, and the balls overlap" in job.error[0].sentence()
    shown = regions(place, job)
    assert len(shown) == 6
    assert all(one.revoked_because and "overlap" in one.revoked_because for one in shown)


def test_killed_between_pass_and_report_the_job_goes_on(service: tuple[Service, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    place, ended = service
    calls = []
    true = ledger.apply

    def once(*arguments: Any) -> bool:
        calls.append(true(*arguments))
        if len(calls) == 1:
            raise SystemExit  # no error that a loop could catch
        return calls[-1]

    monkeypatch.setattr(ledger, "apply", once)
    asked = {"certifiers": [{**MEMORY, "sigmas": [0.2, 0.3]}]}
    with pytest.raises(SystemExit):
        ended(asked)
    job = ended(asked)
    assert calls == [True, False]
    assert job.state is JobState.SUCCEEDED
    assert {str(row.statement) for row in place.certificates(job)} == {"S2-memory"}


def test_other_norms_are_refused() -> None:
    from certify.errors import SpecError
    from certify.spec import parse_spec

    with pytest.raises(SpecError, match="the regions of a ledger are l2 balls"):
        parse_spec({"certifiers": [{**MEMORY, "norm": "linf"}]})
