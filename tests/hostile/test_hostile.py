"""Every hostile upload is refused by the real inspector with its sentence, soon, in little memory, and nothing is run or opened."""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from certify.errors import AssayError
from tests.hostile.catalogue import CATALOGUE
from tests.hostile.forked import forked
from tests.hostile.hostile import Hostile, marker, pickled, traps
from workers import inspector

ROOT = Path(__file__).parents[2]
LAUNCH = Path(__file__).with_name("launch.py")
SECONDS, BYTES, CHARACTERS = 10, 2**30, 600
ALIKE = 2  # so many uploads that one mitigation stops get a process of their own in every run


def own_process() -> list[Any]:
    """Every case; those that are much like others are marked slow."""
    seen: Counter[str] = Counter()
    found = []
    for case in CATALOGUE:
        seen[case.mitigation] += not case.slow
        slow = case.slow or seen[case.mitigation] > ALIKE
        found.append(pytest.param(case, id=case.name, marks=[pytest.mark.slow] if slow else []))
    return found


def inspected(case: Hostile, data: bytes) -> dict[str, Any]:
    """What the inspector process says and what it costs. It runs beside the traps, so that relative paths lead into them."""
    command = [sys.executable, str(LAUNCH), sys.executable, "-m", "workers.inspector", case.kind]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, input=data, stdout=subprocess.PIPE, cwd=traps(), env=environment, check=True)
    return dict(json.loads(ended.stdout))


def check(case: Hostile, problems: list[dict[str, str]]) -> None:
    for problem in problems:
        sentence = f"{problem['field']}: {problem['detail']}; {problem['mend']}"
        assert sentence.isprintable()
        assert len(sentence) <= CHARACTERS, f"{len(sentence)} characters: {sentence}"
        assert problem["mend"]
    said = "; ".join(f"{problem['field']}: {problem['detail']}" for problem in problems)
    assert re.search(case.says, said), said
    assert not marker().exists()


@pytest.mark.parametrize("case", own_process())
def test_the_inspector_process_refuses_it(case: Hostile) -> None:
    found = inspected(case, case.build())
    assert found["code"] == 0, f"the inspector ended with {found['code']} after {found['seconds']:.1f} s: {found['errors']}"
    answer = json.loads(found["output"])
    assert "problems" in answer, f"accepted: {found['output'][:300]}"
    check(case, answer["problems"])
    assert found["seconds"] < SECONDS
    assert found["peak"] < BYTES


def answer(position: int) -> Any:
    """What the inspector does, without a process start; the limits are those of `forked`."""
    os.chdir(traps())
    sys.setrecursionlimit(1_000)  # as in a fresh process; to import auto-LiRPA raises it, and then json overflows the stack
    case = CATALOGUE[position]
    try:
        return {"accepted": inspector._facts(case.kind, case.build(), None)[:300]}
    except AssayError as error:
        return {"problems": [vars(problem) for problem in error.problems]}


@functools.cache
def answers() -> dict[int, Any]:
    traps()  # made here, so that no forked process makes its own
    return dict(forked(answer, range(len(CATALOGUE)), SECONDS))


@pytest.mark.parametrize("position", [pytest.param(n, id=case.name) for n, case in enumerate(CATALOGUE)])
def test_the_inspection_refuses_it(position: int) -> None:
    found = answers()[position]
    assert "problems" in found, found
    check(CATALOGUE[position], found["problems"])


def test_the_catalogue_is_long_and_says_what_stops_each() -> None:
    names = [case.name for case in CATALOGUE]
    assert len(names) == len(set(names)) >= 55
    assert {case.kind for case in CATALOGUE} == {"model", "dataset"}
    assert all(case.says and case.mitigation.endswith(".") for case in CATALOGUE)


@pytest.mark.parametrize("protocol", range(6))
def test_the_payload_would_run(protocol: int) -> None:
    """The negative control: a loader that trusts the bytes creates the marker."""
    assert not marker().exists()
    try:
        pickle.loads(pickled(protocol))
        assert marker().exists()
    finally:
        marker().unlink(missing_ok=True)


def test_the_traps_would_hold() -> None:
    """The negative control: a reader that opens any of the paths waits forever."""
    for name in ("weights.bin", "symbolic", "hard"):
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["cat", name], cwd=traps(), timeout=0.3)
