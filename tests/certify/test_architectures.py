"""Architectures by name: they take what they say, and weights must fit them exactly."""

from __future__ import annotations

import pytest
import torch

from certify.architectures import ARCHITECTURES, build, load
from certify.errors import InputError
from certify.export import to_onnx
from certify.graph.reader import read_onnx

# Published sizes for CIFAR-10: He et al. 2015, table 6; Zagoruyko and Komodakis 2016, tables 4 and 5.
MILLIONS = {"resnet20": 0.27, "resnet56": 0.85, "resnet110": 1.7, "wide-resnet-16-4": 2.7, "wide-resnet-28-10": 36.5, "resnet18": 11.17}


@pytest.mark.parametrize("name", MILLIONS)
def test_the_sizes_are_the_published_ones(name: str) -> None:
    count = sum(parameter.numel() for parameter in build(name, (3, 32, 32), 10).parameters())
    assert count / 1e6 == pytest.approx(MILLIONS[name], rel=0.03)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ("wide-resnet-28-10", "resnet110", "resnet18")])
def test_each_is_exported(name: str) -> None:
    graph = read_onnx(to_onnx(build(name, (1, 16, 16), 4), (1, 16, 16)))
    assert (graph.input_shape, graph.classes) == ((1, 16, 16), 4)


def test_weights_go_where_they_belong() -> None:
    one, two = build("lenet", (1, 28, 28), 10), build("lenet", (1, 28, 28), 10)
    load(two, one.state_dict())
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(one(x), two(x))


def test_old_files_without_counters_are_taken() -> None:
    weights = build("resnet20", (3, 32, 32), 10).state_dict()
    load(build("resnet20", (3, 32, 32), 10), {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("0.bias"), "lacks 0.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "has the unknown extra"),
        (lambda w: w.update({"0.bias": torch.zeros(7)}), "has another shape for 0.bias"),
        (lambda w: w.update({"0.bias": w["0.bias"].to(torch.int8)}), "has another kind of number for 0.bias"),
        (lambda w: w.clear(), "and 6 more"),
    ],
)
def test_weights_that_do_not_fit(change: object, says: str) -> None:
    model = build("lenet", (1, 28, 28), 10)
    weights = dict(model.state_dict())
    change(weights)  # type: ignore[operator]
    with pytest.raises(InputError, match=says):
        load(model, weights)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("resnet21", (3, 32, 32), 10), "none named 'resnet21'; use one of mlp"),
        (("lenet", (784,), 10), "takes images"),
        (("mlp", (784,), 1), "1 is too few"),
        (("vit-tiny", (3, 30, 32), 10), "not divided by the patch size 4"),
    ],
)
def test_requests_that_make_no_sense(arguments: tuple[str, tuple[int, ...], int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(*arguments)
