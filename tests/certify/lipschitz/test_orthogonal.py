"""Layers that are orthogonal by construction: bounded again from what stands in their exported files, before and after training."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from certify.errors import ExportError, InputError
from certify.export import EXPORTERS, export, to_onnx
from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from certify.lipschitz.bound import Bounds
from certify.lipschitz.orthogonal import CayleyConv2d, GroupSort, OrthogonalLinear, ParaunitaryConv2d, plain
from certify.lipschitz.orthonormal import orthonormal
from tests.support.onnx_reference import assert_agrees

SLACK = 1e-5
STEPS = 20
Shape = tuple[int, ...]


def nodes(data: bytes) -> list[onnx.NodeProto]:
    return [node for node in onnx.load_model_from_string(data).graph.node if node.op_type != "Constant"]


def exported(layer: nn.Module, shape: Shape) -> Graph:
    return read_onnx(to_onnx(nn.Sequential(layer, nn.Flatten()), shape))


def matrix(graph: Graph) -> Tensor:
    """The linear part of a file: what it makes of unit vectors, in float64."""
    found = GraphModule(graph, torch.float64)
    units = torch.eye(int(np.prod(graph.input_shape)), dtype=torch.float64).reshape(-1, *graph.input_shape)
    with torch.no_grad():
        return (found(units) - found(0 * units[:1])).T


def values(graph: Graph) -> Tensor:
    return torch.linalg.svdvals(matrix(graph))


def trained(layer: nn.Module, shape: Shape, lr: float = 0.05) -> nn.Module:
    """A copy after some steps of an ordinary optimiser, towards three times its own outputs with the channels moved by one."""
    learner = copy.deepcopy(layer)
    optimiser = torch.optim.Adam(learner.parameters(), lr=lr)
    x = torch.randn(16, *shape, generator=torch.Generator().manual_seed(1))
    target = 3 * layer(x).detach().roll(1, 1)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = (learner(x) - target).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return learner


LAYERS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "linear narrow": (lambda: OrthogonalLinear(200, 10), (200,)),
    "linear square": (lambda: OrthogonalLinear(64, 64), (64,)),
    "linear wide": (lambda: OrthogonalLinear(5, 33, bias=False), (5,)),
    "paraunitary square": (lambda: ParaunitaryConv2d(4, 4, 3), (4, 6, 6)),
    "paraunitary wide": (lambda: ParaunitaryConv2d(3, 7, 3), (3, 6, 7)),
    "paraunitary narrow": (lambda: ParaunitaryConv2d(7, 3, 5, bias=False), (7, 6, 5)),
    "paraunitary kernel as large as the torus": (lambda: ParaunitaryConv2d(2, 3, 5), (2, 5, 4)),
    "paraunitary 1x1": (lambda: ParaunitaryConv2d(4, 6, 1), (4, 3, 3)),
    "paraunitary even": (lambda: ParaunitaryConv2d(3, 3, 4), (3, 6, 6)),
    "paraunitary one channel": (lambda: ParaunitaryConv2d(1, 2, 3), (1, 6, 6)),
    "paraunitary stride": (lambda: ParaunitaryConv2d(3, 12, 4, 2), (3, 6, 8)),
    "paraunitary stride, fewer values": (lambda: ParaunitaryConv2d(3, 6, 6, 2), (3, 8, 8)),
    "paraunitary stride, more values": (lambda: ParaunitaryConv2d(2, 20, 6, 3), (2, 6, 9)),
    "space to depth": (lambda: ParaunitaryConv2d(2, 8, 2, 2), (2, 4, 4)),
    "cayley square": (lambda: CayleyConv2d(3, 3, 3, 6), (3, 6, 6)),
    "cayley wide": (lambda: CayleyConv2d(2, 5, 3, (6, 7)), (2, 6, 7)),
    "cayley narrow": (lambda: CayleyConv2d(5, 2, 2, (5, 4)), (5, 5, 4)),
    "cayley stride": (lambda: CayleyConv2d(2, 5, 3, (6, 10), 2), (2, 6, 10)),
    "cayley stride, more values": (lambda: CayleyConv2d(1, 10, 2, 9, 3), (1, 9, 9)),
}
CONTRACTIONS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "zeros": (lambda: ParaunitaryConv2d(4, 4, 3, padding="zeros"), (4, 6, 6)),
    "zeros, even": (lambda: ParaunitaryConv2d(3, 5, 4, padding="zeros"), (3, 5, 6)),
    "zeros, stride, parts of blocks": (lambda: ParaunitaryConv2d(2, 6, 6, 2, padding="zeros"), (2, 7, 5)),
    "zeros, fewer values": (lambda: ParaunitaryConv2d(6, 2, 3, padding="zeros"), (6, 4, 4)),
}


@pytest.mark.parametrize("name", [*LAYERS, *CONTRACTIONS])
def test_the_norm_in_the_file_is_one_before_and_after_training(name: str) -> None:
    """By dense singular values and by our bound. Where no zeros are padded all are one: what fits into the smaller side is preserved."""
    make, shape = {**LAYERS, **CONTRACTIONS}[name]
    torch.manual_seed(0)
    fresh = make()
    later = trained(fresh, shape)
    graphs = [exported(layer, shape) for layer in (fresh, later)]
    for graph in graphs:
        exact = values(graph)
        assert float(exact.max()) <= Bounds.of(graph).at(graph.output) <= 1 + SLACK
        if name in LAYERS:
            assert float(exact.min()) >= 1 - SLACK
    assert float((matrix(graphs[0]) - matrix(graphs[1])).abs().max()) > 0.01  # it did move


@pytest.mark.parametrize("name", ["linear square", "paraunitary square", "paraunitary stride", "cayley square", "zeros"])
def test_without_the_construction_the_same_training_leaves_one(name: str) -> None:
    """The same weights, trained freely: what the tests above measure would be seen."""
    make, shape = {**LAYERS, **CONTRACTIONS}[name]
    torch.manual_seed(0)
    free = plain(make()).requires_grad_(True)
    before, after = exported(free, shape), exported(trained(free, shape), shape)
    assert Bounds.of(before).at(before.output) <= 1 + SLACK
    assert 1.1 < float(values(after).max()) <= Bounds.of(after).at(after.output)


@pytest.mark.parametrize("name", [*LAYERS, *CONTRACTIONS])
def test_a_file_holds_plain_operators_that_onnxruntime_reads_alike(name: str) -> None:
    make, shape = {**LAYERS, **CONTRACTIONS}[name]
    torch.manual_seed(0)
    data = to_onnx(nn.Sequential(make(), nn.Flatten()), shape)
    assert {node.op_type for node in nodes(data)} <= {"Gemm", "MatMul", "Conv", "Pad", "Flatten"}
    assert_agrees(data)
    onnx.checker.check_model(onnx.load_model_from_string(data), full_check=True)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_circular_padding_is_one_wrapping_pad_whatever_the_exporter(exporter: str) -> None:
    found = export(nn.Sequential(ParaunitaryConv2d(2, 3, 4), nn.Flatten()), (2, 5, 5), exporter=exporter, opset=13)
    (pad, conv, *_) = nodes(found.data)
    assert (pad.op_type, conv.op_type) == ("Pad", "Conv")
    assert onnx.helper.get_node_attr_value(pad, "mode") == b"wrap"
    assert onnx.load_model_from_string(found.data).opset_import[0].version == 19


def test_weights_are_made_in_float64_and_rounded_once() -> None:
    torch.manual_seed(0)
    layer = OrthogonalLinear(30, 30)
    model = onnx.load_model_from_string(to_onnx(layer, (30,)))
    kept = [numpy_helper.to_array(value) for value in model.graph.initializer if len(value.dims) == 2]
    np.testing.assert_array_equal(kept[0], orthonormal(layer.free.detach().double()).numpy().astype(np.float32))
    assert not np.array_equal(kept[0], orthonormal(layer.free.detach()).numpy())


def test_many_channels_on_a_larger_image() -> None:
    """Too large for a dense matrix; a wrapping convolution has the norm of its largest symbol."""
    torch.manual_seed(0)
    layer: Any = plain(ParaunitaryConv2d(32, 32, 5))
    symbols = torch.fft.fft2(layer.weight.double(), s=(12, 12)).permute(2, 3, 0, 1)
    found = torch.linalg.svdvals(symbols)
    assert float(found.max()) <= 1 + SLACK
    assert float(found.min()) >= 1 - SLACK


@pytest.mark.parametrize("scale", [0.0, 1e-3, 30.0, 1e4])
def test_whatever_the_parameters(scale: float) -> None:
    torch.manual_seed(0)
    for name in ("linear narrow", "paraunitary stride", "cayley wide"):
        make, shape = LAYERS[name]
        layer = make()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(scale)
        found = torch.linalg.svdvals(_made(plain(layer), shape))
        assert float(found.max()) <= 1 + SLACK
        assert float(found.min()) >= 1 - SLACK


@torch.no_grad()
def _made(layer: nn.Module, shape: Shape) -> Tensor:
    units = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
    made: Tensor = layer.double()(units) - layer(0 * units[:1])
    return made.flatten(1)


def encoder() -> nn.Sequential:
    """Images of 4 x 8 x 8; every layer but the last has as many outputs as inputs."""
    return nn.Sequential(
        ParaunitaryConv2d(4, 4, 3),
        GroupSort(),
        CayleyConv2d(4, 4, 3, 8),
        GroupSort(4),
        ParaunitaryConv2d(4, 16, 4, 2),
        GroupSort(),
        nn.Flatten(),
        OrthogonalLinear(256, 10),
    )


ENCODERS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "all kinds": (encoder, (4, 8, 8)),
    "images": (
        lambda: nn.Sequential(ParaunitaryConv2d(3, 12, 4, 2), GroupSort(), ParaunitaryConv2d(12, 24, 6, 2), GroupSort(3), nn.Flatten()),
        (3, 16, 16),
    ),
    "zeros": (
        lambda: nn.Sequential(
            ParaunitaryConv2d(3, 8, 3, padding="zeros"), GroupSort(), ParaunitaryConv2d(8, 8, 3, padding="zeros"), nn.Flatten()
        ),
        (3, 16, 16),
    ),
    "dense": (lambda: nn.Sequential(OrthogonalLinear(20, 30), GroupSort(5), OrthogonalLinear(30, 30), nn.ReLU()), (20,)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_in_a_file_is_bounded_by_one_before_and_after_training(name: str) -> None:
    make, shape = ENCODERS[name]
    torch.manual_seed(0)
    fresh = make()
    for model in (fresh, trained(fresh, shape, lr=0.01)):
        graph = read_onnx(to_onnx(model, shape))
        bound = Bounds.of(graph).at(graph.output)
        assert bound <= 1 + SLACK
        assert _stretched(graph) <= bound


def _stretched(graph: Graph) -> float:
    """The most that close and distant pairs of inputs are seen to move apart."""
    found = GraphModule(graph, torch.float64)
    x, change = torch.randn(2, 64, *graph.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    most = 0.0
    for size in (1e-3, 1.0):
        with torch.no_grad():
            apart = (found(x + size * change) - found(x)).norm(dim=1) / (size * change).flatten(1).norm(dim=1)
        most = max(most, float(apart.max()))
    return most


def test_gradients_keep_their_norm() -> None:
    torch.manual_seed(0)
    body = encoder()[:-1]
    x = torch.randn(3, 4, 8, 8, requires_grad=True)
    y = body(x)
    back = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, back)
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), back.norm(dim=1), rtol=1e-5, atol=0)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = encoder()
    model(torch.randn(8, 4, 8, 8)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0, name


def test_an_encoder_is_exported_as_it_is_and_left_alone() -> None:
    torch.manual_seed(0)
    model = trained(encoder(), (4, 8, 8), lr=0.01)
    before = copy.deepcopy(model.state_dict())
    found = export(model, (4, 8, 8), mean=[0.5], std=[0.25])
    assert found.difference < 1e-5
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert isinstance(model[0], ParaunitaryConv2d)
    assert_agrees(found.data)
    kinds = {node.op_type for node in nodes(found.data)}
    assert kinds <= {"Sub", "Div", "Pad", "Conv", "Slice", "Max", "Min", "Concat", "Flatten", "Gemm"}


def test_plain_copies_and_keeps_what_is_shared() -> None:
    torch.manual_seed(0)
    shared = OrthogonalLinear(4, 4)
    model = nn.Sequential(shared, nn.Sequential(GroupSort(), shared))
    found: Any = plain(model)
    x = torch.randn(5, 4)
    torch.testing.assert_close(found(x), model(x))
    assert type(found[0]) is nn.Linear
    assert found[0] is found[1][1]
    assert model[0] is shared
    ordinary = nn.Linear(3, 3)
    assert plain(ordinary) is ordinary


@pytest.mark.parametrize("group", [2, 3, 4, 5])
def test_groups_are_sorted(group: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 4 * group, 3, 2)
    sort = GroupSort(group)
    expected = x.unflatten(1, (group, 4)).sort(dim=1, descending=True).values.flatten(1, 2)
    torch.testing.assert_close(sort(x), expected, rtol=0, atol=0)
    y = x + 0.3 * torch.randn_like(x)
    assert bool(((sort(x) - sort(y)).flatten(1).norm(dim=1) <= (x - y).flatten(1).norm(dim=1) * (1 + 1e-6)).all())
    data = to_onnx(nn.Sequential(sort, nn.Flatten()), (4 * group, 3, 2))
    assert {node.op_type for node in nodes(data)} == {"Slice", "Max", "Min", "Concat", "Flatten"}
    assert sum(node.op_type in ("Max", "Min") for node in nodes(data)) == group * (group - 1)
    assert_agrees(data)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "kernel": (lambda: ParaunitaryConv2d(2, 2, 3, 2), "kernel: is 3, not a multiple of the stride 2"),
    "padding": (lambda: ParaunitaryConv2d(2, 2, 3, padding="reflect"), "padding: is 'reflect'"),  # type: ignore[arg-type]
    "outputs": (lambda: OrthogonalLinear(3, 0), "outputs: is 0, not positive"),
    "inputs": (lambda: CayleyConv2d(0, 3, 3, 8), "inputs: is 0, not positive"),
    "size": (lambda: CayleyConv2d(2, 2, 3, 9, 2), "size: is [9, 9] for a stride of 2"),
    "kernel above size": (lambda: CayleyConv2d(2, 2, 5, 8, 2), "at least kernel * stride"),
    "group": (lambda: GroupSort(1), "group: is 1"),
    "channels": (lambda: GroupSort(2)(torch.zeros(1, 3)), "x: has 3 channels, not a multiple of the group 2"),
    "image": (lambda: CayleyConv2d(2, 2, 3, 8)(torch.zeros(1, 2, 8, 6)), "is an image of [8, 6], not [8, 8]"),
    "blocks": (lambda: ParaunitaryConv2d(2, 2, 4, 2)(torch.zeros(1, 2, 7, 8)), "multiples of 2"),
    "too small": (lambda: ParaunitaryConv2d(2, 2, 9)(torch.zeros(1, 2, 3, 3)), "too small for this kernel"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_said(name: str) -> None:
    make, says = WRONG[name]
    with pytest.raises(InputError) as caught:
        make()
    assert says in str(caught.value)
    assert caught.value.problems[0].mend


def test_an_export_for_another_size_says_so() -> None:
    with pytest.raises(ExportError, match=r"is an image of \[6, 6\]"):
        to_onnx(nn.Sequential(CayleyConv2d(2, 2, 3, 8), nn.Flatten()), (2, 6, 6))


def test_the_page_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "orthogonal.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(printed["accuracy"]) > 0.9
    assert 1 - SLACK <= float(printed["constant"]) <= 1 + SLACK
