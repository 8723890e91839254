"""Random bits and noise are a pure function of their name: bit-identical whatever the packing."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from certify.sampling.batch import default_batch_size
from certify.sampling.noise import NOISES, base
from certify.sampling.noise.base import Noise, block_samples
from certify.sampling.streams import Lane, Stage, Stream

KEY = b"k" * 32
SHAPE = (2, 4, 5)
PINNED = {
    "gaussian": [-0.3956533372402191, -0.21129611134529114, 0.08453868329524994, 0.01009884662926197],
    "uniform": [-0.31185004115104675, -0.3325949013233185, 0.21674425899982452, 0.1745196431875229],
    "discrete-gaussian": [89.0, 56.0, -98.0, 79.0],
}


def stream(key: bytes = KEY, certifier: int = 0, example: int = 3, stage: Stage = Stage.ESTIMATION) -> Stream:
    return Stream(key, certifier, example, stage)


def bits(source: Stream, block: int = 0, lane: Lane = Lane.MAIN, size: int = 4096) -> np.ndarray:
    out = np.empty(size, dtype=np.uint8)
    source.fill(block, out, lane)
    return out


def drawn(noise: Noise, blocks: range) -> torch.Tensor:
    return torch.cat([noise.draw(stream(), block).clone() for block in blocks])


def test_every_part_of_the_name_changes_the_bits() -> None:
    parts = [
        bits(stream()),
        bits(stream(), 1),
        bits(stream(), lane=Lane.REFINE),
        bits(stream(key=b"j" * 32)),
        bits(stream(certifier=1)),
        bits(stream(example=4)),
        bits(stream(stage=Stage.SELECTION)),
        bits(stream(stage=Stage.PREDICTION)),
    ]
    for a, b in itertools.combinations(parts, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


def test_blocks_of_a_stream_never_overlap() -> None:
    # A block of 2^32 pages lies between the counters of two blocks; the last page of one is not the first of the next.
    pages = {bits(stream(), block, size=2**16).reshape(-1, 16)[i].tobytes() for block in range(4) for i in range(2**12)}
    assert len(pages) == 4 * 2**12


def test_bits_are_fair() -> None:
    counts = np.bincount(bits(stream(), size=2**20), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("name", NOISES)
def test_noise_does_not_depend_on_what_was_drawn_before_or_by_whom(name: str) -> None:
    first, second = NOISES[name](0.25, SHAPE, "cpu"), NOISES[name](0.25, SHAPE, "cpu")
    whole = drawn(first, range(5))
    for block in (4, 0, 3):
        assert torch.equal(second.draw(stream(), block), whole[block * first.block : (block + 1) * first.block])


@pytest.mark.parametrize("shape", [SHAPE, (3, 17), (1,)])  # 51 elements: a block of an odd number of them
@pytest.mark.parametrize("name", NOISES)
def test_noise_does_not_depend_on_how_many_blocks_are_drawn_at_once(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = drawn(NOISES[name](0.25, shape, "cpu"), range(5))
    monkeypatch.setattr(base, "blocks_ahead", lambda elements, device: 3)
    noise = NOISES[name](0.25, shape, "cpu")
    assert noise.ahead == 3
    for first, count in ((0, 3), (3, 2), (1, 1), (2, 3)):
        assert torch.equal(noise.draw(stream(), first, count), one[first * noise.block : (first + count) * noise.block])


@pytest.mark.parametrize("name", NOISES)
def test_noise_does_not_depend_on_threads(name: str) -> None:
    threads, shape = torch.get_num_threads(), (3, 32, 32)
    try:
        torch.set_num_threads(1)
        one = drawn(NOISES[name](0.25, shape, "cpu"), range(3))
        torch.set_num_threads(4)
        assert torch.equal(drawn(NOISES[name](0.25, shape, "cpu"), range(3)), one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NOISES)
def test_the_noise_of_a_name_never_changes(name: str) -> None:
    # A new library version that draws other numbers would change stored certificates on a re-run; this pins the stream.
    assert NOISES[name](0.25, SHAPE, "cpu").draw(stream(), 0)[0].flatten()[:4].tolist() == PINNED[name]


def test_gaussian_noise_is_the_same_on_smaller_processors() -> None:
    """NumPy chooses its loops by processor; from x86-64-v3 on they agree to the last bit."""
    code = (
        "import hashlib; from tests.certify.test_streams import *;"
        "print(hashlib.sha256(drawn(NOISES['gaussian'](0.25, (3, 32, 32), 'cpu'), range(4)).contiguous().numpy().tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], env={**os.environ, **extra}, capture_output=True, text=True, check=True
        ).stdout
        for extra in ({}, {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"})
    }
    assert len(found) == 1


def test_gaussian_noise_is_normal_and_independent() -> None:
    noise = NOISES["gaussian"](0.5, (3, 17), "cpu")  # an odd number of elements: the last pair is cut
    sample = drawn(noise, range(150)).numpy().reshape(-1, 51)
    assert sample.dtype == np.float32
    assert stats.kstest(sample.ravel() / 0.5, "norm").pvalue > 1e-4
    assert np.abs(sample).max() > 2.2  # tails are not cut
    assert np.abs(np.corrcoef(sample.T)[~np.eye(51, dtype=bool)]).max() < 6 / np.sqrt(len(sample))
    squares = np.corrcoef((sample**2).T)[~np.eye(51, dtype=bool)]
    assert np.abs(squares).max() < 6 / np.sqrt(len(sample))


def test_gaussian_tails_have_their_weight() -> None:
    noise = NOISES["gaussian"](1.0, (2**14,), "cpu")
    sample = drawn(noise, range(600)).numpy().ravel()
    for cut in (3.0, 4.0, 4.5):
        assert stats.binomtest(int((np.abs(sample) > cut).sum()), len(sample), 2 * stats.norm.sf(cut)).pvalue > 1e-4


def test_uniform_noise_is_uniform_and_stays_inside() -> None:
    noise = NOISES["uniform"](0.5, (100,), "cpu")
    sample = drawn(noise, range(200)).numpy().ravel()
    half = 0.5 * np.sqrt(3)
    assert stats.kstest(sample, "uniform", args=(-half, 2 * half)).pvalue > 1e-4
    assert np.abs(sample).max() <= np.float32(half)
    assert sample.std() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(("elements", "expected"), [(1, 256), (128, 256), (129, 128), (784, 32), (3072, 8), (150_528, 1)])
def test_blocks_are_a_formula_of_the_shape(elements: int, expected: int) -> None:
    assert block_samples(elements) == expected


@pytest.mark.parametrize(("elements", "expected"), [(1, 4096), (784, 1024), (32 * 32 * 64, 16), (10**9, 16)])
def test_batch_size_is_a_formula_of_shapes(elements: int, expected: int) -> None:
    assert default_batch_size(3, elements, "cpu") == expected
    assert default_batch_size(3, elements, "cuda:0") >= expected


def test_a_device_transforms_the_same_bits_to_the_same_noise() -> None:
    """Another device runs torch's functions on the same bits: equal up to their last places (here they run on the CPU)."""
    ours, theirs = NOISES["gaussian"](0.25, (3, 17), "cpu"), NOISES["gaussian"](0.25, (3, 17), "cpu")
    theirs._xp = torch
    theirs._length, theirs._angle, theirs._values = (torch.from_numpy(v) for v in (theirs._length, theirs._angle, theirs._values))
    for block in range(3):
        assert torch.allclose(theirs.draw(stream(), block), ours.draw(stream(), block), rtol=0, atol=1e-5)
