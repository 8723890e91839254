"""Gates on jobs and schedules: judged once, in the order of the ticks, against the right baseline."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from certify.errors import InputError
from certify.gate_rules import parse_rules
from certify.gates import GateOutcome, Judgement
from storage import gates, jobs, schedules
from storage.database import Database
from storage.errors import NotFound
from storage.records_gates import Gate
from storage.tables import gate_outcomes
from tests.support.gated import RADIUS, Nightly, answered
from tests.support.pairs import changed
from tests.support.shop import Shop, ready_dataset
from workers import gates as judging

PASS, FAIL, OPEN = Judgement.PASS, Judgement.FAIL, Judgement.INCONCLUSIVE
HALF = {"kind": "certified-accuracy", "radius": RADIUS, "at_least": 0.5}
NO_DROP = {"kind": "no-drop", "radius": RADIUS}
PINNED = {**NO_DROP, "baseline": "pinned"}


@pytest.fixture
def wide(db: Database) -> Shop:
    """A shop with 32 examples: enough for a drop to be significant."""
    return Shop.open(db, "acme", count=32)


def on_job(shop: Shop, job_id: str, *rules: dict[str, Any]) -> Gate:
    return gates.create_gate(shop.db, shop.tenant, name="gate", rules=parse_rules(list(rules)), job_id=job_id)


def outcomes(shop: Shop, gate: Gate) -> list[Judgement]:
    return [one.judgement for one in gates.list_outcomes(shop.db, shop.tenant, gate.id, limit=100).items][::-1]


def test_a_gate_on_a_job_is_judged_once_when_the_job_has_ended(shop: Shop) -> None:
    job = shop.submit()
    gate = on_job(shop, job.id, HALF)
    assert judging.step(shop.db) == 0
    assert [g.id for g in gates.gates_of_job(shop.db, shop.tenant, job.id).waiting] == [gate.id]
    answered(shop, job, [True] * 4 + [False] * 4)
    assert judging.step(shop.db) == 1
    assert judging.step(shop.db) == 0
    found = gates.gates_of_job(shop.db, shop.tenant, job.id)
    assert found.waiting == ()
    assert [(o.gate_name, o.judgement, o.run_id, o.job_id) for o in found.outcomes] == [("gate", PASS, None, job.id)]
    assert "50.0 % at radius 0.1 (4 of 8)" in found.outcomes[0].sentence
    # A gate that is made later judges the same ended job.
    late = on_job(shop, job.id, {**HALF, "at_least": 0.6})
    judging.step(shop.db)
    assert outcomes(shop, late) == [FAIL]


def test_a_cancelled_job_is_inconclusive_unless_its_answers_suffice(shop: Shop) -> None:
    job = shop.submit()
    gate = on_job(shop, job.id, HALF)
    jobs.request_cancel(shop.db, shop.tenant, job.id)
    judging.step(shop.db)
    assert outcomes(shop, gate) == [OPEN]


def test_each_night_is_compared_with_the_one_before(wide: Shop) -> None:
    nights = Nightly.open(wide)
    gate = nights.gate(NO_DROP)
    then, now = changed(8, 0, kept=20, never=4)
    nights.night(0, then)
    nights.night(1, then)
    nights.night(2, now)
    nights.night(3, now)
    found = nights.judged(gate)
    assert [one.judgement for one in found] == [OPEN, PASS, FAIL, PASS]
    assert "no earlier run of the schedule has an answer" in found[0].sentence
    assert "8 lost, 0 gained of 32 examples" in found[2].sentence
    assert "365 nights" in found[2].sentence


def test_a_pinned_baseline_stays_red_until_another_job_is_pinned(wide: Shop) -> None:
    nights = Nightly.open(wide)
    gate = nights.gate(PINNED)
    then, now = changed(8, 0, kept=20, never=4)
    first = nights.night(0, then)
    low = [nights.night(day, now) for day in (1, 2)]
    assert [one.judgement for one in nights.judged(gate)] == [OPEN, FAIL, FAIL]
    assert {one.checks[0].numbers["baseline"] for one in nights.judged(gate)[1:]} == {first.id}
    assert gates.pin_job(wide.db, wide.tenant, gate.id, low[1].id).pinned_job_id == low[1].id
    nights.night(3, now)
    assert [one.judgement for one in nights.judged(gate)] == [OPEN, FAIL, FAIL, PASS]


def test_unpinned_the_first_run_that_the_gate_judged_is_the_baseline(wide: Shop) -> None:
    nights = Nightly.open(wide)
    then, now = changed(8, 0, kept=20, never=4)
    nights.night(0, then)
    gate = nights.gate(PINNED)  # nobody asked about the night before
    first = nights.night(1, now)
    nights.night(2, now)
    found = nights.judged(gate)
    assert [one.judgement for one in found] == [OPEN, PASS]
    assert found[1].checks[0].numbers["baseline"] == first.id


def test_a_slow_decline_is_seen_by_a_pinned_baseline_only(wide: Shop) -> None:
    nights = Nightly.open(wide)
    pinned, previous = nights.gate(PINNED), nights.gate(NO_DROP)
    for day in range(8):
        nights.night(day, [False] * (2 * day) + [True] * (32 - 2 * day))
    assert FAIL in {one.judgement for one in nights.judged(pinned)}
    assert FAIL not in {one.judgement for one in nights.judged(previous)}


def test_a_run_waits_for_earlier_ones_so_that_its_baseline_never_depends_on_who_was_faster(wide: Shop) -> None:
    nights = Nightly.open(wide)
    gate = nights.gate(NO_DROP)
    then, now = changed(8, 0, kept=20, never=4)
    nights.night(0, now)
    slow = wide.submit(seed=77)
    nights.run(1, slow)
    nights.night(2, now)
    assert [one.judgement for one in nights.judged(gate)] == [OPEN]
    answered(wide, slow, then)
    found = nights.judged(gate)
    assert [one.judgement for one in found] == [OPEN, PASS, FAIL]
    assert found[2].checks[0].numbers["baseline"] == slow.id


def test_a_night_without_an_answer_is_no_baseline(wide: Shop) -> None:
    nights = Nightly.open(wide)
    gate = nights.gate(NO_DROP)
    good = nights.night(0, [True] * 32)
    jobs.request_cancel(wide.db, wide.tenant, (broken := wide.submit(seed=5)).id)
    nights.run(1, broken)
    nights.night(2, [True] * 32)
    found = nights.judged(gate)
    assert [one.judgement for one in found] == [OPEN, OPEN, PASS]
    assert found[2].checks[0].numbers["baseline"] == good.id


def test_an_unchanged_question_passes_and_a_job_may_answer_several_runs(wide: Shop) -> None:
    nights = Nightly.open(wide)
    gate = nights.gate(NO_DROP, HALF)
    job = nights.night(0, [True] * 16 + [False] * 16)
    nights.run(1, job)
    nights.run(2, job, manual=True)
    found = nights.judged(gate)
    assert [one.judgement for one in found] == [OPEN, PASS, PASS]
    assert len({one.run_id for one in found}) == 3
    assert "0 lost, 0 gained" in found[1].sentence
    assert "started by hand" in found[2].sentence


def test_a_gate_judges_what_ends_after_it_was_made(wide: Shop) -> None:
    nights = Nightly.open(wide)
    nights.night(0, [True] * 32)
    running = wide.submit(seed=9)
    nights.run(1, running)
    gate = nights.gate(HALF, NO_DROP)
    assert nights.judged(gate) == []  # last month's runs are no news
    answered(wide, running, [True] * 32)
    assert [one.judgement for one in nights.judged(gate)] == [PASS]  # but they are what a run is compared with


def test_two_judges_record_one_outcome(shop: Shop) -> None:
    job = answered(shop, shop.submit(), [True] * 8)
    gate = on_job(shop, job.id, HALF)
    (due,) = gates.due_gates(shop.db)
    results: list[bool] = []
    found = GateOutcome(judgement=PASS, sentence="s", checks=())
    threads = [threading.Thread(target=lambda: results.append(gates.record_outcome(shop.db, due, found))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 5 + [True]
    with shop.db.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(gate_outcomes)).scalar() == 1
    assert outcomes(shop, gate) == [PASS]


def test_a_gate_that_breaks_is_inconclusive_and_holds_up_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    job = answered(shop, shop.submit(), [True] * 8)
    gate = on_job(shop, job.id, HALF)
    monkeypatch.setattr(judging, "judge", lambda *_args, **_more: 1 / 0)
    assert judging.step(shop.db) == 1
    assert outcomes(shop, gate) == [OPEN]
    monkeypatch.undo()
    other = on_job(shop, job.id, HALF)
    judging.step(shop.db)
    assert outcomes(shop, other) == [PASS]


def test_baselines_are_checked_when_a_gate_is_made(wide: Shop) -> None:
    job, other = wide.submit(), wide.submit(seed=3)
    on_job(wide, job.id, {**NO_DROP, "baseline": other.id})
    smaller = Shop(wide.db, wide.tenant, wide.model, ready_dataset(wide.db, wide.tenant, count=4)).submit()
    for baseline, text in (
        (job.id, "is the gated job itself"),
        (smaller.id, "the dataset is another one"),
        (wide.submit(examples={"start": 0, "stop": 8}).id, "other examples were selected"),
        ("job_nobody", "there is no job job_nobody"),
    ):
        with pytest.raises(InputError if text != "x" else NotFound, match=text):
            on_job(wide, job.id, {**NO_DROP, "baseline": baseline})
    with pytest.raises(InputError, match="previous needs a schedule"):
        on_job(wide, job.id, NO_DROP)
    with pytest.raises(InputError, match="decides radius"):
        on_job(wide, job.id, {**HALF, "radius": 0.05})
    with pytest.raises(InputError, match="exactly one of schedule and job"):
        gates.create_gate(wide.db, wide.tenant, name="g", rules=parse_rules([HALF]))


def test_a_job_as_baseline_is_compared_with(wide: Shop) -> None:
    then, now = changed(8, 0, kept=20, never=4)
    base = answered(wide, wide.submit(seed=1), then)
    job = answered(wide, wide.submit(seed=2), now)
    gate = on_job(wide, job.id, {**NO_DROP, "baseline": base.id})
    unfinished = wide.submit(seed=3)
    open_gate = on_job(wide, job.id, {**NO_DROP, "baseline": unfinished.id})
    judging.step(wide.db)
    assert outcomes(wide, gate) == [FAIL]
    assert outcomes(wide, open_gate) == [OPEN]


def test_another_tenant_sees_and_touches_nothing(db: Database, shop: Shop) -> None:
    job = answered(shop, shop.submit(), [True] * 8)
    gate = on_job(shop, job.id, HALF)
    judging.step(db)
    stranger = Shop.open(db, "stranger")
    for act in (
        lambda: gates.get_gate(db, stranger.tenant, gate.id),
        lambda: gates.delete_gate(db, stranger.tenant, gate.id),
        lambda: gates.list_outcomes(db, stranger.tenant, gate.id, limit=10),
        lambda: gates.gates_of_job(db, stranger.tenant, job.id),
        lambda: on_job(stranger, job.id, HALF),
        lambda: on_job(stranger, stranger.submit().id, {**NO_DROP, "baseline": job.id}),
    ):
        with pytest.raises((NotFound, InputError), match="there is no"):
            act()
    assert gates.list_gates(db, stranger.tenant, limit=10).items == ()
    assert outcomes(shop, gate) == [PASS]


def test_deleting_takes_the_outcomes_along(wide: Shop) -> None:
    nights = Nightly.open(wide)
    gate, other = nights.gate(HALF), nights.gate(HALF, name="other")
    nights.night(0, [True] * 32)
    assert len(nights.judged(gate)) == 1
    gates.delete_gate(wide.db, wide.tenant, gate.id)
    with pytest.raises(NotFound):
        gates.get_gate(wide.db, wide.tenant, gate.id)
    assert [g.id for g in gates.list_gates(wide.db, wide.tenant, limit=9, schedule_id=nights.schedule_id).items] == [other.id]
    schedules.delete_schedule(wide.db, wide.tenant, nights.schedule_id)
    assert gates.list_gates(wide.db, wide.tenant, limit=9).items == ()
    assert judging.step(wide.db) == 0
