"""Peaks of real processes lie below their estimates, and not far below; what makes them small changes no number."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from certify import Model
from certify.bounds import rows
from certify.bounds.engine import LirpaEngine
from certify.bounds.footprint import Footprint, footprint
from certify.bounds.frugal import Frugal
from certify.bounds.memory import needed
from certify.bounds.scout import Scout
from certify.norms import Norm
from tests.support.layered import Layered, resnet
from tests.support.onnx_models import mlp
from tests.support.peaks import NETWORKS, on_linux, peak_of
from tests.support.published import networks

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
FEW = [("resnet", "crown"), ("clipped", "crown"), ("small cnn", "alpha-crown")]
# With gradients, larger ones take minutes.
OPTIMISED = ("small cnn", "small resnet", "one matrix", "average pooling", "fully connected", "tanh")
# No one has that much.
LARGE = 12 * 2**30


def print_of(data: bytes) -> Footprint:
    return footprint(Model.from_onnx(data).graph)


def check(network: str, method: str) -> None:
    peak = peak_of(network, method)
    assert peak.seen <= peak.estimated <= 2.5 * peak.seen, peak


@on_linux
@pytest.mark.parametrize(("network", "method"), FEW)
def test_a_peak_lies_below_its_estimate(network: str, method: str) -> None:
    check(network, method)


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_peak_lies_below_its_estimate(network: str, method: str) -> None:
    if method == "alpha-crown" and network not in OPTIMISED:
        pytest.skip("takes minutes")
    check(network, method)


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS[:3])
@pytest.mark.parametrize("path", networks(), ids=lambda path: path.stem)
def test_peaks_of_published_networks(path: object, method: str) -> None:
    if needed(footprint(Model.from_onnx(path.read_bytes()).graph), method) > LARGE:  # type: ignore[attr-defined]
        pytest.skip("needs more memory than most machines have")
    check(str(path), method)


def test_counts_of_a_network_by_hand() -> None:
    """4 -> 5 -> relu -> 6 -> relu -> 3: walks from 3 logits (one side), from 6 and from 5 neurons (both sides)."""
    found = print_of(mlp([4, 5, 6, 3]))
    assert (found.parameters, found.weights) == (4 * 5 + 5 + 5 * 6 + 6 + 6 * 3 + 3,) * 2
    assert found.values == 4 + 5 + 5 + 6 + 6 + 3
    # From 6: the start, then matrices of 5 before and after the ReLU, then of 4.
    from_six, from_five, output = 6 * (6 + 2 * 5 + 2 * 5 + 2 * 4), 5 * (5 + 2 * 4), 3 * (3 + 6 + 6 + 5 + 5 + 4)
    assert found.kept == from_six + from_five + output
    # Widest at the ReLU: the start, both sides before and after it, and five on the way.
    assert found.walk == 6 * (6 + 2 * 5 + 2 * 5 + 5 * 5)
    assert (found.bent, found.curved) == (6 * 5 + 3 * 6 + 3 * 5, 0)


def test_what_is_rewritten_counts_as_what_it_becomes() -> None:
    """Windows laid out side by side, a dense matrix, two ReLUs for a clip: all larger than the network as it was uploaded."""
    apart, overlapping = (print_of(Layered(12).conv(4).pool(k, 2, p).classes()) for k, p in ((2, 0), (3, 1)))
    assert overlapping.walk > 2 * apart.walk
    dense = print_of(Layered(8).conv(4).transposed(4).classes())
    assert dense.weights > 10 * dense.parameters
    plain, clipped = print_of(Layered(6).conv(4).conv(4).classes()), print_of(Layered(6).conv(4, kind="").clip().conv(4).classes())
    assert clipped.kept > 2 * plain.kept


def test_a_skip_path_keeps_a_matrix_waiting() -> None:
    straight, skipping = (print_of(start.conv(4).classes()) for start in (Layered(8).conv(4).conv(4).conv(4), Layered(8).conv(4).block(4)))
    assert skipping.walk > straight.walk


@pytest.mark.parametrize(
    ("groups", "stride", "dilation", "kernel", "extra"), [(1, 1, 1, 3, 0), (2, 2, 1, 3, 1), (1, 2, 2, 3, 0), (4, 1, 1, 1, 0)]
)
def test_parts_of_the_rows_give_the_same_bits(groups: int, stride: int, dilation: int, kernel: int, extra: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 6, kernel, kernel, generator=generator, dtype=torch.float64)
    given = {"stride": stride, "padding": kernel // 2, "output_padding": extra, "groups": groups, "dilation": dilation}
    whole = F.conv_transpose2d(x, weight, None, **given)
    slope = torch.randn(whole.shape, generator=generator, dtype=torch.float64)
    parts = rows.in_parts(x, weight, None, **given)
    assert len(x) * whole[0].numel() * kernel**2 * 8 > rows._BYTES
    assert torch.equal(parts, whole)
    assert torch.equal(rows.in_parts(x.detach(), weight, None, **given), whole)
    assert torch.equal(*(torch.autograd.grad(made, x, slope)[0] for made in (parts, whole)))


@pytest.mark.parametrize("method", METHODS[1:])
def test_bounds_are_the_same_numbers_walked_in_parts(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.from_onnx(resnet(4, 8))
    rows.walk_in_parts()
    assert importlib.import_module("auto_LiRPA.operators.convolution").F.conv_transpose2d is rows.in_parts
    x = torch.rand(model.input_shape, generator=torch.Generator().manual_seed(0))
    found = []
    for size in (2**40, 2**17):
        monkeypatch.setattr(rows, "_BYTES", size)
        found.append(LirpaEngine(model.graph, Norm.LINF, iterations=3).margin(x, 0, 0.01, method))
    assert found[0] == found[1]


def test_an_engine_that_optimised_is_gone_after_its_bound() -> None:
    engine = LirpaEngine(Model.from_onnx(Layered(6).conv(4).conv(4).classes()).graph, Norm.LINF, iterations=2)
    frugal, x = Frugal(engine, Scout(engine)), torch.rand(3, 6, 6)
    gc.collect()  # engines of other tests that wait for it would go in between
    before = engines()
    for _ in range(2):
        frugal.margin(x, 0, 0.1, "alpha-crown")
        frugal.probe(x, 0, 0.1, "alpha-crown")
        assert engines() == before


def engines() -> int:
    return sum(type(value).__name__ == "BoundedModule" for value in gc.get_objects())


FREED = """
import torch
from certify.heap import giving_back
from tests.support.peaks import resident
torch.ones(2**22 - 2**10, dtype=torch.float64)  # after which glibc keeps whatever is smaller
def gaps():
    blocks = [torch.ones(2**20, dtype=torch.float64) for _ in range(16)]
    full = resident()
    del blocks[::2]
    return full - resident()
with giving_back():
    print(gaps())
print(gaps())
"""


@on_linux
def test_large_tensors_give_back_what_they_took() -> None:
    found = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    given, kept = map(int, found.stdout.split())
    assert given > 60 * 2**20
    assert kept < 30 * 2**20
