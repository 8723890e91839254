"""Ticks against a clock that is watched minute by minute, through clock changes of an hour, half an hour and two hours."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.errors import InputError
from storage.cron import ALIASES, parse_cron

MINUTE = timedelta(minutes=1)
# Two changes of each zone; the last three change by half an hour, at midnight, and by two hours.
CHANGES = {
    "Europe/Berlin": (date(2026, 10, 25), date(2027, 3, 28)),
    "America/New_York": (date(2026, 11, 1), date(2027, 3, 14)),
    "Africa/Cairo": (date(2026, 10, 29), date(2027, 4, 30)),
    "Australia/Lord_Howe": (date(2026, 10, 4), date(2027, 4, 4)),
    "America/Santiago": (date(2026, 9, 6), date(2027, 4, 4)),
    "Antarctica/Troll": (date(2026, 10, 25), date(2027, 3, 28)),
}
# expression, the minutes and hours it names, whether it follows the clock
CASES = [
    ("30 2 * * *", (30,), (2,), False),
    ("0 0 * * *", (0,), (0,), False),
    ("15,45 1-3 * * *", (15, 45), (1, 2, 3), False),
    ("0 */6 * * *", (0,), (0, 6, 12, 18), True),
    ("30 * * * *", (30,), range(24), True),
    ("*/10 3 * * *", range(0, 60, 10), (3,), True),
    ("*/20 1,2 * * *", (0, 20, 40), (1, 2), True),
    ("* 0 * * *", range(60), (0,), True),
]


def local(zone: str, tick: datetime) -> str:
    return tick.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes")


def ticks(text: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    return list(itertools.takewhile(lambda tick: tick < end, parse_cron(text, zone).after(start)))


def watched(zone: str, minutes: object, hours: object, follows: bool, start: datetime, end: datetime) -> list[datetime]:
    """The ticks in (start, end) by looking at the clock of the zone at every minute."""
    shown: dict[datetime, datetime] = {}
    fits, moment = set(), start - timedelta(days=2)
    while moment < end:
        wall = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        if follows and wall.minute in minutes and wall.hour in hours:  # type: ignore[operator]
            fits.add(moment)
        shown.setdefault(wall, moment)
        moment += MINUTE
    if not follows:
        day = (start - timedelta(days=1)).replace(tzinfo=None, hour=0, minute=0)
        while day < end.replace(tzinfo=None) + timedelta(days=1):
            for hour, minute in itertools.product(hours, minutes):  # type: ignore[call-overload]
                wall = day.replace(hour=hour, minute=minute)
                fits |= {min(at for seen, at in shown.items() if seen >= wall)} if wall <= max(shown) else set()
            day += timedelta(days=1)
    return sorted(at for at in fits if start < at < end)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.parametrize("zone", CHANGES)
def test_ticks_are_those_of_a_watched_clock(zone: str, case: tuple[str, object, object, bool]) -> None:
    text, minutes, hours, follows = case
    for day in CHANGES[zone]:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=1, minutes=1)
        end = start + timedelta(days=3)
        moments = {moment.astimezone(ZoneInfo(zone)).utcoffset() for moment in (start, end)}
        assert len(moments) == 2, "the clock is not changed in this window"
        expected = watched(zone, minutes, hours, follows, start, end)
        assert ticks(text, zone, start, end) == expected
        # a scheduler asks again after every tick, and knows only the last one
        assert [parse_cron(text, zone).next(tick) for tick in [start, *expected[:-1]]] == expected


@pytest.mark.parametrize("zone", CHANGES)
def test_asked_at_any_moment_the_next_tick_is_the_same(zone: str) -> None:
    for (text, *_), day in itertools.product(CASES[:6], CHANGES[zone]):
        start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=14)
        found = ticks(text, zone, start, start + timedelta(days=4))
        for step in range(0, 48 * 60, 17):
            moment = start + timedelta(minutes=step, seconds=29, microseconds=500_000)
            assert parse_cron(text, zone).next(moment) == next(tick for tick in found if tick > moment)


def test_a_nightly_job_runs_once_in_every_night() -> None:
    berlin = ticks("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, tzinfo=UTC), datetime(2027, 4, 1, tzinfo=UTC))
    assert len(berlin) == 159
    shown = [local("Europe/Berlin", tick) for tick in berlin]
    assert len({text[:10] for text in shown}) == len(shown)
    assert "2026-10-25T02:30+02:00" in shown
    assert "2027-03-28T03:00+02:00" in shown
    assert {text[11:16] for text in shown} == {"02:30", "03:00"}


def test_an_hourly_job_runs_in_both_repeated_hours() -> None:
    found = ticks("0 * * * *", "Europe/Berlin", datetime(2026, 10, 24, 23, 30, tzinfo=UTC), datetime(2026, 10, 25, 2, 30, tzinfo=UTC))
    assert [local("Europe/Berlin", tick)[11:] for tick in found] == ["02:00+02:00", "02:00+01:00", "03:00+01:00"]


def test_half_an_hour_is_shown_twice_on_lord_howe_island() -> None:
    found = ticks("30 * * * *", "Australia/Lord_Howe", datetime(2027, 4, 3, 14, tzinfo=UTC), datetime(2027, 4, 3, 16, 30, tzinfo=UTC))
    assert [local("Australia/Lord_Howe", tick)[11:] for tick in found] == ["01:30+11:00", "01:30+10:30", "02:30+10:30"]
    gap = ticks("15 2 * * *", "Australia/Lord_Howe", datetime(2026, 10, 3, tzinfo=UTC), datetime(2026, 10, 4, tzinfo=UTC))
    assert [local("Australia/Lord_Howe", tick) for tick in gap] == ["2026-10-04T02:30+11:00"]


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_are_what_they_say(alias: str) -> None:
    start = datetime(2026, 12, 30, tzinfo=UTC)
    assert parse_cron(alias.upper(), "UTC").next(start) == parse_cron(ALIASES[alias], "UTC").next(start)
    assert parse_cron(alias, "UTC").english() == parse_cron(ALIASES[alias], "UTC").english()


def test_a_schedule_is_told_in_english() -> None:
    assert parse_cron(" 0  2 * * * ", "Europe/Berlin").english() == "At 02:00 every day"
    assert parse_cron("0 0 1 1 mon", "UTC").english() == "At 00:00 on the first day of month and on Monday in January"


@pytest.mark.parametrize(
    ("text", "zone", "said"),
    [
        ("0 25 * * *", "UTC", "cron: '0 25 * * *' cannot be read (look at the field hour); write minute"),
        ("0 0 31 2 *", "UTC", "day-of-month"),
        ("0 2 * *", "UTC", "4 fields instead of 5"),
        ("0 0 2 * * *", "UTC", "6 fields instead of 5"),
        ("@reboot", "UTC", "@daily"),
        ("", "UTC", "'0 2 * * *' for every night at two"),
        ("0 0 30 2 */8", "UTC", "cron: "),
        ("9" * 5000 + " * * * *", "UTC", "more than 200 characters"),
        ("0 2 * * *", "Berlin", "zone: 'Berlin' is not a time zone; use an IANA name such as Europe/Berlin"),
        ("0 2 * * *", "CEST", "such as Europe/Berlin"),
        ("0 2 * * *", "America", "zone"),
        ("0 2 * * *", "right/Europe/Berlin", "zone"),
        ("0 2 * * *", "../../etc/passwd", "zone"),
        ("0 2 * * *", "utc", "such as UTC"),
        ("0 2 * * *", "", "zone"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_a_mend(text: str, zone: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_cron(text, zone)
    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 600


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("0123456789*/,-#LWMONFRIJ@", max_size=7), min_size=4, max_size=6).map(" ".join) | st.text(max_size=30))
def test_whatever_is_sent_is_read_or_refused(text: str) -> None:
    try:
        cron = parse_cron(text, "Europe/Berlin")
    except InputError:
        return
    assert cron.english()
    first = cron.next(datetime(2026, 1, 1, tzinfo=UTC))
    assert first is None or first.tzinfo is UTC
