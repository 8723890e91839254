"""Pairs of runs for gates: made from who held at a radius, without any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from certify.comparison import Row, Side
from certify.gate_rules import Rules, parse_rules
from certify.spec import Spec, parse_spec
from certify.statement import Statement
from certify.statistics.binomial import lower_limit, upper_limit
from certify.verdict import Verdict

RADIUS = 0.25
SMOOTHING = {"kind": "smoothing", "sigma": 0.25, "radii": [RADIUS]}
BOUNDS = {"kind": "bounds", "method": "ibp", "norm": "linf", "max_radius": 1.0}

HOLDS = Row(Verdict.CERTIFIED, True, RADIUS, Statement.parse("S0-fixed"), 1e-6)
ABSTAINS = Row(Verdict.ABSTAINED, False, 0.0, Statement.parse("S0-fixed"), 1e-6)
FAILED = Row(Verdict.ERROR, False, 0.0, Statement.parse("S0-fixed"), 1e-6)
_ROWS: dict[bool | None, Row] = {True: HOLDS, False: ABSTAINS, None: FAILED}


def spec(*certifiers: dict[str, Any], **more: Any) -> Spec:
    return parse_spec({"certifiers": list(certifiers or [SMOOTHING]), **more})


def side(*columns: Sequence[bool | Row | None], job: str = "job_now", asked: Spec | None = None, **changes: Any) -> Side:
    """A run with one column of answers for each certifier: whether each example holds, null when it failed, or a row."""
    rows = {i: {e: one if isinstance(one, Row) else _ROWS[one] for e, one in enumerate(column)} for i, column in enumerate(columns)}
    made = Side(job=job, dataset="d" * 64, value_range=None, spec=asked or spec(), examples=range(len(columns[0])), rows=rows)
    return replace(made, **changes)


def rules(*listed: dict[str, Any]) -> Rules:
    return parse_rules(list(listed))


def no_drop(**changes: Any) -> dict[str, Any]:
    return {"kind": "no-drop", "radius": RADIUS, **changes}


def interval(successes: int, trials: int) -> tuple[float, float]:
    return lower_limit(successes, trials, 0.025), upper_limit(successes, trials, 0.025)


def changed(lost: int, gained: int, *, kept: int, never: int) -> tuple[list[bool], list[bool]]:
    """Two nights: `lost` examples held in the first one only, `gained` in the second one only."""
    return [True] * (lost + kept) + [False] * (gained + never), [False] * lost + [True] * (kept + gained) + [False] * never
