"""Votes: every sample votes once, padding never does, NaN never does."""

import pytest
import torch
from torch import Tensor

from certify.errors import Cancelled, NumericalError
from certify.sampling.streams import Stage, Stream
from certify.sampling.votes import count_votes

X = torch.tensor([0.3, -0.2])
STREAM = Stream(b"k" * 32, 0, 0, Stage.ESTIMATION, (2,))


def sign_classifier(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0], -x[:, 0], torch.full_like(x[:, 0], -10.0)], dim=1)


def votes(classify: object = sign_classifier, samples: int = 1000, batch_size: int = 128, stop: bool = False) -> Tensor:
    return count_votes(
        classify,  # type: ignore[arg-type]
        X,
        STREAM,
        sigma=0.5,
        samples=samples,
        batch_size=batch_size,
        classes=3,
        should_stop=lambda: stop,
        on_samples=lambda n: None,
    )


@pytest.mark.parametrize("batch_size", [1, 13, 128, 4096])
def test_counts_equal_a_direct_count_whatever_the_batch(batch_size: int) -> None:
    noise = torch.cat([STREAM.block(i) for i in range(8)])[:1000]
    expected = torch.bincount(sign_classifier(X + 0.5 * noise).argmax(1), minlength=3)
    assert votes(batch_size=batch_size).tolist() == expected.tolist()


def test_padding_is_masked() -> None:
    # zeros in place of noise would vote for class 0; with one sample in a batch of 4096 only one vote may appear
    assert int(votes(samples=1, batch_size=4096).sum()) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_logit_is_an_error_and_never_a_vote(bad: float) -> None:
    def sometimes(x: Tensor) -> Tensor:
        logits = sign_classifier(x)
        logits[x[:, 1] > 1.0, 1] = bad
        return logits

    with pytest.raises(NumericalError):
        votes(sometimes)


def test_a_wish_to_stop_is_honoured_between_batches() -> None:
    with pytest.raises(Cancelled):
        votes(stop=True)


def test_ties_go_to_the_lowest_class() -> None:
    assert votes(lambda x: torch.zeros(len(x), 3)).tolist() == [1000, 0, 0]
