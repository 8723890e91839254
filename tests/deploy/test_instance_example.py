"""The example of a level for each input: levels stay in the grid, what it writes is read and certified, copies are shared as said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from certify import Examples, Model, certify
from certify.certificate import Certificate, SmoothingEvidence
from certify.curves import report
from certify.facts import check_other_models
from certify.spec import InstanceSmoothingSpec, parse_spec
from certify.specs.instance import ModelSelector
from deploy.demo.instance import train as example
from deploy.demo.instance.train import SIGMAS, Rows
from tests.benchmarks.instance import Resampled, both, dimmed, verdict
from tests.support.runs import run_for

TOTAL = 2000


class Always(nn.Module):
    """Whatever it sees, it answers one class."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, 1, 8, 8)
        return nn.functional.one_hot(torch.full((len(x),), self.answer), 10).float()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Seeded, and the threads of other tests left as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def few() -> Rows:
    train, _, _ = example.digits()
    return Rows(train.x[:64], train.y[:64])


def test_no_row_is_in_two_parts() -> None:
    parts = example.digits()
    assert [len(part) for part in parts] == [997, 300, 500]
    train, choose, test = ({row.tobytes() for row in part.x.numpy()} for part in parts)
    assert not (train & choose) | (train & test) | (choose & test)


def test_examples_climb_while_more_noise_promises_more_and_stay_in_the_grid(few: Rows) -> None:
    right, wrong = Rows(few.x, torch.zeros_like(few.y)), Rows(few.x, torch.ones_like(few.y))
    ladder, always = example.rungs(), Always(0)
    assert ladder[[0, -1]].tolist() == torch.tensor([min(SIGMAS), max(SIGMAS)]).tolist()
    assert (ladder[1:] > ladder[:-1]).all()
    for at in range(len(ladder)):
        start = torch.full((len(few),), at)
        assert (example.climb(always, right, start, 4) == min(at + 1, len(ladder) - 1)).all()
        assert (example.climb(always, wrong, start, 4) == at).all()


def test_training_keeps_the_levels_of_examples_in_the_grid(few: Rows) -> None:
    _, levels = example.insta(few, epochs=1, alternations=2, copies=4)
    assert levels.shape == (len(few),)
    assert torch.isin(levels, example.rungs()).all()


def test_a_selector_learns_who_needs_which_level(few: Rows) -> None:
    data = Rows(few.x.clone(), few.y)
    data.x[::2], data.x[1::2] = 0.0, 1.0
    promised = torch.full((len(data), len(SIGMAS)), 0.01)
    promised[::2, 0] = promised[1::2, -1] = 0.3
    chosen = example.selector(promised, data, epochs=20)(data.x).argmax(1)
    assert (chosen[::2] == 0).all()
    assert (chosen[1::2] == len(SIGMAS) - 1).all()


def test_what_dual_promises_is_the_smaller_radius_at_the_level_with_most_votes() -> None:
    promised = torch.tensor([[0.1, 9.0], [9.0, 0.2], [9.0, 9.0]])
    shares = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert both(shares, promised, 100) == pytest.approx((0.1 + 0.2 + 0.0) / 3)


def test_what_is_written_is_read_and_certified_with_the_copies_it_says(few: Rows, tmp_path: Path) -> None:
    model = example.fit(example.network(10), few, example.mixed(), epochs=1)
    chooser = example.selector(example.gains(model, few, 4), few, epochs=1)
    example.write(tmp_path, model, chooser, Rows(few.x[:8], few.y[:8]), Rows(few.x[8:11], few.y[8:11]), TOTAL)
    network, other = (Model.from_onnx((tmp_path / name).read_bytes()) for name in ("model.onnx", "selector.onnx"))
    spec = parse_spec(json.loads((tmp_path / "spec.json").read_text()))
    by_network = spec.certifiers[1]
    assert isinstance(by_network, InstanceSmoothingSpec)
    assert isinstance(by_network.selector, ModelSelector)
    check_other_models(spec, network.input_shape, lambda named: other)
    with np.load(tmp_path / "data.npz") as data:
        examples = Examples(tuple(range(3)), torch.from_numpy(data["x"]), torch.from_numpy(data["y"]))
    rows = list(certify(network, examples, spec, run_for(spec, network, 3, models={other.digest: other})))
    proved: dict[int, set[str]] = {}
    for row in rows:
        assert isinstance(row, Certificate)
        assert isinstance(row.evidence, SmoothingEvidence)
        proved.setdefault(row.certifier, set()).add(str(row.statement))
        assert row.evidence.copies <= TOTAL
        if row.kind == "smoothing" or (str(row.statement) == "S4-dual" and row.evidence.n):
            assert row.evidence.copies == TOTAL
    assert list(proved.values()) == [{"S4-dual"}, {"S4-dual"}, {"S1-frozen"}, *[{"S0-fixed"}] * len(SIGMAS)]
    titles = [certifier.title for certifier in report(rows, spec).certifiers]
    assert len(set(titles)) == len(titles) == len(SIGMAS) + 3


def test_dimming_changes_every_second_image_only(few: Rows) -> None:
    found = dimmed(few)
    assert torch.equal(found.x[1::2], few.x[1::2])
    assert torch.equal(found.x[::2] * 4, few.x[::2])


def test_the_benchmark_says_what_its_interval_says() -> None:
    draws, better, worse = Resampled.of(50), np.linspace(0.2, 0.4, 50), np.linspace(0.1, 0.3, 50)
    assert "wins" in verdict("a", "b", draws.mean(better) - draws.mean(worse))
    assert "loses" in verdict("a", "b", draws.mean(worse) - draws.mean(better))
    assert "undecided" in verdict("a", "b", draws.mean(better) - draws.mean(better[::-1]))
    assert draws.envelope([better, worse])[0] == pytest.approx(better.mean(), abs=1e-3)
    assert (draws.envelope([better, better[::-1]]) >= draws.mean(better) - 1e-3).all()
