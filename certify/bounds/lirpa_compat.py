"""The one place that imports auto-LiRPA: 0.3 from the package index on a current torch, or the 0.7 line from its source.

0.3 was written for torch < 1.13. Four of its assumptions no longer hold; each gets the smallest repair, and only while it is needed:
a NumPy module that moved, a torch function that moved (and that must really select opset 12, or another form of operators is traced),
subscripts on torch's graph nodes, and an argument that torch added to a method 0.3 overrides. A fifth, for alpha-CROWN, is an option.
0.7 asks for a package that draws graphs, which is not needed for bounds. Both lines get the same ball and the same heights of tanh and
sigmoid.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from certify.bounds.s_shaped import CURVES, repaired
from certify.errors import EngineUnavailable

SUPPORTED = ("0.3", "0.7")
_MEND = "install it with: pip install --no-deps auto-LiRPA==0.3"

# conv_mode: `patches`, the default, is unsound for some models. The two about sparsity: without them 0.3 crashes in alpha-CROWN.
OPTIONS = {"conv_mode": "matrix", "minimum_sparsity": 1.5, "sparse_spec_alpha": False, "verbosity": 0}


def options(iterations: int | None) -> dict[str, Any]:
    """Options of a bounded module; `iterations` are those of alpha-CROWN."""
    return {**OPTIONS, "optimize_bound_args": {"iteration": iterations}} if iterations else dict(OPTIONS)


@functools.cache
def engine_version() -> str:
    """The version of the package that is really imported: another than the installed one where a source folder comes first on the path.

    Raises:
        EngineUnavailable: missing, or not a version that Assay has been shown sound with.
    """
    version = str(getattr(_imported(), "__version__", "of an unknown version"))
    if ".".join(version.split(".")[:2]) not in SUPPORTED:
        raise EngineUnavailable.at("", f"auto-LiRPA {version} is installed, but Assay knows 0.3 and 0.7", _MEND)
    return version


@functools.cache
def _imported() -> Any:
    try:
        with quiet(), _moved_names(), _same_recursion_limit():
            return importlib.import_module("auto_LiRPA")
    except (ImportError, AttributeError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "auto_LiRPA"
        detail = "is not installed" if missing else f"cannot be imported ({error})"
        raise EngineUnavailable.at("", f"auto-LiRPA, the engine of the certifier `bounds`, {detail}", _MEND) from None


@functools.cache
def load() -> types.SimpleNamespace:
    """The names we use: `BoundedModule` (our subclass), `BoundedTensor`, `PerturbationLpNorm`, `LinearBound`, `eyeC`.

    Raises:
        EngineUnavailable: it cannot be imported, or its version is unknown; one sentence.
    """
    engine_version()
    package = _imported()
    parts = ("bound_ops", "linear_bound", "patches", "perturbations")
    bound_ops, linear_bound, patches, perturbations = (importlib.import_module(f"auto_LiRPA.{part}") for part in parts)
    curves = {f"onnx::{name}": repaired(getattr(bound_ops, f"Bound{name}"), curve) for name, curve in CURVES.items()}
    return types.SimpleNamespace(
        BoundedModule=_repaired(package.BoundedModule, curves),
        BoundedTensor=package.BoundedTensor,
        PerturbationLpNorm=perturbations.PerturbationLpNorm,
        LinearBound=linear_bound.LinearBound,
        eyeC=patches.eyeC if hasattr(patches, "eyeC") else perturbations.eyeC,
    )


@contextlib.contextmanager
def _same_recursion_limit() -> Iterator[None]:
    """auto-LiRPA raises the limit to a million at import; a deeply nested file would then overflow the stack of any later reader."""
    before = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """auto-LiRPA prints and changes the warning filters at import; neither may reach the user."""
    # Recorded, not filtered: auto-LiRPA resets the filters while it is imported.
    with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Quiet, and float64 throughout: some operators (max pooling) make their coefficients in torch's default type."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with quiet():
            yield
    finally:
        torch.set_default_dtype(default)


def intermediate_bounds(bounded: Any) -> dict[str, tuple[Any, Any]]:
    """Lower and upper bounds of all inner tensors, by node, as the last `compute_bounds` left them; copies."""
    inner = (node for node in bounded._modules.values() if node is not bounded.final_node() and getattr(node, "perturbed", False))
    ends = ((node.name, getattr(node, "lower", None), getattr(node, "upper", None)) for node in inner)
    return {name: (lower.clone(), upper.clone()) for name, lower, upper in ends if torch.is_tensor(lower) and torch.is_tensor(upper)}


@contextlib.contextmanager
def _moved_names() -> Iterator[None]:
    # Not `from torch.onnx import symbolic_helper`: that name is another module than the one 0.3 imports from.
    symbolic_helper: Any = importlib.import_module("torch.onnx.symbolic_helper")
    node: Any = torch._C.Node
    added = {"numpy.lib.arraysetops": _stand_in("numpy.lib.arraysetops", isin=np.isin)}
    if importlib.util.find_spec("graphviz") is None:
        added["graphviz"] = _stand_in("graphviz", Digraph=None)
    added = {name: module for name, module in added.items() if name not in sys.modules}
    sys.modules.update(added)
    if not hasattr(symbolic_helper, "_set_opset_version"):
        symbolic_helper._set_opset_version = _set_opset_version
    if not hasattr(node, "__getitem__"):
        node.__getitem__ = _node_attribute
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _stand_in(name: str, **names: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(names)
    return module


def _set_opset_version(version: int) -> None:
    from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

    GLOBALS.export_onnx_opset_version = version


def _node_attribute(node: Any, name: str) -> Any:
    return getattr(node, node.kindOf(name))(name)


def _repaired(base: Any, curves: dict[str, Any]) -> Any:
    class BoundedModule(base):  # type: ignore[misc]
        """auto-LiRPA's module without the shortcut that takes first-layer bounds from the input box instead of the ball.

        `curves` are its classes of nodes for tanh and sigmoid.
        """

        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, custom_ops=curves, **options)

        def check_IBP_first_linear(self, node: Any) -> bool:
            return False

        def _named_members(self, get_members_fn: Any, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Any:
            return super()._named_members(get_members_fn, prefix, recurse)

    return BoundedModule
