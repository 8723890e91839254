"""Every family of the zoo, as either exporter of torch writes it, is read as onnxruntime reads it, or is refused by name."""

from __future__ import annotations

from typing import Any, Literal, get_args

import onnx
import onnx.version_converter
import pytest
from torch.onnx.errors import OnnxExporterError

from certify.errors import ModelRejected
from certify.graph.reader import read_onnx
from tests.support.onnx_reference import assert_agrees
from tests.support.zoo import EXHIBITS, NAMED, Exhibit, export

Exporter = Literal["torchscript", "dynamo"]
Batch = Literal["fixed", "dynamic"]
EXPORTERS: tuple[Exporter, ...] = get_args(Exporter)
BATCHES: tuple[Batch, ...] = get_args(Batch)

# What an exporter of torch 2.13 does not write, for both kinds of batch or for the one that is named.
UNWRITTEN: dict[str, set[str]] = {
    "torchscript": {
        "vgg-pool-seven-from-one",
        "threshold",
        "where-positive",
        "global-max-pool dynamic",
        "adaptive-average-row dynamic",
        "adaptive-average-uneven",
        "gather-constant",
        "fold",
        "channel-shuffle",
        "bilinear-antialiased",
        "rms-norm",
        "layer-norm-functional dynamic",
        "spectral-norm",
        "bilinear-layer",
    },
    "dynamo": {"rrelu", "distances"},
}

# What the reader refuses, and the words in which it does: (exhibit, exporter, batch), None for any.
REFUSED: dict[tuple[str, Exporter | None, Batch | None], str] = {
    ("top-values", None, None): "the operator TopK is not supported",
    ("fold", "dynamo", None): "the operator Col2Im is not supported",
    ("grid-sample", None, None): "the operator GridSample is not supported",
    ("gru", None, None): "the operator GRU is not supported",
    ("lstm", None, None): "the operator LSTM is not supported",
    ("bilinear-antialiased", "dynamo", None): "antialias",
    ("swin-counting", "torchscript", "dynamic"): "mixes the batch with other axes",
    ("swin-counting", "dynamo", "dynamic"): "the batch axis is fixed to 2",
    ("gather-constant", "dynamo", "dynamic"): "the batch axis is fixed to 2",
    ("gather-constant", "dynamo", "fixed"): "GatherElements on data is not supported",
    ("double-inside", None, None): "Cast of data to the element type number 11",
    ("alexnet", "torchscript", None): "If is control flow",
    ("local-response", "torchscript", None): "If is control flow",
    ("tile", "torchscript", None): "If is control flow",
}

# The newer exporter takes about a second per file; these are what a change is most likely to break.
TELLING = {
    "alexnet",
    "channels-last-input",
    "convnext",
    "convnext-variance",
    "densenet",
    "einsum-outer",
    "googlenet",
    "index-two-axes",
    "instance-norm",
    "maxout",
    "mobilenet-v3",
    "patches",
    "resnet-basic",
    "shufflenet",
    "squeezenet",
    "swin",
    "top-values",
    "unet-bilinear",
    "unet-transposed",
    "vit-einsum",
    "vit-fused-masked",
    "vit-multihead",
    "vit-timm",
    "where-mask",
}

SWEPT = ("mlp", "resnet-basic", "googlenet", "mobilenet-v3", "unet-nearest", "convnext-variance", "vit-timm", "swin")
OPSETS: dict[Exporter, tuple[int, ...]] = {
    "torchscript": (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21),
    "dynamo": (18, 21, 22, 23, 24, 25),
}
# Before opset 9 there is no Erf; the older exporter writes it all the same.
INVALID_BEFORE = {"convnext-variance": 9, "vit-timm": 9, "swin": 9}
CONVERTED = ("mlp", "lenet", "resnet-basic", "densenet", "squeezenet", "mobilenet-v2", "vit-timm", "mixer")
NEWEST_OPSET = 25


def unwritten(exhibit: Exhibit, exporter: Exporter, batch: Batch) -> bool:
    return bool(UNWRITTEN[exporter] & {exhibit.name, f"{exhibit.name} {batch}"})


