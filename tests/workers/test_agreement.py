"""The comparison with onnxruntime: what it lets through, what it names, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from certify import Model
from certify.errors import ModelRejected
from certify.facts import RuntimeFact
from certify.graph.operators.activation import Activation
from certify.graph.operators.pooling import MaxPool
from tests.support.onnx_models import batch_switch, mlp, model_bytes, node, small_cnn
from tests.support.zoo import NAMED, export
from workers.agreement import _affordable, _inputs, check_agreement, check_range
from workers.runtime import Session

EVEN_LRN = [node("LRN", "x", "y", size=4), node("Flatten", "y", "logits")]  # onnxruntime takes odd sizes only
RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def check(data: bytes, value_range: tuple[float, float] | None = (0.0, 1.0)) -> RuntimeFact:
    return check_agreement(Model.from_onnx(data, value_range), data)


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
    """Each row alone is x; a batch of many is x times its size. The reader sees it, and so would onnxruntime."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "size"),
        node("Cast", "size", "number", to=1),
        node("Mul", "x number", "logits"),
    ]
    data = model_bytes(nodes, {"zero": np.array(0)}, input_shape=("batch", 3))
    with pytest.raises(ModelRejected, match="depends on the batch size"):
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


def test_what_onnxruntime_refuses_is_accepted_and_says_so() -> None:
    fact = check(model_bytes(EVEN_LRN, {}, input_shape=("batch", 6, 4, 4)))
    assert "cannot run it" in fact.refused
    assert fact.sentence.startswith("Not compared with onnxruntime")
    assert fact.sentence.isprintable()


def test_what_only_the_optimiser_cannot_run_is_read_without_it() -> None:
    """A cast of float to float before a product with one: optimised, the graph loses a tensor that it still reads."""
    nodes = [node("Cast", "x", "mid", to=1), node("Mul", "mid one", "y"), node("Cast", "y", "logits", to=1)]
    data = model_bytes(nodes, {"one": np.array(1, np.float32)}, input_shape=("batch", 3), opset=13)
    fact = check(data)
    assert fact.differs == ""
    if fact.refused:  # mended in some version
        assert "default options" in fact.sentence or "cannot run it" in fact.refused


def test_its_optimiser_is_off_because_it_is_wrong() -> None:
    """A zero pad before a pool: optimised, the zeros never win. When this fails, onnxruntime has mended it."""
    nodes = [node("Pad", "x p", "y"), node("MaxPool", "y", "z", kernel_shape=[2, 2]), node("Flatten", "z", "logits")]
    data = model_bytes(nodes, {"p": np.array([0, 0, 0, 0, 0, 0, 1, 1])}, input_shape=(1, 1, 3, 3))
    x = np.full((1, 1, 3, 3), -1.0, np.float32)
    optimised = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert optimised.max() == -1.0
    ours = Model.from_onnx(data).module()(torch.from_numpy(x))
    assert float(ours.max()) == 0.0
    fact = check(data, (-1.0, 0.0))
    assert "from the tensor 'z' on, made by MaxPool 'maxpool_z'" in fact.differs
    assert "with its default options computes something else than the file says" in fact.sentence


def _other_than_ours(monkeypatch: pytest.MonkeyPatch, where: Callable[[Tensor], Tensor]) -> bytes:
    """A file that our module reads wrongly where `where` is true of its input."""
    data = model_bytes([node("Relu", "x", "logits")], {}, input_shape=("batch", 3))
    right = Activation.evaluate

    def wrong(self: Activation, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:
        return right(self, weights, *x) + where(x[0]).to(x[0].dtype) * x[0].abs()

    monkeypatch.setattr(Activation, "evaluate", wrong)
    return data


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 255.0, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
def test_without_a_range_a_reading_is_tried_on_several_scales(scale: float, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our reading is wrong between a third of a scale and the scale, on one side of zero, and nowhere else."""
    data = _other_than_ours(monkeypatch, lambda x: (x * sign > scale / 30) & (x * sign <= scale))
    with pytest.raises(ModelRejected, match="differs from onnxruntime's reading from the tensor 'logits' on"):
        check(data, None)


def test_an_infinite_answer_far_outside_is_no_fault_without_a_range() -> None:
    check(model_bytes([node("Exp", "x", "logits")], {}, input_shape=("batch", 3)), None)


def test_a_step_where_rounding_decides_is_no_fault_without_a_range() -> None:
    nodes = [node("Gemm", "x w b", "h"), node("Floor", "h", "f"), node("Gemm", "f v c", "logits")]
    weights = {"w": random(64, 64), "b": random(64), "v": random(64, 3), "c": random(3)}
    check(model_bytes(nodes, weights, input_shape=("batch", 64)), None)


@pytest.mark.parametrize("low", [-3.0, 40.0])
def test_a_reading_is_tried_again_on_the_range_of_a_dataset(low: float, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _other_than_ours(monkeypatch, lambda x: (x >= low) & (x <= low + 0.5))
    model = Model.from_onnx(data, (0.0, 1.0))
    assert check(data).differs == ""
    session = Session(data, optimised=True)
    assert check_range(model, data, session, (0.0, 1.0)) == ""
    with pytest.raises(ModelRejected, match="as this dataset has them"):
        check_range(model, data, session, (low, low + 0.5))


@pytest.mark.parametrize("rows", [2, 33, 64, 100, 128, 200, 256])
def test_a_file_that_answers_otherwise_from_so_many_rows_on_is_refused(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What our reader does not see, since it reads for a batch of one: our module is that of the honest file."""
    honest = Model.from_onnx(model_bytes([node("Mul", "x one", "logits")], {"one": np.ones(3, np.float32)}, input_shape=("batch", 3)))
    with pytest.raises(ModelRejected, match="differently among other inputs in onnxruntime"):
        check_agreement(honest, batch_switch(rows, 3))


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("AveragePool", {"kernel_shape": [2, 2]}),
        ("MaxPool", {"kernel_shape": [2, 2]}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2]}),
    ],
)
def test_whatever_the_optimiser_does_to_a_pad_is_told_or_harmless(kind: str, attributes: dict[str, object]) -> None:
    nodes = [node("Pad", "x p", "y"), node(kind, "y", "z", **attributes), node("Flatten", "z", "logits")]
    data = model_bytes(nodes, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, input_shape=("batch", 1, 5, 5))
    fact = check(data, (-1.0, 0.0))
    x = -torch.rand((2, 1, 5, 5), generator=torch.Generator().manual_seed(5))
    optimised = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})[0]
    same = np.allclose(optimised, Model.from_onnx(data).module()(x).numpy(), atol=1e-5)
    assert bool(fact.differs) is not same


def test_large_networks_are_compared_on_fewer_rows() -> None:
    small, large = Model.from_onnx(mlp([4, 3])), Model.from_onnx(_large())
    assert len(_inputs(small, (0.0, 1.0))) == 4
    assert len(_inputs(large, (0.0, 1.0))) == 1
    assert _affordable(small, (2, 256)) == [2, 256]
    assert _affordable(large, (2, 256)) == [2]


def _large() -> bytes:
    nodes = [node("Relu", "x", "h"), node("Relu", "h", "y"), node("ReduceMean", "y", "logits", axes=[2], keepdims=0)]
    return model_bytes(nodes, {}, input_shape=("batch", 2**12, 2**12), opset=13)
