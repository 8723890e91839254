"""Judges what has ended: finds the gates that are due, reads the answers, records what became of each run."""

from __future__ import annotations

import functools
import itertools
from datetime import UTC, datetime

import structlog

from certify.gate_rules import NoDrop
from certify.gates import GateOutcome, Judgement, Night, judge
from certify.statistics.binomial import lower_limit, upper_limit
from storage import gates
from storage.cron import parse_cron
from storage.database import Database
from storage.errors import Busy
from storage.gate_inputs import sides
from storage.records_gates import DueGate, Tick

log = structlog.get_logger()
_BAND = 0.05


def step(db: Database) -> int:
    """Judge everything that is due; how many outcomes are new. Several processes may do so at once: each outcome is kept once.

    Raises:
        Busy: the database cannot be reached; what is not judged yet stays due.
    """
    new = 0
    for due in gates.due_gates(db):
        found = _judged(db, due)
        if gates.record_outcome(db, due, found):
            new += 1
            log.info("judged", action="gate_judged", gate=due.gate.id, job=due.job_id, outcome=found.judgement, reason=found.sentence)
    return new


def _judged(db: Database, due: DueGate) -> GateOutcome:
    try:
        run, baselines = sides(db, due)
        compares = any(isinstance(rule, NoDrop) for rule in due.gate.rules.rules)
        night = _night(due.tick) if due.tick and compares else None
        return judge(due.gate.rules, run, baselines, interval=_interval, night=night)
    except Busy:
        raise
    except Exception as error:
        # It would be the first at every turn, whoever waits for it would wait for ever, and nothing behind it would be judged.
        log.exception("gate failed", action="gate_error", gate=due.gate.id, job=due.job_id)
        why = f"could not be judged: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return GateOutcome(judgement=Judgement.INCONCLUSIVE, sentence=why, checks=())


def _interval(successes: int, trials: int) -> tuple[float, float]:
    return lower_limit(successes, trials, _BAND / 2), upper_limit(successes, trials, _BAND / 2)


def _night(tick: Tick) -> Night:
    return Night(per_year=_ticks(tick.cron, tick.zone, tick.scheduled_for.astimezone(UTC).year), manual=tick.manual)


@functools.lru_cache(maxsize=256)
def _ticks(cron: str, zone: str, year: int) -> int:
    """How often a schedule ticks in a year, at least once."""
    start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    ticks = itertools.takewhile(lambda tick: tick < end, parse_cron(cron, zone).after(start))
    return max(1, sum(1 for _ in ticks))
