"""The judgement on one run: rules and answers in; pass, fail or inconclusive out, with the numbers in a sentence.

No database and no clock: what a run is compared with is decided outside and handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

from certify.comparison import Side, compare, counterpart, unlike
from certify.exit_codes import Exit, meets
from certify.gate_rules import Abstention, CertifiedAccuracy, NoDrop, Rule, Rules, silent
from certify.mcnemar import p_value
from certify.rounding import show_given, show_given_share, show_share, show_share_upper, show_upper
from certify.spec import Frozen
from certify.statement import conditions
from certify.verdict import Verdict

UNDECIDED = (Verdict.ABSTAINED, Verdict.UNKNOWN, Verdict.TIMEOUT, Verdict.ERROR)
# Two-sided 95 % limits of a share, from successes and trials.
Interval = Callable[[int, int], tuple[float, float]]
Numbers = dict[str, int | float | str | None]


class Judgement(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit(self) -> Exit:
        return {Judgement.PASS: Exit.DONE, Judgement.FAIL: Exit.REFUTED, Judgement.INCONCLUSIVE: Exit.UNKNOWN}[self]

    @property
    def past(self) -> str:
        """As what became of a gate: `passed`, `failed`, `inconclusive`."""
        return {Judgement.PASS: "passed", Judgement.FAIL: "failed"}.get(self, "inconclusive")


class Check(Frozen):
    """One rule for one certifier: what came out, in a sentence, and the same numbers by name. `rule` counts from 0."""

    rule: int
    kind: str
    certifier: int | None
    judgement: Judgement
    sentence: str
    numbers: Numbers


class GateOutcome(Frozen):
    """What became of a gate: it fails when one check fails; it is inconclusive when none fails and one is."""

    judgement: Judgement
    sentence: str
    checks: tuple[Check, ...]


_STRENGTH = (Judgement.FAIL, Judgement.INCONCLUSIVE, Judgement.PASS)
_VERBS = {Judgement.PASS: "meets", Judgement.FAIL: "misses", Judgement.INCONCLUSIVE: "leaves open"}


@dataclass(frozen=True, kw_only=True)
class Night:
    """Where a run stands in its schedule: how many comparisons a year bring, and whether it is one of them.

    A run that somebody starts by hand is judged at the same level, but the error level of a year counts the others only.
    """

    per_year: int
    manual: bool = False


def judge(rules: Rules, run: Side, baselines: Mapping[str, Side | str], *, interval: Interval, night: Night | None = None) -> GateOutcome:
    """Every rule against every certifier it speaks of.

    The probability that an unchanged run is failed by the comparisons with a baseline is at most the largest level the rules name;
    docs/gates.md says for which runs that holds, and why. Where answers are missing, a rule is met only if it would be whatever they
    were, and missed only if it would be missed whatever they were. A job that failed passes nothing.

    Args:
        rules: of the gate.
        run: the run that is judged.
        baselines: for each name in `rules.baselines()` the run it stands for, or why there is none.
        interval: two-sided 95 % limits of a share, from successes and trials.
        night: where the run stands in its schedule; null for a gate on a job.
    """
    checks: list[Check] = []
    for place, rule in enumerate(rules.rules):
        chosen = rule.chosen(run.spec)
        if not chosen:
            what = _Found(Judgement.INCONCLUSIVE, f"{rule.kind}: the spec of this run has no certifier that the rule speaks of", {})
            checks.append(_as_check(what, place, rule, None))
        for index in chosen:
            found = _judged(rule, index, run, baselines, interval, lambda one: _level(one, night, rules.comparisons(run.spec)))
            checks.append(_as_check(_never_after_failure(found, run), place, rule, index))
    return _outcome(checks)


def together(judgements: Iterable[Judgement]) -> Judgement:
    """The one that wins: fail, inconclusive, pass."""
    return min(judgements, key=_STRENGTH.index, default=Judgement.PASS)


def exit_code(judgements: Iterable[Judgement]) -> Exit:
    """0 passed, 1 failed, 2 inconclusive."""
    return together(judgements).exit


class _Found(NamedTuple):
    judgement: Judgement
    words: str
    numbers: Numbers


@dataclass(frozen=True, kw_only=True)
class _Level:
    """The level of one comparison, and in words where it comes from."""

    value: Fraction
    words: str


def _as_check(found: _Found, place: int, rule: Rule, certifier: int | None) -> Check:
    words, numbers = found.words, found.numbers
    return Check(rule=place, kind=rule.kind, certifier=certifier, judgement=found.judgement, sentence=words, numbers=numbers)


def _never_after_failure(found: _Found, run: Side) -> _Found:
    if not run.failed or found.judgement is not Judgement.PASS:
        return found
    return _Found(Judgement.INCONCLUSIVE, f"{found.words}; but the job failed: {run.failed}", found.numbers)


def _outcome(checks: list[Check]) -> GateOutcome:
    ranked = sorted(checks, key=lambda check: _STRENGTH.index(check.judgement))
    return GateOutcome(judgement=ranked[0].judgement, sentence="; ".join(check.sentence for check in ranked), checks=tuple(checks))


def _judged(
    rule: Rule, index: int, run: Side, baselines: Mapping[str, Side | str], interval: Interval, level: Callable[[NoDrop], _Level]
) -> _Found:
    certifier = run.spec.certifiers[index]
    title = f"certifier {index} ({', '.join((certifier.kind, certifier.norm, *_terms(run, index)))})"
    if why := silent(rule, certifier):
        found = _Found(Judgement.INCONCLUSIVE, why, {"radius": getattr(rule, "radius", None)})
    elif isinstance(rule, CertifiedAccuracy):
        found = _accuracy(rule, index, run, interval)
    elif isinstance(rule, Abstention):
        found = _abstention(rule, index, run)
    else:
        found = _drop(rule, index, run, baselines[rule.baseline], level(rule))
    return found._replace(words=f"{title} {found.words}")


def _terms(run: Side, certifier: int) -> tuple[str, ...]:
    """The conditions of what its rows claim."""
    return conditions(row.statement for row in run.rows.get(certifier, {}).values())


def _decide(worst: bool, best: bool) -> Judgement:
    """Pass when the worst case meets the rule, fail when not even the best one does."""
    return Judgement.PASS if worst else Judgement.INCONCLUSIVE if best else Judgement.FAIL


def _accuracy(rule: CertifiedAccuracy, index: int, run: Side, interval: Interval) -> _Found:
    answers = run.held(index, rule.radius)
    total, certified, missing = len(answers), sum(a is True for a in answers), sum(a is None for a in answers)
    low, high = interval(certified, total)[0], interval(certified + missing, total)[1]
    judgement = _decide(meets(certified, total, rule.at_least), meets(certified + missing, total, rule.at_least))
    found = show_share(certified / total) + (f" to {show_share_upper((certified + missing) / total)}" if missing else "")
    where = f"at radius {show_given(rule.radius)} ({certified} of {total}{_without(missing)})"
    words = (
        f"{_VERBS[judgement]} the gate: certified accuracy {found} {where},"
        f" required {show_given_share(rule.at_least)}; 95 % interval for the population {show_share(low)} to {show_share_upper(high)}"
    )
    numbers: Numbers = {"radius": rule.radius, "certified": certified, "examples": total, "unanswered": missing}
    return _Found(judgement, words, {**numbers, "required": rule.at_least, "low": low, "high": high})


def _abstention(rule: Abstention, index: int, run: Side) -> _Found:
    rows = run.rows.get(index, {})
    total, missing = len(run.examples), sum(example not in rows for example in run.examples)
    without = sum(row.verdict in UNDECIDED for row in rows.values())
    at_most = Fraction(repr(rule.at_most)) * total
    judgement = _decide(without + missing <= at_most, without <= at_most)
    # What lacks a decision is rounded up: the words never say that there was less of it.
    found = show_share_upper(without / total) + (f" to {show_share_upper((without + missing) / total)}" if missing else "")
    words = (
        f"{_VERBS[judgement]} the gate: {found} without a decision ({without} of {total}{_without(missing)}),"
        f" at most {show_given_share(rule.at_most)} allowed"
    )
    return _Found(judgement, words, {"undecided": without, "examples": total, "unanswered": missing, "at_most": rule.at_most})


def _without(missing: int) -> str:
    return f", {missing} without an answer" if missing else ""


def _level(rule: NoDrop, night: Night | None, comparisons: int) -> _Level:
    """The level of one comparison: the rule's, shared by all comparisons of the gate (union bound)."""
    nightly = rule.level(night.per_year if night else 1)
    parts = []
    if night and rule.level_per_year is not None:
        parts += [f"{show_given(rule.level_per_year)} a year over {night.per_year} nights", f"{_short(nightly)} a night"]
    elif night:
        parts += [
            f"{_short(nightly)} a night",
            f"at most {_short(nightly * night.per_year)} false alarms expected in {night.per_year} nights",
        ]
    if comparisons > 1:
        parts.append(f"{_short(nightly)} shared by {comparisons} comparisons")
    if night and night.manual:
        parts.append("this run was started by hand and is none of these nights")
    value = nightly / comparisons
    return _Level(value=value, words=f"level {_short(value)}" + (f" ({', '.join(parts)})" if parts else ""))


