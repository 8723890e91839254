"""Rows of version 1, whose conditions stood in one place only: in the evidence, or in the name of the statement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from certify.spec import Spec
from certify.statement import Base, Statement

_PROVED_BY_BOUNDS = (Base.REAL_ARITHMETIC, Base.FLOAT32_RUNTIME)


def completed(row: dict[str, Any]) -> dict[str, Any]:
    """The row with every condition in both places. One that was written since is left as it is: it names them twice already.

    A ball that was cut to the value range said so in its evidence alone: no such row is ever read as a claim about the whole ball.
    """
    name, evidence = row.get("statement"), row.get("evidence")
    if not isinstance(name, str) or not isinstance(evidence, dict):
        return row
    if evidence.get("clipped") and "value_range" not in evidence and name in _PROVED_BY_BOUNDS:
        return {**row, "statement": f"{name}-clipped"}
    if "look_counts" not in evidence:
        return row
    new = {**evidence}
    if name.endswith("-exploratory"):
        new.setdefault("exploratory", True)
    selector = evidence.get("selector")
    if isinstance(selector, dict) and "-transductive" in name:
        new["selector"] = {"transductive": True, **selector}
    return {**row, "evidence": new}


def as_asked(statement: Statement, spec: Spec, certifier: int) -> Statement:
    """The statement of a row or a report of version 1 whose evidence is not at hand: its spec says whether balls were cut.

    Args:
        statement: as stored.
        spec: of the job.
        certifier: index in it.
    """
    return replace(statement, clipped=True) if spec.clips(certifier) else statement
