"""The comparison with onnxruntime: what it lets through, what it names, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from certify import Model
from certify.errors import ModelRejected
from certify.graph.operators.activation import Activation
from certify.graph.operators.pooling import MaxPool
from tests.support.onnx_models import mlp, model_bytes, node, small_cnn
from tests.support.zoo import NAMED, export
from workers.agreement import _inputs, check_agreement

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def check(data: bytes, value_range: tuple[float, float] | None = (0.0, 1.0)) -> None:
    check_agreement(Model.from_onnx(data, value_range), data)


@pytest.mark.parametrize("batch", ["fixed", "dynamic"])
@pytest.mark.parametrize("name", ["resnet-basic", "vit-multihead", "swin", "efficientnet", "group-norm", "squeezenet"])
def test_what_torch_writes_passes(name: str, batch: str) -> None:
    check(export(NAMED[name], exporter="torchscript", opset=17, batch=batch))  # type: ignore[arg-type]


def test_the_first_tensor_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Activation, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:
        return x[0].tanh() * 1.01

    nodes = [node("Relu", "x", "one"), node("Gemm", "one w", "two"), node("Tanh", "two", "three"), node("Gemm", "three w", "logits")]
    data = model_bytes(nodes, {"w": random(6, 6)}, input_shape=("batch", 6))
    check(data)
    monkeypatch.setattr(Activation, "evaluate", wrong)
    with pytest.raises(ModelRejected, match="from the tensor 'one' on, made by Relu 'relu_one'"):
        check(data)
    monkeypatch.setattr(Activation, "evaluate", lambda self, weights, *x: wrong(self, weights, *x) if self.type == "Tanh" else x[0].relu())
    with pytest.raises(ModelRejected, match="from the tensor 'three' on, made by Tanh 'tanh_three'"):
        check(data)


@pytest.mark.parametrize("batch", [1, "batch"])
def test_it_is_named_where_the_batch_stands_elsewhere_too(batch: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        node("Transpose", "x", "turned", perm=[2, 0, 1]),
        node("Sin", "turned", "waved"),
        node("Transpose", "waved", "back", perm=[1, 2, 0]),
        node("Flatten", "back", "logits"),
    ]
    data = model_bytes(nodes, {}, input_shape=(batch, 3, 4))
    check(data)
    monkeypatch.setattr(Activation, "evaluate", lambda self, weights, *x: torch.cos(x[0]))
    with pytest.raises(ModelRejected, match="from the tensor 'waved' on"):
        check(data)


def test_a_file_whose_answer_depends_on_the_batch_size_is_refused() -> None:
    """Each row alone is x; a batch of many is x times its size. The reader follows batch size one and cannot see it."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "size"),
        node("Cast", "size", "number", to=1),
        node("Mul", "x number", "logits"),
    ]
    data = model_bytes(nodes, {"zero": np.array(0)}, input_shape=("batch", 3))
    with pytest.raises(ModelRejected, match="differently among other inputs in onnxruntime"):
        check(data)


def test_rows_that_leak_into_one_another_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_cnn()
    monkeypatch.setattr(MaxPool, "evaluate", lambda self, weights, *x: torch.max_pool2d(x[0], 2) + 1e-3 * x[0].mean())
    with pytest.raises(ModelRejected, match="differently among other inputs"):
        check(data)


def test_logits_that_are_no_numbers_are_refused() -> None:
    data = model_bytes([node("Log", "x", "logits")], {}, input_shape=("batch", 3))
    with pytest.raises(ModelRejected, match="NaN or infinity on inputs of its range"):
        check(data, (-1.0, 1.0))
    check(data, (0.5, 1.0))


def test_what_onnxruntime_refuses_has_no_second_reading() -> None:
    nodes = [node("LRN", "x", "y", size=4), node("Flatten", "y", "logits")]
    data = model_bytes(nodes, {}, input_shape=("batch", 6, 4, 4))
    with pytest.raises(ModelRejected, match="cannot be run by onnxruntime") as caught:
        check(data)
    assert str(caught.value).isprintable()


def test_its_optimiser_is_off_because_it_is_wrong() -> None:
    """A zero pad before a pool: optimised, the zeros never win. When this fails, onnxruntime has mended it."""
    nodes = [node("Pad", "x p", "y"), node("MaxPool", "y", "z", kernel_shape=[2, 2]), node("Flatten", "z", "logits")]
    data = model_bytes(nodes, {"p": np.array([0, 0, 0, 0, 0, 0, 1, 1])}, input_shape=(1, 1, 3, 3))
    x = np.full((1, 1, 3, 3), -1.0, np.float32)
    optimised = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert optimised.max() == -1.0
    ours = Model.from_onnx(data).module()(torch.from_numpy(x))
    assert float(ours.max()) == 0.0
    check(data, (-1.0, 0.0))


def test_large_networks_are_compared_on_fewer_rows() -> None:
    small, large = Model.from_onnx(mlp([4, 3])), Model.from_onnx(_large())
    assert [len(part) for part in _inputs(small)] == [4, 12]
    assert [len(part) for part in _inputs(large)] == [1, 3]


def _large() -> bytes:
    nodes = [node("Relu", "x", "h"), node("Relu", "h", "y"), node("ReduceMean", "y", "logits", axes=[2], keepdims=0)]
    return model_bytes(nodes, {}, input_shape=("batch", 2**12, 2**12), opset=13)
