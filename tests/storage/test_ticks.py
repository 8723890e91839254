"""Which due ticks are fired: every tick is fired or skipped with a reason, none twice, whatever was slept through."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from storage.cron import Cron
from storage.records_schedules import CatchUp
from storage.ticks import LARGEST, decide

HOURLY = Cron("0 * * * *", "UTC")
FIRST = datetime(2026, 11, 2, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hours(*numbers: int) -> list[datetime]:
    return [FIRST + HOUR * number for number in numbers]


def test_a_tick_in_time_is_fired() -> None:
    for policy in CatchUp:
        decision = decide(HOURLY, FIRST, FIRST + timedelta(seconds=0.4), policy, None)
        assert (decision.skipped, decision.fire, decision.next_at) == ((), FIRST, FIRST + HOUR)


@pytest.mark.parametrize(
    ("policy", "fired", "skipped", "following"),
    [(CatchUp.NONE, None, hours(0, 1, 2), 3), (CatchUp.LATEST, FIRST + 2 * HOUR, hours(0, 1), 3), (CatchUp.ALL, FIRST, [], 1)],
)
def test_what_was_slept_through_is_made_up_for_as_the_policy_says(
    policy: CatchUp, fired: datetime | None, skipped: list[datetime], following: int
) -> None:
    decision = decide(HOURLY, FIRST, FIRST + 2.5 * HOUR, policy, None)
    assert decision.fire == fired
    assert [tick for tick, _ in decision.skipped] == skipped
    assert decision.next_at == FIRST + following * HOUR
    assert all(policy in reason for _, reason in decision.skipped)


def test_with_no_catch_up_only_a_late_tick_is_lost() -> None:
    decision = decide(HOURLY, FIRST, FIRST + 2 * HOUR + timedelta(seconds=30), CatchUp.NONE, None)
    assert decision.fire == FIRST + 2 * HOUR
    assert [tick for tick, _ in decision.skipped] == hours(0, 1)


def test_all_fires_the_oldest_first_and_ends() -> None:
    fired, first, now = [], FIRST, FIRST + 5.5 * HOUR
    while first <= now:
        decision = decide(HOURLY, first, now, CatchUp.ALL, None)
        assert decision.fire is not None
        assert decision.next_at is not None
        fired.append(decision.fire)
        first = decision.next_at
    assert fired == hours(0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("policy", CatchUp)
def test_beyond_its_deadline_a_tick_is_missed(policy: CatchUp) -> None:
    late = decide(HOURLY, FIRST, FIRST + timedelta(seconds=601), policy, 600)
    assert (late.fire, late.next_at) == (None, FIRST + HOUR)
    assert late.skipped == ((FIRST, "missed: nobody could fire it within its deadline of 600 s"),)
    assert decide(HOURLY, FIRST, FIRST + timedelta(seconds=600), CatchUp.LATEST, 600).fire == FIRST


@pytest.mark.parametrize("policy", CatchUp)
@pytest.mark.parametrize("asleep", [timedelta(minutes=99), timedelta(minutes=100), timedelta(days=3), timedelta(days=400)])
def test_a_long_sleep_is_told_in_few_rows(policy: CatchUp, asleep: timedelta) -> None:
    every_minute, now = Cron("* * * * *", "Europe/Berlin"), FIRST + asleep
    decision = decide(every_minute, FIRST, now, policy, None)
    due = asleep // timedelta(minutes=1) + 1
    assert len(decision.skipped) <= LARGEST + 1
    if due > LARGEST:
        oldest, reason = decision.skipped[0]
        last = now - timedelta(minutes=LARGEST)
        assert oldest == FIRST
        assert f"every tick after it up to {last:%Y-%m-%d %H:%M} UTC" in reason
    ahead = [tick for tick, _ in decision.skipped[due > LARGEST :]] + [decision.fire] * (decision.fire is not None)
    newest = [now - timedelta(minutes=back) for back in reversed(range(min(due, LARGEST)))]
    assert ahead == (newest[:1] if policy is CatchUp.ALL else newest)


def test_whenever_a_scheduler_looks_every_tick_is_decided_once() -> None:
    clock = Cron("*/20 1-3 * * *", "Australia/Lord_Howe")
    start = datetime(2027, 4, 2, tzinfo=UTC)
    ticks = list(itertools.takewhile(lambda tick: tick < start + timedelta(days=4), clock.after(start)))
    for policy, step in itertools.product(CatchUp, (timedelta(minutes=7), timedelta(minutes=50), timedelta(hours=13))):
        decided, first, now = [], ticks[0], start
        while now < start + timedelta(days=4):
            now += step
            while first <= now:
                decision = decide(clock, first, now, policy, None)
                decided += [tick for tick, _ in decision.skipped] + [decision.fire] * (decision.fire is not None)
                assert decision.next_at is not None
                first = decision.next_at
        assert decided[: len(ticks)] == ticks
