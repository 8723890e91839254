"""One exhibit of the zoo, its seeded weights, and its export by either exporter of torch."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

CLASSES = 10
COLOUR = (3, 32, 32)
GREY = (1, 28, 28)

NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
)


@dataclass(frozen=True)
class Exhibit:
    """A small classifier: how it is built, and the shape of one example."""

    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...] = COLOUR


def randomise(model: nn.Module) -> None:
    """Weights that keep the variance, and norms with statistics and scales of their own: no layer is the identity."""
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=1.3 / math.sqrt(max(1, parameter[0].numel())))
        else:
            nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.6)
        if not isinstance(module, NORMS):
            continue
        if getattr(module, "weight", None) is not None:
            nn.init.uniform_(module.weight, 0.6, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if getattr(module, "running_mean", None) is not None:
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)


@functools.cache
def module(exhibit: Exhibit) -> nn.Module:
    """The exhibit in eval mode, the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(exhibit.name.encode()))
        model = exhibit.build()
        model.eval()
        with torch.no_grad():
            randomise(model)
    return model.requires_grad_(False)


@functools.cache
def export(
    exhibit: Exhibit, *, exporter: Literal["torchscript", "dynamo"], opset: int | None = None, batch: Literal["fixed", "dynamic"] = "fixed"
) -> bytes:
    """What torch writes for the exhibit, in one file without external data; `opset` None is the exporter's default."""
    x = torch.randn(1 if batch == "fixed" else 2, *exhibit.input_shape, generator=torch.Generator().manual_seed(0))
    model = module(exhibit)
    with _silence():
        if exporter == "torchscript":
            file = io.BytesIO()
            axes = {"x": {0: "batch"}, "logits": {0: "batch"}} if batch == "dynamic" else None
            torch.onnx.export(
                model, (x,), file, opset_version=opset, input_names=["x"], output_names=["logits"], dynamic_axes=axes, dynamo=False
            )
            return file.getvalue()
        shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},) if batch == "dynamic" else None
        program = torch.onnx.export(
            model, (x,), opset_version=opset, input_names=["x"], output_names=["logits"], dynamic_shapes=shapes, dynamo=True, verbose=False
        )
        assert program is not None
        return onnx.ModelProto.SerializeToString(program.model_proto)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class Around(nn.Module):
    """A stem, the piece under study, and a linear head sized by a dry run."""

    def __init__(self, piece: Callable[[Tensor], Tensor], stem: nn.Module | None = None, input_shape: tuple[int, ...] = COLOUR) -> None:
        super().__init__()
        self.stem = nn.Conv2d(input_shape[0], 8, 3, stride=2, padding=1) if stem is None else stem
        self.piece = piece
        with torch.no_grad():
            width = self.eval().piece(self.stem(torch.zeros(2, *input_shape))).flatten(1).shape[1]
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.piece(self.stem(x)), 1))
