"""Feature maps that are not square: every method and norm against the exact margin of a linear network.

Engines that keep linear bounds as patches of images have mixed up height and width (auto-LiRPA 0.7.1 does). The oracle is a matrix that
plain NumPy loops make of the network: it shares neither torch's convolution nor its gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch

from certify import Model
from certify.bounds.engine import METHODS, LirpaEngine
from certify.errors import NumericalError
from certify.norms import Norm
from tests.support.onnx_models import Array, model_bytes, node

CLASSES = 3
RADIUS = 0.1


@dataclass(frozen=True)
class Shape:
    """A convolution of a feature map (channels, height, width)."""

    channels: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)  # top, left, bottom, right
    dilations: tuple[int, int] = (1, 1)

    @property
    def size(self) -> int:
        return self.channels * self.height * self.width

    def weight(self) -> Array:
        return np.random.default_rng(self.size).normal(size=(2, self.channels, *self.kernel)).astype(np.float32)

    def convolved(self, x: Array, weight: Array) -> Array:
        """The convolution of x, (channels, height, width), by loops over the output."""
        top, left, bottom, right = self.pads
        padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        rows = range(0, padded.shape[1] - reach[0] + 1, self.strides[0])
        columns = range(0, padded.shape[2] - reach[1] + 1, self.strides[1])
        made = np.zeros((len(weight), len(rows), len(columns)))
        for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
            window = padded[
                :,
                row : row + reach[0] : self.dilations[0],
                column : column + reach[1] : self.dilations[1],
            ]
            made[:, i, j] = (weight * window).sum(axis=(1, 2, 3))
        return made


SHAPES = {
    "flat input": Shape(1, 8, 16),
    "tall": Shape(2, 9, 3, pads=(0, 1, 1, 0)),
    "wide and strided": Shape(2, 4, 11, strides=(1, 2)),
    "strided both ways": Shape(1, 7, 12, strides=(3, 2), pads=(2, 0, 1, 1)),
    "kernel that is not square": Shape(2, 5, 8, kernel=(1, 4), pads=(0, 2, 0, 1)),
    "dilated": Shape(1, 9, 6, dilations=(2, 1), pads=(2, 0, 1, 1)),
    "one row": Shape(3, 1, 10),
}


def network(shape: Shape, *, curved: bool) -> tuple[Model, Array, Array]:
    """Flat input, convolution, perhaps a ReLU, logits; and the matrices of the two linear layers."""
    kernel = shape.weight()
    columns = [shape.convolved(e.reshape(shape.channels, shape.height, shape.width), kernel).ravel() for e in np.eye(shape.size)]
    first = np.stack(columns, axis=1)
    last = np.random.default_rng(1).normal(size=(CLASSES, len(first))).astype(np.float32) / np.float32(8)
    convolution = node(
        "Conv",
        "maps kernel",
        "conv",
        strides=list(shape.strides),
        pads=list(shape.pads),
        dilations=list(shape.dilations),
    )
    nodes = [
        node("Reshape", "x shape", "maps"),
        convolution,
        *([node("Relu", "conv", "relu")] if curved else []),
        node("Flatten", "relu" if curved else "conv", "flat"),
        node("Gemm", "flat last", "logits", transB=1),
    ]
    weights = {"shape": np.array([-1, shape.channels, shape.height, shape.width]), "kernel": kernel, "last": last}
    model = Model.from_onnx(model_bytes(nodes, weights, input_shape=("batch", shape.size)))
    return model, first, last.astype(np.float64)


def point(shape: Shape) -> Array:
    return np.random.default_rng(shape.width).uniform(0, 1, shape.size).astype(np.float32)


def dual(rows: Array, norm: Norm) -> Array:
    """The norms by which a step of length 1 in `norm` can move these linear functions."""
    order = {Norm.LINF: 1, Norm.L2: 2, Norm.L1: np.inf}[norm]
    return np.linalg.norm(rows, ord=order, axis=1)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("name", SHAPES)
def test_a_linear_network_is_bounded_exactly_or_below(name: str, norm: Norm) -> None:
    shape = SHAPES[name]
    model, first, last = network(shape, curved=False)
    x = point(shape)
    logits = last @ (first @ x)
    label = int(logits.argmax())
    rivals = [k for k in range(CLASSES) if k != label]
    slopes = (last[label] - last[rivals]) @ first
    exact = float((logits[label] - logits[rivals] - RADIUS * dual(slopes, norm)).min())
    engine = LirpaEngine(model.graph, norm)
    for method in METHODS:  # alpha-CROWN is the last
        try:
            lower = engine.margin(torch.from_numpy(x), label, RADIUS, method).lower
        except NumericalError:
            assert method == "alpha-crown"  # which has nothing to optimise here
            continue
        assert lower <= exact + 1e-9, method
        if method == "crown":
            assert lower == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("name", SHAPES)
def test_no_corner_of_the_ball_falls_below_the_bound(name: str, norm: Norm) -> None:
    """With a ReLU the worst input is not known, but the corners that the slopes at the centre point to come near it."""
    shape = SHAPES[name]
    model, first, last = network(shape, curved=True)
    x = point(shape)
    hidden = first @ x
    logits = last @ np.maximum(hidden, 0)
    label = int(logits.argmax())
    rivals = [k for k in range(CLASSES) if k != label]
    slopes = (last[label] - last[rivals]) @ (first * (hidden > 0)[:, None])
    steps = [-RADIUS * steepest(slope, norm) for slope in slopes]
    margins = [margin(first, last, x + step, label, rivals) for step in steps]
    engine = LirpaEngine(model.graph, norm)
    for method in METHODS:
        lower = engine.margin(torch.from_numpy(x), label, RADIUS, method).lower
        assert lower <= min(margins) + 1e-9, method


def steepest(slope: Array, norm: Norm) -> Array:
    """The step of length 1 in `norm` along which a linear function grows most."""
    if norm is Norm.LINF:
        return np.sign(slope)
    if norm is Norm.L2:
        return slope / np.linalg.norm(slope)
    step = np.zeros_like(slope)
    place = np.abs(slope).argmax()
    step[place] = np.sign(slope[place])
    return step


def margin(first: Array, last: Array, x: Array, label: int, rivals: list[int]) -> float:
    logits = last @ np.maximum(first @ x, 0)
    return float((logits[label] - logits[rivals]).min())