def _drop(rule: NoDrop, index: int, run: Side, before: Side | str, level: _Level) -> _Found:
    numbers: Numbers = {"radius": rule.radius, "level": float(level.value)}
    if isinstance(before, str):
        words = f"is compared with nothing at radius {show_given(rule.radius)}: {before}; {level.words}"
        return _Found(Judgement.INCONCLUSIVE, words, numbers)
    numbers["baseline"] = before.job
    where, why = f"{before.job} at radius {show_given(rule.radius)}", unlike(run, before, index)
    there = counterpart(run, before, index)
    if why or there is None:
        return _Found(Judgement.INCONCLUSIVE, f"is not compared with {where}: {why}; {level.words}", numbers)
    then, now = before.held(there, rule.radius), run.held(index, rule.radius)
    changes, certified = compare(then, now), (then.count(True), now.count(True))
    worst = p_value(changes.lost, changes.gained)
    best = p_value(changes.least_lost, changes.most_gained) if changes.unanswered else worst
    judgement = _decide(worst > level.value, best > level.value)
    verb = {Judgement.PASS: "shows no significant drop", Judgement.FAIL: "fell significantly"}.get(judgement, "may have fallen")
    words = (
        f"{verb} against {where}: {changes.least_lost} lost, {changes.gained} gained{_without(changes.unanswered)} of {len(now)} examples"
        f" ({certified[0]} certified then, {certified[1]} now); one-sided exact McNemar {_p_words(worst, best, level.value)}, {level.words}"
    )
    numbers |= {"lost": changes.least_lost, "gained": changes.gained, "unanswered": changes.unanswered, "examples": len(now)}
    numbers |= {"certified_before": certified[0], "certified": certified[1], "p_value": float(worst), "p_value_best": float(best)}
    return _Found(judgement, words, numbers)


def _short(value: Fraction) -> str:
    """A level, rounded up: false alarms are not said to be rarer than they are."""
    return show_upper(value, 3)


def _p_words(worst: Fraction, best: Fraction, level: Fraction) -> str:
    if worst == best:
        return f"p = {_shown(worst, level)}"
    return f"p from {_shown(worst, level)} to {_shown(best, level)}, depending on the missing answers"


def _shown(p: Fraction, level: Fraction) -> str:
    """A p-value, rounded up, in as few digits as keep it on its side of the level."""
    if p < Fraction(1, 10**300):
        return "1e-300 or less"
    texts = (show_upper(p, digits) for digits in range(2, 18))
    return next((text for text in texts if (Fraction(text) <= level) == (p <= level)), repr(float(p)))
