"""Attributes that a file leaves out have the standard's defaults, which are float32 numbers: in real arithmetic 1e-5 is another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from tests.support.onnx_models import model_bytes, node

ONES = np.ones(3, np.float32)
# Operators with their other inputs; what each leaves out is not a float64 number's shortest decimal.
CASES: dict[str, dict[str, Any]] = {
    "BatchNormalization": {"s": ONES, "b": ONES, "m": ONES, "v": np.full(3, 1e-6, np.float32)},
    "LayerNormalization": {"s": ONES, "b": ONES},
    "LeakyRelu": {},
    "HardSigmoid": {},
}


@pytest.mark.parametrize("kind", CASES)
def test_a_default_is_the_same_number_as_when_it_is_written_out(kind: str) -> None:
    weights = CASES[kind]
    schema = onnx.defs.get_schema(kind, 17)
    given = {
        name: known.default_value.f for name, known in schema.attributes.items() if known.default_value.type == known.default_value.FLOAT
    }
    inputs = " ".join(["x", *weights])
    left_out = read_onnx(model_bytes([node(kind, inputs, "logits")], weights, input_shape=("batch", 3)))
    written = read_onnx(model_bytes([node(kind, inputs, "logits", **given)], weights, input_shape=("batch", 3)))
    x = torch.tensor([[-3e-4, 1e-4, 2e-4]], dtype=torch.float64)
    assert torch.equal(GraphModule(left_out, torch.float64)(x), GraphModule(written, torch.float64)(x))
