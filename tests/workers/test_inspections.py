"""Inspections of a dispatcher: what the machine spoils is tried again, a lost worker is replaced, and a lease needs heartbeats."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from certify.facts import ModelFacts
from storage import catalog
from storage.database import Database
from storage.records import ArtifactState, InspectionLease, Model
from tests.support.shop import MODEL_FACTS
from tests.support.workplace import Workplace, dataset, wait
from workers import inspections
from workers.inspections import Inspections
from workers.sandbox import Uninspected


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace.make(tmp_path / "home", lease_seconds=0.4)


def started(place: Workplace) -> Inspections:
    return Inspections(place.db, place.store, place.settings, lambda: False)


def turned(found: Inspections, done: Any) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        found.step()
        time.sleep(0.02)


def registered(place: Workplace) -> str:
    return catalog.register_model(place.db, place.tenant, name="m", blob=place.blob(b"bytes")).id


def model(place: Workplace, model_id: str) -> Model:
    return catalog.get_model(place.db, place.tenant, model_id)


def test_three_tries_that_the_machine_spoils_end_as_failed(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_PAUSES", (0.0, 0.0))
    tries = []

    def killed(*_: object) -> ModelFacts:
        tries.append(1)
        raise Uninspected.at("", "the reader was ended by SIGKILL")

    monkeypatch.setattr(inspections, "inspect", killed)
    mine = registered(place)
    turned(started(place), lambda: model(place, mine).state is not ArtifactState.INSPECTING)
    assert (len(tries), model(place, mine).state, model(place, mine).rejection) == (3, ArtifactState.FAILED, ())
    assert "SIGKILL" in model(place, mine).condition


def test_damage_in_the_store_is_not_the_files(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = registered(place)
    digest = model(place, mine).blob
    (place.folder / "artifacts" / "sha256" / digest[:2] / digest).write_bytes(b"other")
    turned(started(place), lambda: model(place, mine).condition != "")
    assert model(place, mine).state is ArtifactState.INSPECTING
    assert "damaged" in model(place, mine).condition


def test_a_long_inspection_keeps_its_lease(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> ModelFacts:
        time.sleep(1.2)
        return MODEL_FACTS

    monkeypatch.setattr(inspections, "inspect", slow)
    mine = registered(place)
    at_work = started(place)
    at_work.step()
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert catalog.lease_inspection(place.db, "other", 60) is None
        time.sleep(0.05)
    turned(at_work, lambda: model(place, mine).state is ArtifactState.READY)
    assert model(place, mine).reader == inspections.reader()


def test_who_lost_the_lease_stops_reading(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    def until_told(lease: InspectionLease, file: Any, seconds: float, should_stop: Any) -> ModelFacts:
        end = time.monotonic() + 20
        while not should_stop():
            assert time.monotonic() < end
            time.sleep(0.02)
        stopped.append(lease.id)
        raise inspections.Cancelled

    monkeypatch.setattr(inspections, "inspect", until_told)
    mine = registered(place)
    at_work = started(place)
    at_work.step()
    wait(lambda: model(place, mine).state is ArtifactState.INSPECTING, 5)
    end_lease(place.db, mine)
    wait(lambda: stopped == [mine], 10)
    at_work.close()
    assert model(place, mine).state is ArtifactState.REJECTED


def end_lease(db: Database, model_id: str) -> None:
    """As another dispatcher would that took over."""
    from certify.errors import Problem

    catalog.reject(db, InspectionLease(kind="model", id=model_id, blob="", value_range=None, epoch=1), [Problem(field="", detail="first")])


def test_a_dataset_in_a_folder_is_read_where_it_lies(place: Workplace) -> None:
    data = dataset(5)
    found = catalog.register_dataset(place.db, place.tenant, name="d", blob=place.blob(data))
    turned(started(place), lambda: catalog.get_dataset(place.db, place.tenant, found.id).state is not ArtifactState.INSPECTING)
    ready = catalog.get_dataset(place.db, place.tenant, found.id)
    assert ready.facts is not None
    assert ready.facts.count == 5
