"""When a schedule ticks: five cron fields or an alias, read on the clock of a zone, answered in UTC."""

from __future__ import annotations

import difflib
import functools
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from certify.errors import InputError, Problem

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EXAMPLE = "write minute, hour, day, month and weekday, such as '0 2 * * *' for every night at two, or one of " + ", ".join(ALIASES)
_LONGEST = 200
_SECOND = timedelta(seconds=1)
_STEP = timedelta(hours=12)  # clocks are never changed twice within it
_ANY_DAY = datetime(2024, 1, 1)


@dataclass(frozen=True)
class Cron:
    """A cron expression that is understood, and its zone; see `parse_cron`."""

    text: str
    zone: str

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The ticks after a moment, in UTC, each later than the one before; empty when none comes within 50 years.

        As in Debian's cron, a job at fixed times runs once a day whatever the clock does: a time that the clock jumps over runs at the
        end of the jump, a time that the clock shows twice runs the first time. A job whose minute or hour field begins with `*` runs
        whenever the clock shows a time that fits, so in both repeated hours and in none that is left out.
        """
        start = moment.astimezone(UTC).replace(microsecond=0)
        return self._every(start) if self._by_the_clock() else self._once(start)

    def next(self, moment: datetime) -> datetime | None:
        """The first tick after a moment."""
        return next(self.after(moment), None)

    def english(self) -> str:
        """What the expression says, such as `At 02:00 every day`; itself if it cannot be read."""
        try:
            return CronSim(self._fields(), _ANY_DAY).explain()
        except CronSimError:
            return self.text

    def local(self, tick: datetime) -> datetime:
        """A moment on the clock of the zone."""
        return tick.astimezone(ZoneInfo(self.zone))

    def _fields(self) -> str:
        return ALIASES.get(self.text.strip().lower(), self.text)

    def _by_the_clock(self) -> bool:
        minute, hour, *_ = self._fields().split()
        return minute.startswith("*") or hour.startswith("*")

    # cronsim only lists times of a clock that is never changed. Given a zone, it steps over every change by whole hours and
    # leaves out times where the change is half an hour (Lord Howe Island).

    def _once(self, moment: datetime) -> Iterator[datetime]:
        zone, last = ZoneInfo(self.zone), moment
        for wall in CronSim(self._fields(), moment.astimezone(zone).replace(tzinfo=None)):
            tick = _first_shown(wall, zone)
            if tick > last:
                yield tick
                last = tick

    def _every(self, moment: datetime) -> Iterator[datetime]:
        zone = ZoneInfo(self.zone)
        wall, seen = moment.astimezone(zone).replace(tzinfo=None), moment
        while True:
            offset, changed = _offset(seen, zone), None
            for tick in (shown.replace(tzinfo=UTC) - offset for shown in CronSim(self._fields(), wall)):
                changed = _change(seen, tick, zone)
                if changed is not None:
                    break
                yield tick
                seen = tick
            if changed is None:
                return
            wall, seen = changed.astimezone(zone).replace(tzinfo=None) - _SECOND, changed


def parse_cron(text: str, zone: str) -> Cron:
    """A cron expression that will tick, in a zone that exists.

    Raises:
        InputError: names `cron` or `zone`, what is wrong and an example.
    """
    if zone not in _zones():
        raise InputError(Problem(field="zone", detail=f"{zone[:100]!r} is not a time zone", mend=f"use an IANA name such as {_near(zone)}"))
    found = Cron(" ".join(text[: _LONGEST + 1].split()), zone)
    try:
        if len(text) > _LONGEST:
            raise CronSimError(f"more than {_LONGEST} characters")
        if (count := len(found._fields().split())) != 5:
            raise CronSimError(f"{count} field{'s' * (count != 1)} instead of 5")
        ticks = found.next(datetime.now(UTC)) is not None
    except CronSimError as error:
        why = str(error).replace("Bad ", "look at the field ")
        raise InputError(Problem(field="cron", detail=f"{text[:_LONGEST]!r} cannot be read ({why})", mend=_EXAMPLE)) from None
    if not ticks:
        raise InputError(Problem(field="cron", detail=f"{text!r} never comes", mend=_EXAMPLE))
    return found


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})


def _near(zone: str) -> str:
    """The zone that was probably meant: by its name in small letters, or by its city."""
    known = sorted(name for name in _zones() if "/" in name and not name.startswith("Etc/"))
    names = {"utc": "UTC"} | {name.lower(): name for name in known} | {name.rpartition("/")[2].lower(): name for name in known}
    found = difflib.get_close_matches(zone[:100].lower().replace(" ", "_"), names, n=1, cutoff=0.8)
    return names[found[0]] if found else "Europe/Berlin"


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _first_shown(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first moment at which the clock of a zone shows a time, or the end of the jump that leaves it out."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return moment
    # In a jump the reading before it and the reading after it disagree, and the jump lies between the two moments they name.
    later = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _change(min(moment, later) - _SECOND, max(moment, later), zone) or moment


def _change(start: datetime, end: datetime, zone: ZoneInfo) -> datetime | None:
    """The first moment after `start` and not after `end` at which the clock of the zone is changed, to the second."""
    before, low = _offset(start, zone), start
    while low < end:
        high = min(low + _STEP, end)
        if _offset(high, zone) != before:
            while high - low > _SECOND:
                middle = low + _SECOND * ((high - low) // (2 * _SECOND))
                low, high = (low, middle) if _offset(middle, zone) != before else (middle, high)
            return high
        low = high
    return None