def refused(exhibit: Exhibit, exporter: Exporter, batch: Batch) -> str | None:
    keys = ((exhibit.name, e, b) for e in (exporter, None) for b in (batch, None))
    return next((REFUSED[key] for key in keys if key in REFUSED), None)


def parameters() -> list[Any]:
    return [
        pytest.param(
            exhibit,
            exporter,
            batch,
            id=f"{exhibit.name}-{exporter}-{batch}",
            marks=[pytest.mark.slow] if exporter == "dynamo" and (batch == "fixed" or exhibit.name not in TELLING) else [],
        )
        for exhibit in EXHIBITS
        for exporter in EXPORTERS
        for batch in BATCHES
    ]


def check(data: bytes, batch: Batch = "dynamic") -> None:
    """A file with batch 1 is read for every batch; onnxruntime takes its examples one at a time."""
    assert_agrees(data, batches=(1, 5) if batch == "dynamic" else (1, 3))


def opset_of(data: bytes) -> int:
    return next(entry.version for entry in onnx.load_model_from_string(data).opset_import if entry.domain == "")


@pytest.mark.parametrize(("exhibit", "exporter", "batch"), parameters())
def test_what_torch_writes_is_read_as_onnxruntime_reads_it_or_refused_by_name(exhibit: Exhibit, exporter: Exporter, batch: Batch) -> None:
    opset = 17 if exporter == "torchscript" else None
    if unwritten(exhibit, exporter, batch):
        with pytest.raises((OnnxExporterError, RuntimeError)) as failure:
            export(exhibit, exporter=exporter, opset=opset, batch=batch)
        pytest.skip(f"{exporter}: {str(failure.value)[:120]}")
    data = export(exhibit, exporter=exporter, opset=opset, batch=batch)
    says = refused(exhibit, exporter, batch)
    if says is None:
        check(data, batch)
        return
    with pytest.raises(ModelRejected) as caught:
        read_onnx(data)
    (problem,) = caught.value.problems
    assert says in problem.detail
    assert problem.mend


def test_names_are_unique_and_the_tables_name_exhibits() -> None:
    assert len(NAMED) == len(EXHIBITS)
    named = {entry.split(" ")[0] for entries in UNWRITTEN.values() for entry in entries} | {name for name, _, _ in REFUSED}
    assert named | TELLING | set(SWEPT) | set(CONVERTED) <= set(NAMED)


def test_every_exhibit_is_written_by_an_exporter() -> None:
    assert not UNWRITTEN["torchscript"] & UNWRITTEN["dynamo"]
    for exhibit in EXHIBITS:
        assert any(not unwritten(exhibit, exporter, batch) for exporter in EXPORTERS for batch in BATCHES), exhibit.name


@pytest.mark.parametrize(
    ("name", "exporter", "opset"),
    [
        pytest.param(name, exporter, opset, marks=[pytest.mark.slow] if exporter == "dynamo" and (name, opset) != ("vit-timm", 25) else [])
        for exporter in EXPORTERS
        for name in SWEPT
        for opset in OPSETS[exporter]
    ],
)
def test_every_opset_that_torch_writes_is_read(name: str, exporter: Exporter, opset: int) -> None:
    try:
        data = export(NAMED[name], exporter=exporter, opset=opset, batch="dynamic")
    except OnnxExporterError as error:
        pytest.skip(f"{exporter} at opset {opset}: {str(error)[:120]}")
    assert opset_of(data) == opset
    if opset < INVALID_BEFORE.get(name, 0):
        with pytest.raises(ModelRejected, match=f"does not exist in opset {opset}"):
            read_onnx(data)
        return
    check(data)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", CONVERTED)
def test_files_converted_to_the_newest_opset_are_read(name: str, batch: Batch) -> None:
    data = export(NAMED[name], exporter="torchscript", opset=17, batch=batch)
    converted = onnx.version_converter.convert_version(onnx.load_model_from_string(data), NEWEST_OPSET).SerializeToString()
    assert opset_of(converted) == NEWEST_OPSET
    check(converted, batch)
