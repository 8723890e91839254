"""Pieces of one tensor side by side are one step: circular convolutions have their exact norm however an exporter wrote the padding."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from certify.lipschitz import composition
from certify.lipschitz.bound import Bounds
from tests.support.onnx_models import model_bytes, node


def exported(conv: nn.Conv2d, size: int) -> Graph:
    """As torch's older exporter writes it: slices and concatenations for the padding."""
    made = conv.out_channels * (size // conv.stride[0]) ** 2
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(made, 2))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, conv.in_channels, size, size),), file, dynamo=False, opset_version=17)
    return read_onnx(file.getvalue())


@pytest.mark.parametrize(("size", "channels", "kernel", "stride"), [(40, 4, 3, 1), (36, 2, 5, 1), (40, 4, 3, 2)])
def test_a_circular_convolution_has_its_exact_norm(size: int, channels: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2, padding_mode="circular", bias=False)
    graph = exported(conv, size)
    assert {operator.type for operator in graph.operators} >= {"Slice", "Concat", "Conv"}
    found = Bounds.of(graph).at(next(operator.output for operator in graph.operators if operator.type == "Relu"))
    weight = conv.weight.detach().double()
    symbol = torch.fft.fft2(weight, s=(size, size)).permute(2, 3, 0, 1)
    whole = float(torch.linalg.matrix_norm(symbol, 2).max())
    if stride == 1:
        assert whole <= found <= whole * (1 + 1e-6)
    else:
        assert found < whole  # rows are left out


@pytest.mark.parametrize("seed", range(12))
def test_any_pieces_are_never_bounded_below_their_dense_norm(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    length, parts = 9, []
    nodes, weights = [], {}
    for i in range(int(rng.integers(2, 5))):
        start = int(rng.integers(0, length - 1))
        stop = int(rng.integers(start + 1, length + 1))
        weights |= {f"s{i}": np.array([start]), f"e{i}": np.array([stop]), f"a{i}": np.array([2])}
        nodes.append(node("Slice", f"x s{i} e{i} a{i}", f"p{i}"))
        parts.append(f"p{i}")
    if seed % 3 == 0:
        parts.insert(1, "x")
    weights |= {"k": rng.normal(size=(3, 2, 2)).astype(np.float32)}
    nodes += [
        node("Concat", " ".join(parts), "c", axis=2),
        node("Pad", "c pads", "d"),
        node("Conv", "d k", "e"),
        node("Flatten", "e", "logits"),
    ]
    weights |= {"pads": np.array([0, 0, 1, 0, 0, 0])}
    graph = read_onnx(model_bytes(nodes, weights, input_shape=("batch", 2, length)))
    units = torch.cat([torch.eye(2 * length, dtype=torch.float64), torch.zeros(1, 2 * length, dtype=torch.float64)])
    made = GraphModule(graph, torch.float64)(units.reshape(-1, 2, length))
    exact = float(torch.linalg.matrix_norm(made[:-1] - made[-1], 2))
    assert exact <= Bounds.of(graph).at(graph.output) * (1 + 1e-12)
    monkeypatch.setattr(composition, "MAX_ENTRIES", 0)  # without matrices, so that the pieces themselves are what is bounded
    assert exact <= Bounds.of(graph).at(graph.output) * (1 + 1e-12)
