"""Whole networks: what torch exports, and the published ones, agree with onnxruntime; each row is computed alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from certify.graph.graph import Graph
from certify.graph.module import GraphModule, bounds_module
from certify.graph.reader import read_onnx
from tests.support import published
from tests.support.onnx_models import mlp, small_cnn
from tests.support.onnx_reference import assert_agrees, ours, reference


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1),
            nn.BatchNorm2d(out),
        )
        self.skip = nn.Conv2d(channels, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.blocks = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), Block(4, 4, 1), Block(4, 8, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.blocks((x - self.mean) / 0.25)), 1))


class Viewed(nn.Module):
    """Reshapes by `x.size(0)`, which exports write as shape arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, stride=2)
        self.head = nn.Linear(27, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).view(x.size(0), -1))


def _cnn() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, groups=2), nn.Sigmoid(), nn.Dropout()]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3))


TORCH: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}
torch.manual_seed(0)
TORCH["mlp"] = (nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), (3, 4))
TORCH["cnn"] = (_cnn(), (1, 8, 8))
TORCH["resnet"] = (ResNet(), (3, 8, 8))
TORCH["viewed"] = (Viewed(), (1, 8, 8))
TORCH["one axis"] = (nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3)), (2, 10))


def exported(name: str, *, free: bool, opset: int, folding: bool = True) -> tuple[bytes, nn.Module]:
    module, shape = TORCH[name]
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for value in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
                assert value is not None
                value.data = torch.rand(value.shape, generator=generator) + 0.2
    file = io.BytesIO()
    torch.onnx.export(
        module.eval(),
        (torch.zeros(1, *shape),),
        file,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=opset,
        do_constant_folding=folding,
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}} if free else None,
    )
    return file.getvalue(), module


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("opset", [9, 13, 17])
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("name", TORCH)
def test_what_torch_exports(name: str, free: bool, opset: int) -> None:
    data, module = exported(name, free=free, opset=opset)
    graph = assert_agrees(data)
    x = torch.randn(3, *graph.input_shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        np.testing.assert_allclose(ours(graph, x.numpy()), module(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", TORCH)
def test_what_torch_exports_without_folding(name: str) -> None:
    assert_agrees(exported(name, free=True, opset=17, folding=False)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_resnet_is_fit_for_bounds() -> None:
    graph = read_onnx(exported("resnet", free=True, opset=17)[0])
    x = torch.rand(4, *graph.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(bounds_module(graph)(x), GraphModule(graph, torch.float64)(x), rtol=1e-9, atol=1e-9)


def test_parameters_and_largest_tensor_are_counted() -> None:
    graph = read_onnx(mlp((4, 7, 3)))
    assert graph.parameters() == 4 * 7 + 7 + 7 * 3 + 3
    assert graph.largest_tensor() == 7


@pytest.mark.parametrize("path", published.networks() or [None], ids=lambda path: path.name if path else "none")
def test_published_networks(path: Path | None) -> None:
    """On their own instances: the values of onnxruntime, and the label that the benchmark says the network gives."""
    folder = published.folder()
    assert path is not None, f"no network in {folder}"
    data = path.read_bytes()
    graph = read_onnx(data)
    chosen = [instance for instance in published.instances(path.parent) if instance.net == path.name][:6]
    x = torch.stack([instance.x for instance in chosen]).numpy()
    assert x.shape[1:] == graph.input_shape
    expected = reference(data, x)
    np.testing.assert_allclose(ours(graph, x), expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))
    np.testing.assert_allclose(ours(graph, x, torch.float64), expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))
    assert [int(row.argmax()) for row in ours(graph, x)] == [instance.label for instance in chosen]


def _neighbours(graph: Graph) -> None:
    """Row 2 among huge, tiny and NaN rows is row 2 alone: to the bit at the same batch shape, to rounding at another."""
    module = GraphModule(graph).eval()
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(6, *graph.input_shape, generator=generator)
    hostile = torch.full_like(x, 1e30)
    hostile[0], hostile[1], hostile[3] = float("nan"), float("inf"), -1e30
    hostile[2] = x[2]
    with torch.no_grad():
        assert torch.equal(module(hostile)[2], module(x)[2])
        torch.testing.assert_close(module(x[2:3])[0], module(x)[2], rtol=1e-5, atol=1e-6)
        order = torch.tensor([3, 2, 5, 0, 1, 4])
        torch.testing.assert_close(module(x[order]), module(x)[order], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [*TORCH, "small mlp", "small cnn"])
def test_alone_and_among_neighbours(name: str) -> None:
    made = {"small mlp": mlp((6, 5, 3)), "small cnn": small_cnn(mean=0.5)}
    _neighbours(read_onnx(made[name] if name in made else exported(name, free=True, opset=17)[0]))
