"""What a gate says about a run: pass, fail or inconclusive, and the numbers in its sentence."""

from __future__ import annotations

from typing import Any

import pytest

from certify.comparison import Row, compare
from certify.errors import InputError
from certify.exit_codes import Exit
from certify.gate_rules import check_rules, parse_rules
from certify.gates import GateOutcome, Judgement, Night, exit_code, judge
from certify.spec import parse_spec
from certify.statement import Statement
from certify.verdict import Verdict
from tests.support.pairs import BOUNDS, SMOOTHING, changed, interval, no_drop, rules, side, spec

PASS, FAIL, OPEN = Judgement.PASS, Judgement.FAIL, Judgement.INCONCLUSIVE
LEVELS = Night(per_year=365)


def accuracy(at_least: float, **more: Any) -> dict[str, Any]:
    return {"kind": "certified-accuracy", "radius": 0.25, "at_least": at_least, **more}


def judged(rule: dict[str, Any], *columns: Any, **changes: Any) -> GateOutcome:
    return judge(rules(rule), side(*columns, **changes), {}, interval=interval)


def compared(then: list[Any], now: list[Any], *listed: dict[str, Any], night: Night | None = None, **changes: Any) -> GateOutcome:
    before = side(then, job="job_then", **changes)
    return judge(rules(*(listed or (no_drop(),))), side(now), {"previous": before}, interval=interval, night=night)


@pytest.mark.parametrize(
    ("at_least", "held", "failed", "missed", "expected"),
    [
        (0.6, 60, 0, 40, PASS),
        (0.6, 59, 0, 41, FAIL),
        (0.07, 7, 0, 93, PASS),  # 0.07 * 100 is more than 7 in floating point
        (0.29, 29, 0, 71, PASS),
        (0.6, 59, 1, 40, OPEN),  # the one without an answer decides
        (0.6, 58, 1, 41, FAIL),  # even if it were certified
        (0.6, 60, 30, 10, PASS),  # even if none of them were
        (1.0, 99, 1, 0, OPEN),
        (0.0, 0, 100, 0, PASS),
    ],
)
def test_certified_accuracy_counts_missing_answers_both_ways(
    at_least: float, held: int, failed: int, missed: int, expected: Judgement
) -> None:
    column = [True] * held + [None] * failed + [False] * missed
    assert judged(accuracy(at_least), column).judgement is expected
    # An example that was never reached is as open as one that failed.
    short = side(column, examples=range(len(column)))
    rows = {0: {e: row for e, row in short.rows[0].items() if row.verdict is not Verdict.ERROR}}
    assert judged(accuracy(at_least), column, rows=rows).judgement is expected


def test_a_radius_counts_when_the_stored_one_reaches_it_and_the_answer_is_right() -> None:
    reached = Row(Verdict.CERTIFIED, True, 0.25, Statement.parse("real-arithmetic"), None)
    short = Row(Verdict.CERTIFIED, True, 0.24999999999999997, Statement.parse("real-arithmetic"), None)
    wrong = Row(Verdict.CERTIFIED, False, 0.9, Statement.parse("real-arithmetic"), None)
    found = judged(accuracy(0.5), [reached, short, wrong], asked=spec(BOUNDS))
    assert found.checks[0].numbers["certified"] == 1


def test_the_sentence_has_the_numbers() -> None:
    found = judged(accuracy(0.6), [True] * 307 + [False] * 193)
    assert found.sentence == (
        "certifier 0 (smoothing, l2) meets the gate: certified accuracy 61.4 % at radius 0.25 (307 of 500), required 60.0 %;"
        " 95 % interval for the population 56.9 % to 65.7 %"
    )
    found = compared(*changed(20, 5, kept=285, never=190), night=LEVELS)
    assert found.sentence == (
        "certifier 0 (smoothing, l2) fell significantly against job_then at radius 0.25: 20 lost, 5 gained of 500 examples"
        " (305 certified then, 290 now); one-sided exact McNemar p = 0.0021, level 0.01 (0.01 a night, at most 3.65 false alarms"
        " expected in 365 nights)"
    )
    assert found.judgement is FAIL
    yearly = compared(*changed(20, 5, kept=285, never=190), no_drop(level_per_year=0.05), night=LEVELS)
    assert "level 0.000137 (0.05 a year over 365 nights, 0.000137 a night)" in yearly.sentence
    assert yearly.judgement is PASS


@pytest.mark.parametrize(
    ("lost", "gained", "expected"),
    [(7, 0, FAIL), (6, 0, PASS), (0, 50, PASS), (0, 0, PASS), (19, 6, FAIL), (18, 7, PASS)],  # 2^-7 < .01 < 2^-6; .0073, .0216
)
def test_the_level_is_kept_exactly(lost: int, gained: int, expected: Judgement) -> None:
    assert compared(*changed(lost, gained, kept=100, never=100)).judgement is expected


