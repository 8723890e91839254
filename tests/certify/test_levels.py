"""How a level is found or chosen: samples that are nobody else's, votes of a confidence, ranges of rows."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from certify import certify
from certify.level_search import Asked, Search, ladder
from certify.sampling.ballot import Ballot
from certify.sampling.streams import Stage
from certify.selectors import confidence, log_odds, votes
from certify.spec import parse_spec
from certify.specs.instance import SearchSpec, overlap
from tests.support.linear import LinearTruth
from tests.support.runs import run_for


def test_every_comparison_of_a_search_has_samples_of_its_own() -> None:
    asked: list[Asked] = []

    def poll(questions: Any) -> list[list[int] | None]:
        asked.extend(questions)
        return [[60 + question.lane % 3, 40 - question.lane % 3] for question in questions]

    Search((0.1, 0.5, 1.0), SearchSpec(samples=100, rounds=3)).run([4, 9], poll)
    for example in (4, 9):
        ranges = sorted((one.start, one.stop) for one in asked if one.example == example)
        assert len(ranges) > 15
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges))
        assert all(stop - start == 100 for start, stop in ranges)
    assert {one.level for one in asked} <= set(ladder((0.1, 0.5, 1.0), 3))


def test_a_search_climbs_to_the_best_level_between_its_starts() -> None:
    def poll(questions: Any) -> list[list[int] | None]:
        # Votes that make sigma * Phi^-1(p) largest at 0.3: the wins fall faster and faster beyond it.
        wins = [min(0.999, 0.5 + 0.45 / (1 + (one.level / 0.32) ** 6)) for one in questions]
        return [[round(10_000 * p), round(10_000 * (1 - p))] for p in wins]

    found = Search((0.1, 0.2, 0.6), SearchSpec(samples=10_000, rounds=4)).run([0], poll)[0]
    assert found is not None
    every = ladder((0.1, 0.2, 0.6), 4)
    assert min(every) <= found[0] <= max(every)
    assert 0.2 < found[0] < 0.4
    assert found[0] not in (0.1, 0.2, 0.6)


def test_a_broken_copy_ends_the_search_of_its_example_alone() -> None:
    def poll(questions: Any) -> list[list[int] | None]:
        return [None if one.example == 1 and one.lane == 2 else [9, 1] for one in questions]

    found = Search((0.1, 0.5), SearchSpec(samples=10, rounds=1)).run([0, 1], poll)
    assert found[0] is not None
    assert found[1] is None


@pytest.mark.parametrize(("statement", "stages"), [("frozen", {3, 0, 1}), ("dual", {4, 5, 0, 1})])
def test_each_part_draws_from_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch, statement: str, stages: set[int]) -> None:
    seen: set[tuple[int, int]] = set()
    ask = Ballot.ask

    def noted(self: Ballot, stage: Stage, ranges: Any) -> Any:
        seen.add((int(stage), int(self.counter._classes)))
        return ask(self, stage, ranges)

    monkeypatch.setattr(Ballot, "ask", noted)
    truth = LinearTruth.random(6, 4, seed=7)
    selector = {"selector": {"thresholds": [0.001]}} if statement == "dual" else {}
    spec = parse_spec({"certifiers": [{"kind": "instance-smoothing", "sigmas": [0.1, 0.3], "statement": statement, "n": 500, **selector}]})
    list(certify(truth.model(), truth.examples(4, seed=1), spec, run_for(spec, truth.model(), 4)))
    assert {stage for stage, _ in seen} == stages
    # The selector's streams serve the two levels, the others the four classes.
    assert {classes for stage, classes in seen if stage >= 4} <= {2}
    assert {classes for stage, classes in seen if stage < 4} == {4}


def test_confidence_is_the_log_odds_of_the_top_class_far_beyond_float32() -> None:
    logits = torch.tensor([[0.0, 0.0], [3.0, 0.0], [40.0, 0.0], [1.0, 1.0], [3e38, -3e38]])
    assert confidence(logits)[:4].tolist() == pytest.approx([0.0, 3.0, 40.0, 0.0])
    limits = torch.tensor([log_odds(p) for p in (0.0, 0.5, 0.9, 0.99, 1.0)])
    assert votes(logits, limits).argmax(dim=1).tolist() == [2, 3, 4, 2, 4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_logit_is_no_vote_for_a_level(bad: float) -> None:
    logits = torch.tensor([[1.0, bad, 0.0], [1.0, 0.0, 0.0]])
    found = votes(logits, torch.tensor([0.3]))
    assert bool(found[0].isnan().all())
    assert bool(found[1].isfinite().all())


def test_ranges_overlap_exactly_where_they_share_a_number() -> None:
    ranges = [range(start, stop, step) for start in (0, 1, 4) for stop in (5, 12, 13) for step in (1, 2, 3, 5)]
    for a, b in itertools.product(ranges, repeat=2):
        assert overlap(a, b) == bool(set(a) & set(b))
    assert overlap(range(7, 2**62, 6), range(1, 2**62, 4))
    assert not overlap(range(0, 2**62, 6), range(1, 2**62, 4))
