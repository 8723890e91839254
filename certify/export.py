"""A torch module -> the ONNX bytes that Assay reads, on the machine of whoever trained it."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from certify.errors import ExportError, ModelRejected
from certify.graph.module import GraphModule
from certify.graph.proto import OPSETS
from certify.graph.reader import read_onnx
from certify.lipschitz.plain import oldest_opset, plain

OPSET = 17
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_AGREE = 1e-4
_COPIES = 4
_TORCH = str(Path(torch.__file__).parent)
_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}  # they compute what they wrap
_SHAPE_ONLY = ("_like", "new_")  # operators that read no values: ones_like, new_zeros, ...


@dataclass(frozen=True)
class Exported:
    """A file that was checked: which exporter wrote it, and the largest difference seen, as a share of the largest logit."""

    data: bytes
    exporter: str
    difference: float


class Normalised(nn.Module):
    """(x - mean) / std for each channel, then the model: so that radii are in raw-input units."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:  # mean, std: (channels, 1, ...)
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, *input), raw input units
        logits: Tensor = self.model((x - self.mean) / self.std)
        return logits


def to_onnx(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    opset: int = OPSET,
    exporter: str | None = None,
) -> bytes:
    """One ONNX file that Assay reads and that computes what the module computes in eval mode, checked before it is returned.

    The check compares the module with our own reading of the bytes, on inputs of several scales, one at a time and several at once, to
    1e-4 of the largest logit. A module that decides on the values of its input is refused, whichever way it decides on these inputs.
    The module itself is left as it is: a copy in eval mode and float32 on the CPU is exported.

    Args:
        module: (batch, *input) -> logits (batch, classes).
        input_shape: shape of one input, without the batch axis.
        mean, std: put (x - mean) / std for each channel in front; one number, or one for each channel.
        class_names: one for each logit, kept in the file.
        opset: version of the ONNX operators; torch's newer exporter writes 18 and later only, and `WrappedConv2d` needs 19.
        exporter: try only this one of EXPORTERS.

    Raises:
        ExportError: the module is no such function, or cannot be written; the sentence says what to change.
    """
    return export(module, input_shape, mean=mean, std=std, class_names=class_names, opset=opset, exporter=exporter).data


def export(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    opset: int = OPSET,
    exporter: str | None = None,
) -> Exported:
    """`to_onnx`, with what it found out on the way."""
    if not isinstance(module, nn.Module):
        kind = module.__name__ if isinstance(module, type) else type(module).__name__
        raise ExportError.at("module", f"{kind} is no torch module", "give an instance of torch.nn.Module")
    shape = tuple(int(size) for size in input_shape)
    if not shape or min(shape) < 1:
        raise ExportError.at("input_shape", f"{list(shape)} is not the shape of one input", "give it without the batch axis: 1,28,28")
    if opset not in OPSETS:
        raise ExportError.at("opset", f"is {opset}, not one of {OPSETS.start} to {OPSETS.stop - 1}", f"use {OPSET}")
    if exporter is not None and exporter not in EXPORTERS:
        raise ExportError.at("exporter", f"there is none named {exporter!r}", f"use one of {', '.join(EXPORTERS)}")
    copied = _copied(module)
    model, written = copied, plain(copied)
    if mean is not None or std is not None:
        numbers = _normalisation(shape, mean, std)
        model, written = Normalised(model, *numbers), Normalised(written, *numbers)
    samples = _answers(model, shape)
    classes = samples[0][1].shape[1]
    if class_names is not None and len(class_names) != classes:
        detail = f"names {len(class_names)} classes but has {classes} logits"
        raise ExportError.at("class_names", detail, "give one name for each logit")
    refusals = []
    for name in EXPORTERS if exporter is None else (exporter,):
        try:
            data = _labelled(EXPORTERS[name](written, shape, max(opset, oldest_opset(written))), class_names)
            return Exported(data, name, _check(data, samples))
        except ExportError as error:
            refusals.append(error.problems[0])
    reasons = "; ".join(dict.fromkeys(problem.detail for problem in refusals))
    raise ExportError.at("module", f"cannot be exported: {reasons}", refusals[0].mend)


