"""Votes: every sample votes once, padding never does, NaN never does, packing changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from certify import Model
from certify.errors import Cancelled
from certify.sampling.engine import Request, VoteCounter, Votes
from certify.sampling.noise import NOISES, Gaussian, base
from certify.sampling.streams import Stage, Stream
from tests.support.onnx_models import small_cnn

SHAPE = (2,)
X = torch.tensor([0.3, -0.2])
NOISE = Gaussian(0.5, SHAPE, "cpu")


def sign_classifier(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0], -x[:, 0], torch.full_like(x[:, 0], -10.0)], dim=1)


def request(example: int = 0, start: int = 0, stop: int = 1000, x: Tensor = X) -> Request:
    return Request(x, NOISE, Stream(b"k" * 32, 0, example, Stage.ESTIMATION), start, stop)


def count(
    *requests: Request,
    classify: Callable[[Tensor], Tensor] = sign_classifier,
    batch_size: int = 128,
    stop: bool = False,
    told: list[int] | None = None,
) -> Votes:
    counter = VoteCounter(
        classify,
        SHAPE,
        batch_size=batch_size,
        classes=3,
        device="cpu",
        should_stop=lambda: stop,
        on_samples=(told if told is not None else []).append,
    )
    return counter.count(requests)


def direct(example: int, start: int, stop: int, x: Tensor = X) -> list[int]:
    noise = torch.cat([NOISE.draw(Stream(b"k" * 32, 0, example, Stage.ESTIMATION), i).clone() for i in range(stop // NOISE.block + 1)])
    return torch.bincount(sign_classifier(x + noise[start:stop]).argmax(1), minlength=3).tolist()


@pytest.mark.parametrize("batch_size", [1, 13, 128, 4096])
def test_counts_equal_a_direct_count_whatever_the_batch(batch_size: int) -> None:
    assert count(request(), batch_size=batch_size).counts.tolist() == [direct(0, 0, 1000)]


def test_a_thousand_examples_packed_are_counted_as_if_each_were_alone() -> None:
    inputs = torch.linspace(-1, 1, 2000).reshape(1000, 2)
    ranges = [(i % 200, i % 200 + 1 + i % 37) for i in range(1000)]
    packed = count(*(request(i, *ranges[i], inputs[i]) for i in range(1000)))
    assert packed.counts.tolist() == [direct(i, *ranges[i], inputs[i]) for i in range(1000)]


def test_drawing_several_blocks_at_once_changes_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = count(request(0, 100, 900), request(1, 250, 2000)).counts.tolist()
    monkeypatch.setattr(base, "blocks_ahead", lambda elements, device: 3)
    ahead = [replace(one, noise=Gaussian(0.5, SHAPE, "cpu")) for one in (request(0, 100, 900), request(1, 250, 2000))]
    assert count(*ahead).counts.tolist() == wanted


def test_looks_add_up() -> None:
    parts = [count(request(start=a, stop=b)).counts for a, b in ((0, 64), (64, 90), (90, 126), (126, 700))]
    assert sum(parts).tolist() == count(request(stop=700)).counts.tolist()


@pytest.mark.parametrize("name", NOISES)
def test_noise_of_one_example_alone_and_among_a_thousand_is_bit_identical(name: str) -> None:
    noise, seen = NOISES[name](0.25, (1, 3, 3), "cpu"), []

    def classify(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.flatten(1)

    def rows(*examples: int) -> Tensor:
        seen.clear()
        x = noise.prepare(torch.full((1, 3, 3), 51 / 255))
        requests = [Request(x, noise, Stream(b"k" * 32, 0, i, Stage.ESTIMATION), 0, 3) for i in examples]
        VoteCounter(classify, (1, 3, 3), batch_size=7, classes=9, device="cpu", should_stop=lambda: False, on_samples=lambda n: None).count(
            requests
        )
        return torch.cat(seen)

    packed = rows(*range(1000))
    for example in (0, 1, 500, 999):
        assert torch.equal(rows(example)[:3], packed[3 * example : 3 * example + 3])


def test_every_batch_has_one_shape_and_padding_is_masked() -> None:
    shapes, told = [], []

    def classify(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return sign_classifier(x)

    votes = count(request(stop=5), request(1, stop=300), classify=classify, batch_size=128, told=told)
    assert shapes == [(128, 2)] * 3
    assert told == [128, 128, 49]
    assert votes.counts.sum(1).tolist() == [5, 300]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_logit_spoils_its_own_example_and_no_other(bad: float) -> None:
    def sometimes(x: Tensor) -> Tensor:
        logits = sign_classifier(x)
        logits[x[:, 1] > 50.0, 2] = bad
        return logits

    far = torch.tensor([0.3, 100.0])
    votes = count(request(0), request(1, x=far), request(2), classify=sometimes)
    assert votes.finite.tolist() == [True, False, True]
    assert votes.counts[2].tolist() == direct(2, 0, 1000)


def test_a_wish_to_stop_is_honoured_between_batches() -> None:
    with pytest.raises(Cancelled):
        count(request(), stop=True)


def test_ties_go_to_the_lowest_class() -> None:
    assert count(request(), classify=lambda x: torch.zeros(len(x), 3)).counts.tolist() == [[1000, 0, 0]]


def test_with_one_batch_shape_a_network_gives_the_same_counts_whatever_the_packing() -> None:
    model = Model.from_onnx(small_cnn(mean=0.5, size=12, channels=3))
    noise, x = Gaussian(0.5, (3, 12, 12), "cpu"), torch.rand((3, 12, 12), generator=torch.Generator().manual_seed(0))
    requests = [Request(x, noise, Stream(b"k" * 32, 0, i, Stage.ESTIMATION), 0, 150 + i) for i in range(9)]

    def counted(*wanted: Request) -> list[list[int]]:
        counter = VoteCounter(
            model.module(),
            (3, 12, 12),
            batch_size=64,
            classes=model.classes,
            device="cpu",
            should_stop=lambda: False,
            on_samples=lambda n: None,
        )
        counts: list[list[int]] = counter.count(wanted).counts.tolist()
        return counts

    packed = counted(*requests)
    assert counted(*reversed(requests)) == packed[::-1]
    assert [counted(request)[0] for request in requests] == packed
