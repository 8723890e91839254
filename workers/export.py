"""A trained torch module -> an ONNX file that Assay reads: `python -m workers.export`, behind `assay export`, on the user's own machine."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from certify.architectures import ARCHITECTURES, build, load
from certify.exit_codes import Exit
from certify.export import EXPORTERS, OPSET, export
from certify.model import Model
from workers.agreement import check_agreement
from workers.command import Parser, answered, read_file, whole_file, wrong

_NESTED = ("state_dict", "model_state_dict", "model", "net", "state")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return answered(lambda: _export(options))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="assay export",
        description="Write a trained torch classifier as an ONNX file that Assay reads, checked against the module and onnxruntime.",
        epilog=f"Architectures: {', '.join(ARCHITECTURES)}.",
    )
    parser.add_argument("source", metavar="PACKAGE.MODULE:FACTORY|ARCHITECTURE", help="what makes the module, or an architecture by name")
    parser.add_argument("--weights", metavar="W.safetensors", help="its trained weights; also .pt or .pth, read without running code")
    parser.add_argument("--input-shape", required=True, metavar="1,28,28", help="shape of one input, without the batch axis")
    parser.add_argument("--out", required=True, metavar="M.onnx")
    parser.add_argument("--classes", type=int, help="number of classes of an architecture")
    parser.add_argument("--mean", metavar="0.5,...", help="put (x - mean) / std in front, so that radii are in raw units")
    parser.add_argument("--std", metavar="0.25,...")
    parser.add_argument("--class-names", metavar="cat,dog,...", help="kept in the file and compared with those of a dataset")
    parser.add_argument("--range", metavar="LOW,HIGH", default="0,1", help="raw input values on which the file is compared")
    parser.add_argument("--opset", type=int, default=OPSET)
    parser.add_argument("--exporter", choices=list(EXPORTERS), help="try only this one of torch's exporters")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument of FACTORY")
    return parser


def _export(options: argparse.Namespace) -> int:
    shape, value_range = tuple(_numbers(options.input_shape, "input-shape", int)), _range(options.range)
    module = _module(options, shape)
    if options.weights:
        load(module, _unwrapped(_weights(Path(options.weights)), module.state_dict()))
    names = [name.strip() for name in options.class_names.split(",")] if options.class_names else None
    mean, std = (_numbers(text, name, float) if text else None for name, text in (("mean", options.mean), ("std", options.std)))
    with _silent():
        found = export(module, shape, mean=mean, std=std, class_names=names, opset=options.opset, exporter=options.exporter)
    model = Model.from_onnx(found.data, value_range)
    check_agreement(model, found.data)
    with whole_file(Path(options.out)) as draft:
        draft.write_bytes(found.data)
    graph, fresh = model.graph, options.source in ARCHITECTURES and not options.weights
    untrained = "; the weights are random, since there are no --weights" if fresh else ""
    sys.stderr.write(
        f"wrote {options.out}: {len(graph.operators)} operators, {graph.parameters():,} parameters, inputs of shape {list(shape)}, "
        f"{graph.classes} classes, opset {graph.opset}, exporter {found.exporter}; agrees with onnxruntime and with the module "
        f"(largest difference {found.difference:.1e} of the largest logit){untrained}\n"
    )
    return Exit.DONE


def _module(options: argparse.Namespace, shape: tuple[int, ...]) -> nn.Module:
    if options.source in ARCHITECTURES:
        if options.classes is None:
            raise wrong("classes", "is missing", "say how many classes the architecture has: --classes 10")
        if options.arg:
            raise wrong("arg", f"{options.source} is an architecture and takes none", "leave it out, or write package.module:factory")
        return build(options.source, shape, options.classes)
    path, colon, name = options.source.partition(":")
    if not colon or not path or not name:
        mend = f"write package.module:factory, or an architecture: {', '.join(ARCHITECTURES)}"
        raise wrong("source", f"{options.source!r} is neither a factory nor an architecture", mend)
    if options.classes is not None:
        raise wrong("classes", "is for architectures; a factory knows its own", "leave it out, or pass it on with --arg name=value")
    factory = _found(path, name)
    if isinstance(factory, nn.Module):
        return factory
    try:
        made = factory(**_arguments(options.arg))
    except (Exception, SystemExit) as error:
        raise wrong(
            "source", f"{name} fails ({type(error).__name__}: {_first_line(error)})", "pass its arguments with --arg name=value"
        ) from None
    if not isinstance(made, nn.Module):
        raise wrong("source", f"{name} returns a {type(made).__name__}, not a torch module", "return the module")
    return made


def _found(path: str, name: str) -> Any:
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(path)
    except (Exception, SystemExit) as error:  # a script without a guard parses our options and exits
        detail = f"cannot import {path} ({type(error).__name__}: {_first_line(error)})"
        mend = "put its script under if __name__ == '__main__'" if isinstance(error, SystemExit) else "run this where python can import it"
        raise wrong("source", detail, mend) from None
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, nn.Module) or callable(found):
        return found
    known = ", ".join(
        key for key, value in vars(importlib.import_module(path)).items() if inspect.isfunction(value) or inspect.isclass(value)
    )
    raise wrong("source", f"{path} has no factory named {name!r}", f"use one of {known[:200]}" if known else "check the name")


def _arguments(pairs: Sequence[str]) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise wrong("arg", f"{pair!r} is not NAME=VALUE", "write for example --arg depth=20")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def _weights(path: Path) -> dict[str, Tensor]:
    data = read_file(str(path), "weights")
    try:
        return load_safetensors(data)
    except (SafetensorError, ValueError, KeyError):
        pass
    try:
        # This is the user's own machine and file; even so no code in it is run.
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        mend = "load it yourself and save it with safetensors.torch.save_file(model.state_dict(), 'w.safetensors')"
        raise wrong("weights", f"{path} is neither safetensors nor a plain state dict", mend) from None
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            sys.stderr.write(f"using the entry {key!r} of {path}\n")
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise wrong("weights", f"{path} holds no state dict", "save model.state_dict()")
    return dict(found)


def _unwrapped(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that a wrapper (data parallel, compile, a trainer) put before every name, if the module has none such."""
    for prefix in _PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights) and not all(name.startswith(prefix) for name in own):
            sys.stderr.write(f"dropping the prefix {prefix!r} of every weight\n")
            return _unwrapped({name.removeprefix(prefix): value for name, value in weights.items()}, own)
    return weights


def _numbers(text: str, field: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise wrong(field, f"{text!r} is not a list of numbers", "separate them by commas") from None


def _range(text: str) -> tuple[float, float]:
    low, *rest = _numbers(text, "range", float)
    if len(rest) != 1 or not -float("inf") < low < rest[0] < float("inf"):
        raise wrong("range", f"{text!r} is not LOW,HIGH", "write for example --range 0,1")
    return low, rest[0]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


@contextmanager
def _silent() -> Iterator[None]:
    """torch's exporter prints its graph from C++ when it fails; the sentence that follows says what matters."""
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        yield
    finally:
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
