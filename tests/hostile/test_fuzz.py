"""The fuzzer finds nothing, and would find something."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.hostile.forked import forked
from tests.hostile.fuzz import files, fuzz, outcome


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_every_mutant_is_refused_or_evaluates(seconds: int) -> None:
    findings = fuzz(1_000_000 * seconds, seconds)
    assert not findings.found
    assert findings.counts["refused"] > 0
    assert findings.counts["evaluated"] > 0


def test_mutants_are_made_from_valid_files() -> None:
    assert len(files()) > 100


def test_a_seed_gives_the_same_outcome_again() -> None:
    assert [outcome(seed) for seed in range(20)] == [outcome(seed) for seed in range(20)]


def misbehave(how: str) -> str:
    if how == "hang":
        time.sleep(60)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "memory":
        return str(len(bytearray(2**34)))
    if how == "raise":
        raise KeyError("x")
    return how


def test_a_hang_a_crash_and_a_bomb_are_found() -> None:
    """The negative control: each kind of misbehaviour is told apart, and what follows is answered all the same."""
    asked = ["well", "hang", "well", "crash", "well", "memory", "raise", "well"]
    found = [answer for _, answer in forked(misbehave, asked, 0.5)]
    assert [answer for answer in found if answer == "well"] == ["well"] * 4
    lost = [answer["lost"] for answer in found if isinstance(answer, dict)]
    for text, words in zip(lost, ["no answer within", "process ended (status -15)", "MemoryError", "KeyError"], strict=True):
        assert words in text
