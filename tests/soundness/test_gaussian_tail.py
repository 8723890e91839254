"""The tail that Gaussian noise never draws is paid for: the drawn law's largest values, from the rarest words, against mpmath's tails."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from certify.sampling.noise import NOISES
from certify.sampling.streams import Stage, Stream

STREAM = Stream(b"k" * 32, 0, 0, Stage.ESTIMATION)
# The length's word: its sign is masked away. The angle's: 0, the quarters and the ends.
LENGTHS = np.array([0, 1, 2, 2**30, 2**31 - 2, 2**31 - 1, -(2**31), -(2**31) + 1, -1], dtype=np.int64)
ANGLES = np.array([0, 1, -1, 2**29, 2**30, -(2**30), 2**31 - 1, -(2**31)], dtype=np.int64)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def pairs(device: str) -> np.ndarray:
    """Both values of the pair that the generator makes of every combination of those words, at sigma = 1: (combinations, 2)."""
    words = np.stack(np.meshgrid(LENGTHS, ANGLES, indexing="ij")).reshape(2, -1).astype(np.int32)
    noise = NOISES["gaussian"](1.0, (2 * words.shape[1],), device)
    noise.block, noise.elements, noise.ahead = 1, words.size, 1

    class Rare(type(noise)):  # type: ignore[misc]
        def _random(self, stream: Any, first: int, count: int) -> Any:
            return words.reshape(1, -1).copy().view(np.uint8)

    noise.__class__ = Rare
    noise._length, noise._angle = noise._empty(words.shape[1]), noise._empty(words.shape[1])  # type: ignore[attr-defined]
    noise._values = noise._empty(words.size)  # type: ignore[attr-defined]
    return noise.draw(STREAM, 0).cpu().double().numpy().reshape(2, -1).T


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("elements", [1, 2, 3, 7, 64, 3072, 16384, 40_001, 150_528])
def test_slack_is_at_least_what_is_never_drawn(elements: int, device: str) -> None:
    """By union over the pairs of one copy, and over its coordinates alone."""
    drawn = pairs(device)
    longest, largest = mpmath.mpf(float(np.hypot(*drawn.T).max())), mpmath.mpf(float(np.abs(drawn).max()))
    assert 6.66 < largest <= longest < 6.6605
    slack = NOISES["gaussian"](0.25, (elements,), "cpu").slack
    with mpmath.workprec(200):
        beyond = mpmath.gammainc(1, longest**2 / 2)  # the survival function of chi square with two degrees of freedom
        assert -(-elements // 2) * beyond <= slack
        assert elements * 2 * mpmath.ncdf(-largest) <= slack
    assert slack < elements * 2.0**-31.9


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("elements", [1, 5, 6, 63, 3072])
def test_a_pair_lies_in_one_copy(elements: int, device: str) -> None:
    """Given that no pair lies beyond, copies that shared one would not be independent, and votes no binomial sample."""
    noise = NOISES["gaussian"](0.25, (elements,), device)
    before = noise.draw(STREAM, 0).clone()
    for word in (0, noise.elements // 4, noise.elements // 2 - 1):
        assert moved(noise, before, word) == moved(noise, before, word + noise.elements // 2)  # length and angle of one pair


def moved(noise: Any, before: torch.Tensor, word: int) -> list[int]:
    """The copies, at most one, that differ when one of the words does."""
    honest = noise._random

    def other(stream: Any, first: int, count: int) -> Any:
        bits = honest(stream, first, count)
        bits.view(np.int32)[0, word] ^= 0x55555555
        return bits

    noise._random = other
    found = (noise.draw(STREAM, 0) != before).flatten(1).any(dim=1).nonzero().flatten().tolist()
    del noise._random
    assert len(found) == 1
    return list(found)


@pytest.mark.parametrize("device", DEVICES)
def test_all_four_ends_are_drawn_and_nothing_is_infinite(device: str) -> None:
    drawn = pairs(device)
    assert np.isfinite(drawn).all()
    for column in drawn.T:
        assert column.max() > 6.66
        assert column.min() < -6.66


def test_another_level_pays_the_same() -> None:
    noise = NOISES["gaussian"](0.25, (5,), "cpu")
    assert noise.at(3.0).slack == noise.slack > 0


def test_p_values_pay_for_the_pairs_of_all_their_copies() -> None:
    """No event is likelier under the drawn law, the true one where no pair lies beyond, than by one over the probability of that."""
    for elements, n in ((1, 10), (3072, 1000), (150_528, 100_000)):
        noise = NOISES["gaussian"](0.25, (elements,), "cpu")
        pairs_of_all = n * elements / 2
        with mpmath.workprec(200):
            least = mpmath.mpf(1e-4) / (1 - mpmath.mpf(2) ** -32) ** pairs_of_all
        assert least <= noise.paid(1e-4, n) <= 1.02 * least**2 * 1e4
    assert noise.paid(0.0, 10) == 0.0
    assert noise.paid(0.9, 10**7) == 1.0