def test_a_level_that_is_met_exactly_is_met() -> None:
    then, now = changed(1, 0, kept=5, never=0)  # p = 1/2
    assert compared(then, now, no_drop(level_per_night=0.5)).judgement is FAIL
    assert compared(then, now, no_drop(level_per_night=0.49999)).judgement is PASS


def test_comparisons_of_one_gate_share_its_level() -> None:
    then, now = changed(7, 0, kept=100, never=100)  # p = 2^-7 = .0078
    for more in ((no_drop(baseline="pinned"),), ()):
        assert compared(then, now, no_drop()).judgement is FAIL
        asked = spec(SMOOTHING, {**SMOOTHING, "sigma": 0.5}) if not more else spec()
        columns = ((then, now), (now, now))[: len(asked.certifiers)]
        before = side(*(c[0] for c in columns), job="job_then", asked=asked)
        run = side(*(c[1] for c in columns), asked=asked)
        found = judge(rules(no_drop(), *more), run, {"previous": before, "pinned": before}, interval=interval)
        assert found.judgement is PASS
        assert "level 0.005 (0.01 shared by 2 comparisons)" in found.sentence


def test_missing_answers_leave_a_drop_open_only_if_they_could_decide_it() -> None:
    then, now = changed(7, 0, kept=100, never=10)
    assert compared(then, [None, *now[1:]]).judgement is OPEN  # six sure losses are not enough
    assert compared(then, [*now[:-1], None]).judgement is OPEN  # the last one may have been gained
    assert compared([True] * 3 + then, [False] * 3 + [*now[:-1], None]).judgement is FAIL  # ten lost, one gained at best: .0059
    assert compared(then, [*now[:7], None, *now[8:]]).judgement is FAIL  # it held before: at worst one more is lost


def test_missing_answers_are_taken_for_the_worse_and_for_the_better() -> None:
    could_be = {True: (True,), False: (False,), None: (True, False)}
    for b, then in could_be.items():
        for n, now in could_be.items():
            outcomes = [compare([x], [y]) for x in then for y in now]
            found = compare([b], [n])
            worst, best = max(o.lost - o.gained for o in outcomes), min(o.lost - o.gained for o in outcomes)
            assert (found.lost - found.gained, found.least_lost - found.most_gained) == (worst, best)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataset": "e" * 64}, "the dataset is another one"),
        ({"examples": range(0, 400, 2)}, "other examples were selected"),
        ({"asked": spec({**SMOOTHING, "sigma": 0.5})}, "no certifier with the settings"),
        ({"asked": spec({**SMOOTHING, "alpha": 0.01})}, "no certifier with the settings"),
    ],
)
def test_only_the_same_question_is_compared(changes: dict[str, Any], why: str) -> None:
    then, now = changed(20, 0, kept=100, never=80)
    found = compared(then, now, **changes)
    assert found.judgement is OPEN
    assert why in found.sentence


def test_clipped_balls_are_not_compared_with_whole_ones_nor_with_those_of_another_range() -> None:
    cut = {"asked": spec(BOUNDS, clip=True), "value_range": (0.0, 1.0)}
    column = [Row(Verdict.CERTIFIED, True, 0.25, Statement.parse("real-arithmetic-clipped"), None)] * 9

    def against(**before: Any) -> GateOutcome:
        then = side(column, job="job_then", **before)
        return judge(rules(no_drop()), side(column, **cut), {"previous": then}, interval=interval)

    assert against(**cut).judgement is PASS
    assert against(**cut).sentence.startswith("certifier 0 (bounds, linf, clipped) shows no significant drop")
    whole = against(asked=spec(BOUNDS), value_range=(0.0, 1.0))
    other = against(**{**cut, "value_range": (0.0, 2.0)})
    assert (whole.judgement, other.judgement) == (OPEN, OPEN)
    assert "one of them claims balls that are clipped to the model's value range, and the other whole balls" in whole.sentence
    assert "the ball is clipped to another value range" in other.sentence


def test_clipping_that_does_not_concern_a_certifier_makes_no_other_question_of_it() -> None:
    then, now = changed(20, 0, kept=100, never=80)
    assert compared(then, now, asked=spec(clip=True)).judgement is FAIL


def test_held_noise_levels_are_not_compared_with_one_level() -> None:
    """S1 is left out beside S0, and the sentence says why."""
    frozen = {"kind": "instance-smoothing", "statement": "frozen", "sigmas": [0.25, 0.5]}
    then = side([True] * 9, job="job_then")
    now = side([True] * 9, asked=spec(frozen))
    found = judge(rules(no_drop()), now, {"previous": then}, interval=interval)
    assert found.judgement is OPEN
    assert "says nothing of one smoothed classifier (S0)" in found.sentence
    back = judge(rules(no_drop()), then, {"previous": now}, interval=interval)
    assert "no certifier with the settings" in back.sentence


