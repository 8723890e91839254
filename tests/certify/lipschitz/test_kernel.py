"""Convolution-like maps: their norms against dense matrices, and their algebra against the definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from certify.lipschitz import symbol
from certify.lipschitz.constant import NoConstant, Work
from certify.lipschitz.kernel import Kernel, composed, stacked, summed
from certify.lipschitz.parts import Filtered, Picks, Spread, Transposed
from certify.lipschitz.symbol import Symbol, kernel_norm
from tests.support.dense import Array, kernel_matrix, largest, matrix_of, random_filter


def filters(count: int, seed: int = 0, *, plain: bool = False) -> list[Filtered]:
    rng = np.random.default_rng(seed)
    drawn = (random_filter(rng, positive=bool(trial % 2), plain=plain) for trial in range(count))
    return [conv for conv in drawn if conv is not None]


def kernel_of(conv: Filtered) -> Kernel:
    kernel = conv.kernel((conv.weight.shape[1] * conv.groups, *conv.sizes))
    assert kernel is not None
    return kernel


def dense(conv: Filtered) -> Array:
    return matrix_of(conv, math.prod(kernel_of(conv).source))


def violations(convs: list[Filtered]) -> int:
    return sum(kernel_norm(kernel_of(conv)).norm < largest(dense(conv)) * (1 - 1e-13) for conv in convs)


def test_norms_of_zero_padded_convolutions_are_never_too_small() -> None:
    convs = filters(400)
    assert len(convs) > 300
    assert violations(convs) == 0


def test_they_are_close_where_the_data_are_larger_than_the_kernel() -> None:
    rng, ratios = np.random.default_rng(5), []
    for _ in range(20):
        conv = Filtered(rng.normal(size=(3, 2, 3, 3)), (12, 12), (12, 12), (1, 1), (1, 1), (1, 1), (1, 1), 1)
        ratios.append(kernel_norm(kernel_of(conv)).norm / largest(dense(conv)))
    assert min(ratios) >= 1
    assert max(ratios) < 1.06


def test_a_torus_of_the_size_of_the_data_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without room for the overhang the same test fails."""
    convs = filters(300, plain=True)
    assert violations(convs) == 0

    def unpadded(kernel: Kernel, axis: int) -> int:
        return -(-kernel.sizes[axis] // kernel.strides[axis]) * kernel.strides[axis]

    monkeypatch.setattr(symbol, "_torus", unpadded)
    assert violations(convs) > 5


def test_the_known_case_at_four_pixels() -> None:
    """One channel, 3 taps, 4 values: the circular norm at the unpadded size is below the norm of the zero-padded map."""
    best = 1.0
    for taps in np.random.default_rng(1).normal(size=(300, 1, 1, 3)):
        conv = Filtered(taps, (4,), (4,), (1,), (1,), (1,), (1,), 1)
        circular = replace(kernel_of(conv), wraps=(True,))
        best = max(best, largest(dense(conv)) / kernel_norm(circular).norm)
        assert largest(dense(conv)) <= kernel_norm(kernel_of(conv)).norm
    assert best > 1.01


def test_pads_that_nobody_reads_do_not_count() -> None:
    conv = Filtered(np.ones((1, 1, 1, 1)), (5, 5), (11, 11), (1, 1), (1, 1), (3, 3), (3, 3), 1)
    assert kernel_norm(kernel_of(conv)).norm == pytest.approx(1.0, rel=1e-9)
    assert kernel_of(conv).live().made == (5, 5)


@pytest.mark.parametrize("fine", [2, 3, 4, 8])
def test_a_coarse_grid_bounds_every_frequency(fine: int) -> None:
    for conv in filters(60, seed=2):
        kernel = kernel_of(conv).live()
        if not kernel.taps.any():
            continue
        whole = Symbol.of(kernel, 1.0)
        turns = tuple(whole._points(axis, fine) for axis in range(len(kernel.sizes)))
        sides = [side for side in zip(turns, whole.turns, whole.degrees, strict=True) if side[2]]
        factor = math.prod(1 / math.cos(math.pi * degree / (2 * points)) for points, turn, degree in sides if points != turn)
        bound = whole._largest(turns) * factor
        assert bound >= largest(dense(conv)) * (1 - 1e-12)
        if all(points != turn for points, turn, _ in sides):
            # At other frequencies too, which no torus of these data has.
            others = tuple(31 if degree else 1 for degree in whole.degrees)
            assert bound >= whole._largest(others if len(others) < 3 else turns) * (1 - 1e-12)


def test_the_factor_of_the_grid_is_the_smallest_possible() -> None:
    """(1 + cos(d t)) / 2 with its peak midway between two points attains the bound of the lemma, where d divides the points."""
    for degree, points in ((1, 4), (2, 8), (3, 12)):
        grid = 2 * math.pi * np.arange(points) / points
        values = (1 + np.cos(degree * (grid - math.pi / points))) / 2
        assert math.sqrt(values.max()) == pytest.approx(math.cos(math.pi * degree / (2 * points)), rel=1e-12)


def test_without_work_coarser_bounds_hold() -> None:
    rng = np.random.default_rng(8)
    conv = Filtered(rng.normal(size=(4, 3, 3, 3)), (16, 16), (16, 16), (1, 1), (1, 1), (1, 1), (1, 1), 1)
    truth, seen = largest(dense(conv)), []
    for budget in 10.0 ** np.arange(2, 10, 0.25):
        found = kernel_norm(kernel_of(conv), Work(budget))
        assert found.norm >= truth
        seen.append(found.how.split(" of ")[0].split(" 4")[0])
    assert list(dict.fromkeys(seen)) == ["row and column sums", "SVD", "FFT on a grid", "FFT on a torus"]


def test_a_grid_that_just_misses_the_peak_still_bounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences of neighbours have their peak midway between two of three frequencies: without the whole factor this fails."""
    monkeypatch.setattr(symbol, "_GRIDS", (3,))
    conv = Filtered(np.array([[[1.0, -1.0]]]), (64,), (65,), (1,), (1,), (1,), (1,), 1)
    found = kernel_norm(kernel_of(conv), Work(500.0))
    assert found.how == "FFT on a grid of 3, times 1.1547"
    assert largest(dense(conv)) <= found.norm == pytest.approx(2.0, rel=1e-9)


def test_taps_side_by_side_bound_every_kernel() -> None:
    for conv in filters(100, seed=3):
        kernel = kernel_of(conv).live()
        found = Symbol.of(kernel, 1.0)._side_by_side(Work(math.inf))
        assert found is not None
        assert found.norm >= largest(dense(conv)) * (1 - 1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_circular_convolutions_are_exact(stride: int) -> None:
    rng = np.random.default_rng(stride)
    for size in (6, 12):
        shape = (2, size, size)
        pads = [Kernel.shifted(shape, 0, -1, 1, size + 2, wrap=True), Kernel.shifted((2, size + 2, size), 1, -1, 1, size + 2, wrap=True)]
        both = composed(*pads)
        conv = Filtered(
            rng.normal(size=(3, 2, 3, 3)), (size + 2,) * 2, ((size - 1) // stride + 1,) * 2, (stride,) * 2, (1, 1), (0, 0), (0, 0), 1
        )
        whole = None if both is None else composed(both, kernel_of(conv))
        assert whole is not None
        assert whole.wraps == (True, True)
        truth = largest(kernel_matrix(whole))
        assert truth * (1 - 1e-12) <= kernel_norm(whole).norm <= truth * (1 + 1e-8)
        np.testing.assert_allclose(kernel_matrix(whole), kernel_matrix(kernel_of(conv)) @ kernel_matrix(pads[1]) @ kernel_matrix(pads[0]))


def test_circular_maps_whose_stride_does_not_fit_or_that_repeat_rows_are_bounded() -> None:
    rng = np.random.default_rng(4)
    for _ in range(150):
        size, stride, made, count = (int(v) for v in (rng.integers(1, 8), rng.integers(1, 5), rng.integers(1, 20), rng.integers(1, 4)))
        offsets = rng.choice(np.arange(-9, 10), size=(count, 1), replace=False)
        kernel = Kernel(rng.normal(size=(1, 2, 2, count)), offsets, (stride,), (size,), (made,), (True,)).measured()
        assert kernel_norm(kernel).norm >= largest(kernel_matrix(kernel)) * (1 - 1e-12)
        assert kernel.magnitude() >= largest(np.abs(kernel_matrix(kernel))) * (1 - 1e-12)


def test_magnitudes_bound_the_matrix_of_magnitudes() -> None:
    for conv in filters(100, seed=9):
        assert kernel_of(conv).magnitude() >= largest(np.abs(dense(conv))) * (1 - 1e-12)


def test_transposed_convolutions_are_transposes() -> None:
    for conv in filters(80, seed=6):
        made = matrix_of(Transposed(conv), dense(conv).shape[0])
        np.testing.assert_allclose(made, dense(conv).T, atol=1e-12)


def test_kernels_are_the_maps_they_are_made_of() -> None:
    for conv in filters(60, seed=11):
        np.testing.assert_allclose(kernel_matrix(kernel_of(conv)), dense(conv), atol=1e-12)


def random_kernel(rng: np.random.Generator, channels: int, sizes: tuple[int, ...]) -> Kernel:
    """Any kernel on data of this shape: taps, offsets, strides, outputs and wrapping at random."""
    axes, count, out = len(sizes), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    places = rng.integers(-3, 4, size=(count, axes))
    offsets = np.unique(places, axis=0)
    made, strides = tuple(int(v) for v in rng.integers(1, 8, size=axes)), tuple(int(v) for v in rng.integers(1, 3, size=axes))
    wraps = tuple(bool(v) for v in rng.integers(0, 3, size=axes) == 0)
    grouped = channels == 2 and out == 2 and bool(rng.integers(0, 2))
    taps = rng.normal(size=(2, 1, 1, len(offsets)) if grouped else (1, out, channels, len(offsets)))
    return Kernel(taps, offsets, strides, sizes, made, wraps).measured()


def test_a_composition_is_the_product_or_none() -> None:
    """Refusing is allowed, a wrong kernel is not; and a good part of all is composed."""
    rng, found = np.random.default_rng(12), 0
    for _ in range(1500):
        sizes = tuple(int(v) for v in rng.integers(1, 7, size=int(rng.integers(1, 3))))
        first = random_kernel(rng, int(rng.integers(1, 3)), sizes)
        second = random_kernel(rng, first.target[0], first.made)
        both = composed(first, second)
        if both is not None:
            found += 1
            np.testing.assert_allclose(kernel_matrix(both), kernel_matrix(second) @ kernel_matrix(first), atol=1e-10)
    assert found > 150


def test_sums_and_stacks_are_those_of_the_matrices_or_none() -> None:
    rng, sums, stacks = np.random.default_rng(13), 0, 0
    for _ in range(800):
        sizes = tuple(int(v) for v in rng.integers(1, 6, size=1))
        a = random_kernel(rng, 2, sizes)
        b = replace(random_kernel(rng, 2, sizes), made=a.made, strides=a.strides)
        both, over = summed(a, b), stacked([a, b])
        if both is not None:
            sums += 1
            np.testing.assert_allclose(kernel_matrix(both), kernel_matrix(a) + kernel_matrix(b), atol=1e-10)
        if over is not None:
            stacks += 1
            np.testing.assert_allclose(kernel_matrix(over), np.vstack([kernel_matrix(a), kernel_matrix(b)]), atol=1e-10)
    assert min(sums, stacks) > 100


def test_padding_between_two_convolutions_is_no_kernel_and_none_is() -> None:
    rng = np.random.default_rng(0)
    same = [kernel_of(Filtered(rng.normal(size=(1, 1, 3)), (8,), (8,), (1,), (1,), (1,), (1,), 1)) for _ in range(2)]
    valid = [kernel_of(Filtered(rng.normal(size=(1, 1, 3)), (n,), (n - 2,), (1,), (1,), (0,), (0,), 1)) for n in (8, 6)]
    assert composed(*same) is None
    both = composed(*valid)
    assert both is not None
    assert sorted(both.offsets[:, 0]) == [0, 1, 2, 3, 4]


def test_a_residual_convolution_is_one_operator() -> None:
    rng = np.random.default_rng(2)
    conv = kernel_of(Filtered(rng.normal(size=(3, 3, 3, 3)), (6, 6), (6, 6), (1, 1), (1, 1), (1, 1), (1, 1), 1))
    both = summed(Kernel.identity((3, 6, 6)), conv)
    assert both is not None
    assert both.groups == 1
    negative = summed(Kernel.identity((3, 6, 6)), replace(Kernel.identity((3, 6, 6)), taps=-np.ones((3, 1, 1, 1))))
    assert negative is not None
    assert kernel_norm(negative).norm < 1e-12


@pytest.mark.parametrize(
    ("places", "line"), [([-1, 0, 1, 2, -1], True), ([1, 3, 5], True), ([2, 0, 1, 2, 0], True), ([0, 2, 1], False), ([0, 0], False)]
)
def test_picks_in_even_steps_are_kernels(places: list[int], line: bool) -> None:
    length = 3 if max(places) < 3 else 6
    part = Spread(2, length, 1, len(places), Picks(np.array(places), length))
    kernel = part.kernel((2, length))
    assert (kernel is not None) is line
    if kernel is not None:
        np.testing.assert_allclose(kernel_matrix(kernel), matrix_of(part, 2 * length))


def test_taps_that_are_not_finite_have_no_norm() -> None:
    kernel = Kernel.identity((2, 3))
    with pytest.raises(NoConstant):
        kernel_norm(replace(kernel, taps=np.full((2, 1, 1, 1), math.nan)))
