"""A torch module is exported as what it is, or not at all."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.errors import ExportError
from certify.export import EXPORTERS, export, to_onnx
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from tests.support.onnx_reference import reference
from tests.support.zoo import NAMED, module


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.inner, self.function = linear(), function

    def forward(self, *x: Tensor) -> Any:
        return self.function(self.inner, *x)


@pytest.mark.parametrize("name", ["mlp", "resnet-basic", "mobilenet-v3", "vit-multihead", "swin-counting", "rms-norm", "alexnet"])
def test_the_file_answers_as_the_module_does(name: str) -> None:
    """The last three need the newer exporter, or a batch of one."""
    model, shape = module(NAMED[name]), NAMED[name].input_shape
    data = to_onnx(model, shape)
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.cat([model(row.unsqueeze(0)) for row in x])
        ours = GraphModule(read_onnx(data))(x)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    np.testing.assert_allclose(reference(data, x[:1].numpy()), expected[:1].numpy(), rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_module_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).double().train()
    before = copy.deepcopy(model.state_dict())
    to_onnx(model, (4,))
    assert all(part.training for part in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], value) and value.dtype == before[name].dtype for name, value in model.state_dict().items())


def test_normalisation_in_front_makes_the_input_raw() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    data = to_onnx(model, (3, 8, 8), mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    x = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    with torch.no_grad():
        torch.testing.assert_close(GraphModule(read_onnx(data))(x), model((x - mean) / std), rtol=1e-4, atol=1e-5)


def test_class_names_and_opset_are_kept() -> None:
    data = to_onnx(linear(), (4,), class_names=["cat", "dog", "frog"], opset=13)
    graph = read_onnx(data)
    assert (graph.class_names, graph.opset) == (("cat", "dog", "frog"), 13)
    model = onnx.load_model_from_string(data)
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("input", "logits")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # the batch is free


def conditional(inner: nn.Module, x: Tensor) -> Tensor:
    """A condition on each input, which a trace freezes to one of its sides."""
    return torch.cat([inner(row) * (2 if float(row.sum()) > 0 else 1) for row in x.split(1)])


def training(inner: nn.Module, x: Tensor) -> Tensor:
    """As a module does that calls self.bn.train() in its forward."""
    return nn.BatchNorm1d(3).train()(inner(x))


RNG = np.random.default_rng(0)


BROKEN: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "tuple": (Lambda(lambda f, x: (f(x), x)), {}, "returns a tuple", "logits only"),
    "dict": (Lambda(lambda f, x: {"logits": f(x)}), {}, "returns a dict", "logits only"),
    "images": (Lambda(lambda f, x: f(x).unsqueeze(-1)), {}, "of shape [1, 3, 1]", "(batch, classes)"),
    "one class": (nn.Linear(4, 1), {}, "of shape [1, 1]", "at least 2 classes"),
    "labels": (Lambda(lambda f, x: f(x).argmax(1, keepdim=True).expand(-1, 3)), {}, "returns int64", "return logits"),
    "two inputs": (Lambda(lambda f, x, y: f(x + y)), {}, "fails on inputs of shape [1, 4]", "takes one tensor"),
    "another shape": (nn.Linear(5, 3), {}, "fails on inputs of shape [1, 4]", "check input_shape"),
    "random": (Lambda(lambda f, x: F.dropout(f(x), 0.5, True)), {}, "differently each time", "random"),
    "batch statistics": (Lambda(lambda f, x: f(x) - f(x).mean(0) * (len(x) > 1)), {}, "among other inputs", "across the batch"),
    "batch norm": (
        Lambda(lambda f, x: F.batch_norm(f(x), None, None, training=True) if len(x) > 1 else f(x)),
        {},
        "among other inputs",
        "BatchNorm in training mode",
    ),
    "condition": (Lambda(conditional), {}, "decides on the values of its input (test_export.py, line", "torch.where"),
    "if": (Lambda(lambda f, x: f(x) if x.sum() > 0 else -f(x)), {}, "decides on the values", "torch.where"),
    "norm in training": (Lambda(training), {}, "more than 1 value per channel", "eval mode inside forward"),
    "opset": (linear(), {"opset": 3}, "is 3, not one of 7", "use 17"),
    "exporter": (linear(), {"exporter": "onnx"}, "none named 'onnx'", "use one of torchscript"),
    "no module": (nn.Linear, {}, "Linear is no torch module", "an instance"),
    "random outside torch": (Lambda(lambda f, x: f(x) + float(RNG.random() < 0.5)), {}, "differently", "remove"),
    "complex": (Lambda(lambda f, x: f(torch.fft.fft(x).real)), {}, "fft", "complex numbers"),
    "outside torch": (Lambda(lambda f, x: f(torch.tensor(x.tolist()))), {}, "cannot be exported", ""),
    "sorting": (Lambda(lambda f, x: f(x.sort(-1).values)), {}, "TopK is not supported", "docs/design.md"),
    "no number": (Lambda(lambda f, x: f(x) / 0), {}, "NaN or infinity", "check the weights"),
    "mean": (linear(), {"mean": [0.1, 0.2]}, "has 2 values for 4 channels", "one for each channel"),
    "std": (linear(), {"std": [0.0]}, "are not positive", "check the numbers"),
    "shape": (linear(), {"input_shape": (0,)}, "is not the shape of one input", "without the batch axis"),
    "names": (linear(), {"class_names": ["a", "b"]}, "names 2 classes but has 3 logits", "one name for each"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_exported_says_why_and_what_to_change(name: str) -> None:
    model, more, says, mend = BROKEN[name]
    with pytest.raises(ExportError) as caught:
        to_onnx(model, **{"input_shape": (4,), **more})
    (problem,) = caught.value.problems
    assert says in problem.detail
    assert mend in problem.mend
    assert problem.mend
    assert problem.sentence().isprintable()


def test_a_condition_that_no_sample_meets_is_seen() -> None:
    """The file would agree with the module on every input that is tried."""
    with pytest.raises(ExportError, match="decides on the values"):
        to_onnx(Lambda(lambda f, x: f(x) * (2 if float(x.abs().max()) > 1e9 else 1)), (4,))


@pytest.mark.parametrize(
    "function",
    [
        lambda f, x: f(x) * float(f.bias.sum()),
        lambda f, x: f(x) if bool(torch.ones_like(x).all()) else x,
        lambda f, x: torch.where(x.sum(1, keepdim=True) > 0, f(x), -f(x)),
        lambda f, x: f(x) if x.shape[1] == 4 else x,
    ],
)
def test_conditions_on_weights_and_shapes_are_fine(function: Any) -> None:
    to_onnx(Lambda(function), (4,))


def test_wrappers_are_taken_off() -> None:
    plain = linear()
    for wrapped in (nn.DataParallel(plain), torch.compile(plain), torch.jit.script(plain), nn.utils.spectral_norm(linear())):
        found = export(wrapped, (4,))
        assert found.exporter == "torchscript"
        assert found.difference < 1e-5


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError):
        to_onnx(Lambda(lambda f, x: f(torch.fft.fft(x).real)), (4,))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", EXPORTERS)
def test_each_exporter_by_name(name: str) -> None:
    assert export(linear(), (4,), exporter=name).exporter == name


def test_a_file_that_answers_otherwise_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def perturbed(model: nn.Module, shape: tuple[int, ...], opset: int) -> bytes:
        other = copy.deepcopy(model)
        with torch.no_grad():
            next(other.parameters()).add_(0.01)
        return written(other, shape, opset)

    written = EXPORTERS["torchscript"]
    for name in EXPORTERS:
        monkeypatch.setitem(EXPORTERS, name, perturbed)
    with pytest.raises(ExportError, match="something else than the module"):
        to_onnx(linear(), (4,))