def test_another_statement_or_alpha_is_another_question() -> None:
    now = [Row(Verdict.CERTIFIED, True, 0.25, Statement.parse("S0-fixed"), 1e-6)] * 9
    for name, alpha in (("S0-fixed-grid", 1e-6), ("S0-fixed-bf16", 1e-6), ("S0-fixed", 2e-6)):
        other = Row(Verdict.CERTIFIED, True, 0.25, Statement.parse(name), alpha)
        assert "another statement, or at another alpha" in compared([other] * 9, now).sentence
    weak, strong = (Row(Verdict.CERTIFIED, True, 0.25, Statement.parse(name), None) for name in ("real-arithmetic", "float32-runtime"))
    assert compared([weak] * 9, [strong] * 9).judgement is PASS


def test_another_seed_or_place_is_the_same_question() -> None:
    then, now = changed(20, 0, kept=100, never=80)
    assert compared(then, now, asked=spec(seed=7)).judgement is FAIL
    assert compared(then, now, asked=spec({**SMOOTHING, "batch_size": 64})).judgement is FAIL
    before = side([True] * 200, then, job="job_then", asked=spec(BOUNDS, SMOOTHING))
    assert judge(rules(no_drop()), side(now), {"previous": before}, interval=interval).judgement is FAIL


def test_nothing_to_compare_with_is_no_pass() -> None:
    found = judge(rules(no_drop()), side([True] * 9), {"previous": "this is the first run"}, interval=interval, night=LEVELS)
    assert found.judgement is OPEN
    assert "this is the first run" in found.sentence


@pytest.mark.parametrize(("without", "missing", "expected"), [(10, 0, PASS), (11, 0, FAIL), (10, 1, OPEN), (9, 1, PASS), (11, 5, FAIL)])
def test_abstention_counts_every_example_without_a_decision(without: int, missing: int, expected: Judgement) -> None:
    kinds = [
        Row(verdict, False, 0.0, Statement.parse("S0-fixed"), 1e-6)
        for verdict in (Verdict.ABSTAINED, Verdict.UNKNOWN, Verdict.TIMEOUT, Verdict.ERROR)
    ]
    refuted = Row(Verdict.REFUTED, False, 0.0, Statement.parse("S0-fixed"), 1e-6)
    column = [kinds[i % 4] for i in range(without)] + [refuted] * 5 + [True] * (95 - without)
    found = judged({"kind": "abstention", "at_most": 0.1}, column, examples=range(100))
    assert found.checks[0].numbers["undecided"] == without
    run = judged({"kind": "abstention", "at_most": 0.1}, column[: 100 - missing], examples=range(100))
    assert run.judgement is expected


def test_a_job_that_failed_passes_nothing() -> None:
    column, why = [True] * 100, "row 3 and row 4 contradict each other"
    assert judged(accuracy(0.6), column).judgement is PASS
    found = judged(accuracy(0.6), column, failed=why)
    assert found.judgement is OPEN
    assert why in found.sentence
    assert judged(accuracy(0.6), [False] * 100, failed=why).judgement is FAIL


def test_the_strongest_judgement_is_the_gates() -> None:
    column = [True] * 60 + [False] * 40
    for shares, expected, code in (((0.5, 0.6), PASS, 0), ((0.5, 0.7), FAIL, 1)):
        found = judge(rules(*(accuracy(s) for s in shares)), side(column), {}, interval=interval)
        assert found.judgement is expected
        assert exit_code([found.judgement]) == code
    assert exit_code([PASS, OPEN]) is Exit.UNKNOWN
    assert exit_code([OPEN, FAIL, PASS]) is Exit.REFUTED
    opened = judge(rules(accuracy(0.1), no_drop()), side(column), {"previous": "none"}, interval=interval)
    assert opened.judgement is OPEN
    assert opened.sentence.index("compared with nothing") < opened.sentence.index("meets")


def test_the_words_claim_no_more_than_the_numbers() -> None:
    """The radius keeps its digits, low ends are cut, high ends and what is missing are rounded up, what was asked is exact."""
    short = [Row(Verdict.CERTIFIED, True, 0.24999989, Statement.parse("real-arithmetic"), None)] * 1000
    found = judged({**accuracy(0.6005), "radius": 0.24999989}, short, asked=spec(BOUNDS))
    assert "certified accuracy 100.0 % at radius 0.24999989 (1000 of 1000), required 60.05 %" in found.sentence
    assert "95 % interval for the population 99.6 % to 100.0 %" in found.sentence
    none = judged(accuracy(0.5), [False] * 1000)
    assert "0.0 % to 0.4 %" in none.sentence, "the upper end is 0.368 %"
    undecided = judged({"kind": "abstention", "at_most": 0.3333}, [True] * 2 + [False])
    assert "33.4 % without a decision (1 of 3), at most 33.33 % allowed" in undecided.sentence


