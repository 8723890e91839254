"""Which of the ticks that are due is fired, and why the others are not. Pure: a clock reading goes in, a decision comes out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta

from storage.cron import Cron
from storage.records_schedules import CatchUp

LARGEST = 100  # ticks that are looked at one by one, the newest ones; older ones are told in one row
ON_TIME = timedelta(seconds=60)


@dataclass(frozen=True)
class Decision:
    """`skipped` ticks with their reasons, the tick to `fire` if any, and the first tick that is then still undecided."""

    skipped: tuple[tuple[datetime, str], ...]
    fire: datetime | None
    next_at: datetime | None


def decide(cron: Cron, first: datetime, now: datetime, catch_up: CatchUp, deadline_seconds: int | None) -> Decision:
    """Decides about all ticks from `first`, the first undecided one, up to `now`; at most one of them is fired.

    Every tick is fired, skipped or left for the next decision, none is forgotten and none counted twice.
    """
    known, older = _due(cron, first, now)
    skipped = []
    if older is not None:
        text = (
            f"missed, and so was every tick after it up to {told(older)}: only the newest {LARGEST} missed ticks are looked at one by one"
        )
        skipped.append((first, text))
    if deadline_seconds is not None:
        late = [tick for tick in known if now - tick > timedelta(seconds=deadline_seconds)]
        skipped += [(tick, f"missed: nobody could fire it within its deadline of {deadline_seconds} s") for tick in late]
        known = known[len(late) :]
    if catch_up is CatchUp.ALL and known:
        return Decision(tuple(skipped), known[0], known[1] if len(known) > 1 else cron.next(now))
    fired = known[-1:]
    if catch_up is CatchUp.NONE and fired and now - fired[0] > ON_TIME:
        fired = []
    why = "the catch-up policy is none" if catch_up is CatchUp.NONE else "the catch-up policy is latest, and a later tick was due as well"
    skipped += [(tick, f"missed: nobody fired it in time, and {why}") for tick in known[: len(known) - len(fired)]]
    return Decision(tuple(skipped), fired[0] if fired else None, cron.next(now))


def told(when: datetime) -> str:
    """A moment in a sentence."""
    return f"{when:%Y-%m-%d %H:%M} UTC"


def _due(cron: Cron, first: datetime, now: datetime) -> tuple[list[datetime], datetime | None]:
    """The newest ticks that are due, and the last of those before them, if there are any."""
    window = timedelta(hours=1)
    while True:
        start = max(first, now - window)
        found = [first] if start == first else []
        found += itertools.takewhile(lambda tick: tick <= now, cron.after(start))
        if start == first or len(found) > LARGEST:  # a service that slept for a year is not asked for half a million ticks
            return found[-LARGEST:], found[-LARGEST - 1] if len(found) > LARGEST else None
        window *= 4