def _copied(module: nn.Module) -> nn.Module:
    while (inside := _WRAPPERS.get(type(module).__name__)) is not None:
        module = getattr(module, inside)
    try:
        return copy.deepcopy(module).eval().float().cpu()
    except Exception as error:
        mend = "build a fresh module and load the weights into it"
        raise ExportError.at("module", f"cannot be copied ({type(error).__name__}: {_short(error)})", mend) from None


def _normalisation(shape: tuple[int, ...], mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    made = []
    for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0)):
        numbers = [default] if values is None else [float(value) for value in values]
        if len(numbers) not in (1, shape[0]):
            raise ExportError.at(name, f"has {len(numbers)} values for {shape[0]} channels", "give one, or one for each channel")
        if not all(abs(number) < float("inf") and (name == "mean" or number > 0) for number in numbers):
            raise ExportError.at(name, f"{numbers} are not {'finite' if name == 'mean' else 'positive'} numbers", "check the numbers")
        made.append(torch.tensor(numbers, dtype=torch.float32).reshape(-1, *(1,) * (len(shape) - 1)))
    return made[0], made[1]


def _answers(model: nn.Module, shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Inputs with the module's own logits; whatever makes it no classifier of single inputs is found here."""
    generator = torch.Generator().manual_seed(0)
    usual = torch.rand((_COPIES, *shape), generator=generator)
    # Below and above the usual range too: a condition on the data that the export froze shows on one side of it.
    inputs = [usual, torch.randn((_COPIES, *shape), generator=generator), -3 * usual, 10 * usual]
    samples = []
    with torch.no_grad():
        _decides_nothing(model, usual[:1])
        for x in inputs:
            alone = torch.cat([_logits(model, row.unsqueeze(0)) for row in x])
            if not bool(alone.isfinite().all()):
                samples.append((x, alone))
                continue
            if _differ(_logits(model, x[:1]), alone[:1]):
                mend = "remove what is random in eval mode, such as dropout"
                raise ExportError.at("module", "answers the same input differently each time", mend)
            if _differ(_logits(model, x), alone):
                mend = "remove what works across the batch, such as BatchNorm in training mode or a condition on all of x"
                raise ExportError.at("module", "answers an input differently among other inputs", mend)
            samples.append((x, alone))
    if not bool(samples[0][1].isfinite().all()):
        raise ExportError.at("module", "answers NaN or infinity on inputs between 0 and 1", "check the weights, mean and std")
    return [(x, logits) for x, logits in samples if bool(logits.isfinite().all())]


def _decides_nothing(model: nn.Module, x: Tensor) -> None:  # x: (1, *input)
    """An export freezes conditions on the data, and no finite number of samples shows every side of one; so we watch for them."""
    watch = _Watch(x)
    with watch:
        _logits(model, x)
    if watch.place is not None:
        detail = f"decides on the values of its input{watch.place}, which an export freezes"
        raise ExportError.at("module", detail, "write the condition with torch.where, or remove the check")


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what is computed from x, and notes the place where a value of it becomes a Python number."""

    def __init__(self, x: Tensor) -> None:  # x: (1, *input)
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = {id(x): x}  # held, so that no later tensor gets the same id
        self.place: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        made = func(*args, **(kwargs or {}))
        if any(id(value) in self.known for value in given):
            if func is torch.ops.aten._local_scalar_dense.default:
                self.place = self.place or _place()
            elif not any(part in func.overloadpacket.__name__ for part in _SHAPE_ONLY):
                self.known.update((id(value), value) for value in tree_leaves(made) if isinstance(value, Tensor))
        return made


def _place() -> str:
    """The innermost line of code that is neither torch's nor ours."""
    for frame, line in traceback.walk_stack(None):
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith(_TORCH):
            return f" ({Path(file).name}, line {line})"
    return ""


def _logits(model: nn.Module, x: Tensor) -> Tensor:  # x: (batch, *input)
    try:
        found = model(x)
    except Exception as error:
        reason = _short(error)
        mend = "check input_shape, and try the module on such an input"
        if "when training" in reason:
            mend = "keep BatchNorm in eval mode inside forward"
        elif "missing" in reason and "positional argument" in reason:
            mend = "wrap it in a module whose forward takes one tensor"
        raise ExportError.at("module", f"fails on inputs of shape {list(x.shape)} ({type(error).__name__}: {reason})", mend) from None
    if not isinstance(found, Tensor):
        raise ExportError.at("module", f"returns a {type(found).__name__}", "wrap it in a module that returns the logits only")
    if found.dim() != 2 or len(found) != len(x) or found.shape[1] < 2 or not found.is_floating_point():
        detail = f"returns {str(found.dtype).removeprefix('torch.')} of shape {list(found.shape)} for {len(x)} inputs"
        raise ExportError.at("module", detail, "return logits of shape (batch, classes) with at least 2 classes")
    return found.float()


def _torchscript(model: nn.Module, shape: tuple[int, ...], opset: int) -> bytes:
    file: Any = io.BytesIO()
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
    with _quiet():
        try:
            torch.onnx.export(
                model,
                (torch.zeros(1, *shape),),  # a batch size that gets frozen into the file is then one, which is harmless
                file,
                opset_version=opset,
                input_names=["input"],
                output_names=["logits"],
                dynamic_axes=axes,
                dynamo=False,
            )
        except Exception as error:
            raise _impossible(error) from None
    return bytes(file.getvalue())


def _dynamo(model: nn.Module, shape: tuple[int, ...], opset: int, batch: int = 2) -> bytes:
    with _quiet():
        try:
            program = torch.onnx.export(
                model,
                (torch.zeros(batch, *shape),),
                opset_version=max(opset, 18),  # the oldest it writes
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},) if batch > 1 else None,
                dynamo=True,
                verbose=False,
            )
        except ImportError:
            raise ExportError.at("module", "needs the package onnxscript", "pip install onnxscript") from None
        except Exception as error:
            raise _impossible(error) from None
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _dynamo_for_one(model: nn.Module, shape: tuple[int, ...], opset: int) -> bytes:
    return _dynamo(model, shape, opset, batch=1)