def test_a_gate_may_ask_for_the_cap_of_a_search() -> None:
    check_rules(rules(accuracy(0.5, radius=1.0)), parse_spec({"certifiers": [BOUNDS]}), scheduled=False)


PREDICT = {"kind": "predict", "sigma": 0.25}
ATTACK = {"kind": "attack", "norm": "linf", "method": "pgd", "max_radius": 0.1}
EPSILON = {"kind": "bounds", "method": "ibp", "norm": "linf", "epsilon": 0.25}
LARGEST = {"kind": "smoothing", "sigma": 0.25}


@pytest.mark.parametrize(
    ("certifiers", "rule", "field", "text"),
    [
        ([SMOOTHING], accuracy(0.5, radius=0.2), "rules.0.radius", "certifier 0 decides radius 0.25 only, not 0.2"),
        ([EPSILON], accuracy(0.5, radius=0.1), "rules.0.radius", "decides radius 0.25 only"),
        ([BOUNDS], accuracy(0.5, radius=1.001), "rules.0.radius", "never certifies radius 1.001: it reaches 1.000000 at most"),
        ([LARGEST], no_drop(radius=3.0), "rules.0.radius", "never certifies radius 3"),
        ([SMOOTHING], accuracy(0.5, certifier=1), "rules.0.certifier", "no certifier of the spec that claims radii"),
        ([ATTACK], {"kind": "abstention", "at_most": 0.1, "certifier": 0}, "rules.0.certifier", "no certifier of the spec"),
        ([PREDICT], accuracy(0.5, radius=0.0), "rules.0.certifier", "no certifier of the spec that claims radii"),
        ([SMOOTHING], accuracy(0.5, match={"norm": "linf"}), "rules.0.match", "it has 0 smoothing"),
        ([SMOOTHING], no_drop(), "rules.0.baseline", "previous needs a schedule"),
        ([SMOOTHING], no_drop(baseline="job_1", level_per_year=0.05), "rules.0.level_per_year", "a single job has no nights"),
    ],
)
def test_what_no_run_could_answer_is_refused_with_the_mend(certifiers: Any, rule: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        check_rules(rules(rule), parse_spec({"certifiers": certifiers}), scheduled=False)
    assert caught.value.problems[0].field == field
    assert text in str(caught.value)
    assert caught.value.problems[0].mend


def test_what_can_be_answered_is_taken() -> None:
    check_rules(rules(accuracy(0.5), no_drop(), {"kind": "abstention", "at_most": 0.1}), spec(SMOOTHING, PREDICT), scheduled=True)
    check_rules(
        rules(accuracy(0.5, match={"norm": "linf"}), accuracy(0.5, radius=0.3, certifier=0)), spec(BOUNDS, PREDICT), scheduled=False
    )
    check_rules(rules(accuracy(0.5, radius=30.0)), spec({"kind": "lipschitz", "norm": "l2"}), scheduled=False)
    asked = spec(SMOOTHING, PREDICT, ATTACK)
    assert rules({"kind": "abstention", "at_most": 0.1}).rules[0].chosen(asked) == (0, 1)
    assert rules(accuracy(0.5)).rules[0].chosen(asked) == (0,)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"kind": "no-drop", "radius": 0.25, "level_per_night": 0.01, "level_per_year": 0.05}, "one level follows from the other"),
        ({"kind": "no-drop", "radius": 0.25, "level_per_night": 0.0}, "level_per_night"),
        ({"kind": "no-drop", "radius": 0.25, "baseline": "yesterday"}, "baseline"),
        ({"kind": "certified-accuracy", "radius": 0.25, "at_least": 1.5}, "at_least"),
        ({"kind": "certified-accuracy", "radius": -1.0, "at_least": 0.5}, "radius"),
        ({"kind": "certified-accuracy", "radius": float("inf"), "at_least": 0.5}, "radius"),
        ({"kind": "certified-accuracy", "at_least": 0.5, "radius": 0.1, "certifier": 0, "match": {"kind": "bounds"}}, "in one way"),
        ({"kind": "vibes"}, "rules.0"),
        ({"kind": "abstention", "at_most": 0.1, "radius": 0.1}, "unknown field"),
    ],
)
def test_rules_that_cannot_be_read_name_the_field(rule: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        parse_rules([rule])


def test_stored_rules_contain_every_default_and_read_back() -> None:
    found = rules(no_drop())
    assert '"level_per_night":0.01' in found.canonical()
    assert parse_rules(found.canonical()) == found