# In the order in which they are tried. The older one keeps a module's structure in the file.
EXPORTERS: dict[str, Callable[[nn.Module, tuple[int, ...], int], bytes]] = {
    "torchscript": _torchscript,
    "dynamo": _dynamo,
    "dynamo-batch-one": _dynamo_for_one,
}


def _impossible(error: Exception) -> ExportError:
    return ExportError.at(
        "module",
        f"torch cannot write it: {_short(error)}",
        "replace what it names; conditions on the data, complex numbers and calls outside torch cannot be exported",
    )


def _labelled(data: bytes, class_names: Sequence[str] | None) -> bytes:
    if class_names is None:
        return data
    model = onnx.load_model_from_string(data)
    model.metadata_props.add(key="class_names", value=json.dumps(list(class_names)))
    return bytes(model.SerializeToString())


def _check(data: bytes, samples: list[tuple[Tensor, Tensor]]) -> float:
    """The largest difference from the module's own logits, as a share of the largest logit."""
    try:
        graph = read_onnx(data)
    except ModelRejected as error:
        (problem, *_) = error.problems
        raise ExportError.at("module", f"Assay does not read what torch wrote: {problem.field}: {problem.detail}", problem.mend) from None
    ours, largest = GraphModule(graph), 0.0
    with torch.no_grad():
        for x, logits in samples:
            found = torch.cat([ours(x), *(ours(row.unsqueeze(0)) for row in x)])
            if _differ(found, torch.cat([logits, logits])):
                mend = "look for conditions on the data, which an export freezes"
                raise ExportError.at("module", "the exported file computes something else than the module", mend)
            largest = max(largest, _difference(found, torch.cat([logits, logits])))
    return largest


def _differ(a: Tensor, b: Tensor) -> bool:  # a: (batch, classes), b: (batch, classes)
    return a.shape != b.shape or not _difference(a, b) <= _AGREE  # NaN differs too


def _difference(a: Tensor, b: Tensor) -> float:  # a: (batch, classes), b: (batch, classes)
    return float((a - b).abs().max()) / max(1e-3, float(b.abs().max()))


def _short(error: BaseException) -> str:
    """The first line of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return "".join(c if c.isprintable() else " " for c in lines[0])[:200] if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print, warn and log; what matters is in their exceptions."""
    before, dump = logging.root.manager.disable, getattr(torch._C, "_jit_onnx_log", None)
    logging.disable(logging.CRITICAL)
    try:
        if dump is not None:  # it prints whole graphs past sys.stderr
            torch._C._jit_onnx_log = lambda *_: None
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if dump is not None:
            torch._C._jit_onnx_log = dump
