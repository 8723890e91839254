"""Bounds minus their running error against what the engine's own steps prove in rational arithmetic.

The property: no bound, of a margin with `tau` taken off or of what is needed on the way, goes beyond what its steps prove. Bounds without
their errors do go beyond, on the same networks; so do bounds of which one step is wrong by more than is charged for it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from certify.bounds import running_curves, running_error, running_rules, running_terms
from certify.bounds.engine import LirpaEngine, MarginBound
from certify.graph.reader import read_onnx
from certify.norms import Norm
from tests.support.audit import Audit
from tests.support.onnx_models import Array, mlp, model_bytes, node


def _random(*shape: int, scale: float = 1.0) -> Array:
    return (scale * np.random.default_rng((7, *shape)).normal(size=shape)).astype(np.float32)


def _layers(*scales: float, width: int = 6, kind: str = "Relu") -> bytes:
    """One hidden layer for each scale of weights."""
    nodes, weights, last = [], {}, "x"
    for i, scale in enumerate(scales):
        weights |= {f"w{i}": _random(width, width, scale=scale / math.sqrt(width)), f"b{i}": _random(width, scale=scale / 10)}
        nodes += [node("Gemm", f"{last} w{i} b{i}", f"h{i}", transB=1), node(kind, f"h{i}", f"a{i}")]
        last = f"a{i}"
    weights |= {"wl": _random(3, width), "bl": _random(3)}
    return model_bytes([*nodes, node("Gemm", f"{last} wl bl", "logits", transB=1)], weights, input_shape=("batch", width))


def _cancelling() -> bytes:
    """Values near 1 from terms near 1e6 that cancel, and then a layer that makes their error larger."""
    large = _random(1, 5, scale=1e6)
    weights = {"a": np.concatenate([large, -large], axis=1) + np.zeros((4, 1), np.float32), "b": _random(3, 4, scale=30)}
    nodes = [node("Gemm", "x a", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r b", "logits", transB=1)]
    return model_bytes(nodes, weights, input_shape=("batch", 10))


def _image(nodes: list[Any], values: int, size: tuple[int, int] = (4, 4), **weights: Array) -> bytes:
    """Nodes that read `x` of shape (2, *size) and write `s`, of so many values, then a product."""
    tail = [node("Flatten", "s", "f"), node("Gemm", "f w b", "logits", transB=1)]
    return model_bytes([*nodes, *tail], weights | {"w": _random(3, values, scale=0.4), "b": _random(3)}, input_shape=("batch", 2, *size))


def _residual() -> bytes:
    """A normalised convolution beside the skip path, both used twice, and a second one."""
    kept = {"g": _random(2), "h": _random(2), "m": _random(2, scale=5), "v": np.array([0.3, 1e-3], np.float32)}
    nodes = [node("Conv", "x c", "h0", pads=[1, 1, 1, 1]), node("BatchNormalization", "h0 g h m v", "n"), node("Relu", "n", "r")]
    nodes += [node("Add", "r x", "t"), node("Sub", "t n", "u"), node("LeakyRelu", "u", "l", alpha=0.1)]
    nodes += [node("Conv", "l d", "e", pads=[1, 1, 1, 1]), node("Add", "e u", "z"), node("Relu", "z", "s")]
    return _image(nodes, 12, (2, 3), c=_random(2, 2, 3, 3), d=_random(2, 2, 3, 3), **kept)


def _three_ways() -> bytes:
    """A value that four operators read."""
    nodes = [node("Gemm", "x a c", "h", transB=1), node("Relu", "h", "r"), node("Add", "r r", "d"), node("Sigmoid", "r", "s")]
    nodes += [node("Sub", "d r", "t"), node("Add", "t s", "u"), node("Gemm", "u b", "logits", transB=1)]
    return model_bytes(nodes, {"a": _random(4, 5), "c": _random(4), "b": _random(3, 4)}, input_shape=("batch", 5))


def _pooled(kind: str, values: int, between: Any, **attributes: Any) -> bytes:
    """Shifted and scaled, then what is between, then pooled."""
    nodes = [node("Sub", "x k", "m"), node("Div", "m q", "d"), between, node(kind, "t", "s", **attributes)]
    constants = {"k": np.full((1, 2, 1, 1), 0.45, np.float32), "q": np.array([0.2, 0.01], np.float32).reshape(1, 2, 1, 1)}
    return _image(nodes, values, **constants)


TURN, BEND = node("Transpose", "d", "t", perm=[0, 1, 3, 2]), node("Relu", "d", "t")
NETWORKS: dict[str, Callable[[], bytes]] = {
    "shallow": lambda: mlp([5, 8, 3], seed=4),
    "ten layers": lambda: _layers(*(1.5,) * 10, width=4),
    "large, tiny, large": lambda: _layers(1e6, 1e-6, 1e6),
    "tiny and large": lambda: _layers(1e-6, 1e6, 1e-6),
    "cancelling": _cancelling,
    "sigmoid": lambda: _layers(2.0, 2.0, width=4, kind="Sigmoid"),
    "tanh": lambda: _layers(2.0, 2.0, width=4, kind="Tanh"),
    "steep sigmoid": lambda: _layers(2e3, 50.0, width=4, kind="Sigmoid"),
    "steep tanh": lambda: _layers(30.0, 2e3, width=4, kind="Tanh"),
    "leaky": lambda: _image([node("LeakyRelu", "x", "s", alpha=0.3)], 32),
    "residual": _residual,
    "three ways": _three_ways,
    "max pool": lambda: _pooled("MaxPool", 8, BEND, kernel_shape=[2, 2], strides=[2, 2]),
    "mean": lambda: _pooled("GlobalAveragePool", 2, TURN),
    "padded mean": lambda: _pooled("AveragePool", 8, BEND, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
}


SMALL, WIDE = 0.02, 0.3
WALKS = [("crown-ibp", Norm.LINF, SMALL), ("crown", Norm.L2, WIDE)]
MORE = [(method, norm, radius) for method in ("crown-ibp", "crown") for norm in Norm for radius in (SMALL, WIDE)]


def called(walk: tuple[str, Norm, float]) -> str:
    return f"{walk[0]}-{walk[1].value}-{walk[2]:g}"


def audited(
    name: str, norm: Norm = Norm.LINF, method: str = "crown", radius: float = WIDE, disturb: Callable[[Audit], None] = lambda audit: None
) -> tuple[Audit, MarginBound]:
    graph = read_onnx(NETWORKS[name]())
    audit = Audit(LirpaEngine(graph, norm, iterations=3), disturb)
    x = torch.rand(graph.input_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return audit, audit.margin(x, 0, radius, method)


@pytest.mark.parametrize("walk", WALKS, ids=called)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_bound_goes_beyond_what_its_steps_prove(name: str, walk: tuple[str, Norm, float]) -> None:
    method, norm, radius = walk
    audit, bound = audited(name, norm, method, radius)
    assert audit.excess(bound.tau) <= 0
    # And it is of the order of what really happens, so that it says something.
    largest = max(float(mass.max()) for mass in audit.rounding._masses.values())
    assert bound.tau <= 1e4 * max(audit.last_excess(), 2.0**-53 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("walk", MORE, ids=called)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_bound_of_any_norm_goes_beyond_what_its_steps_prove(name: str, walk: tuple[str, Norm, float]) -> None:
    method, norm, radius = walk
    audit, bound = audited(name, norm, method, radius)
    assert audit.excess(bound.tau) <= 0


@pytest.mark.parametrize("name", ["shallow", "cancelling", "sigmoid", "large, tiny, large"])
def test_optimised_slopes_have_errors_of_their_own(name: str) -> None:
    audit, bound = audited(name, method="alpha-crown")
    assert len(audit.walks) > 4
    assert audit.excess(bound.tau) <= 0


@pytest.mark.parametrize("name", ["tiny and large", "sigmoid", "steep tanh", "max pool", "mean"])
def test_without_charges_bounds_go_beyond(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (running_error, running_rules, running_terms, running_curves):
        monkeypatch.setattr(module, "gamma", lambda terms: 0.0)
    audit, bound = audited(name)
    assert audit.excess(bound.tau) > 0


@pytest.mark.parametrize("name", ["shallow", "ten layers", "cancelling", "steep sigmoid", "residual", "padded mean"])
def test_bounds_on_the_way_that_are_not_made_wider_go_beyond(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_error, "_moved", lambda bound, error, sign: bound)
    audit, bound = audited(name)
    assert audit.excess(bound.tau) > 0


def _underneath(owner: Any, name: str, change: Callable[..., Any], *about: Any) -> None:
    """Has what is computed changed before anything listens."""
    *given, original = getattr(owner, name).args
    object.__setattr__(owner, name, functools.partial(getattr(owner, name).func, *given, functools.partial(change, *about, original)))


def _in_every_step(change: Callable[..., Any], audit: Audit) -> None:
    for one in audit.bounded._modules.values():
        _underneath(one, "bound_backward", change, audit, one)


def _off(share: float, side: int, rows: Any, vector: Tensor) -> Tensor:  # vector: as one row, or as all of them
    """A share of a charge, upwards for lower bounds and downwards for upper ones."""
    with torch.no_grad():
        return share * (1 - 2 * side) * running_error._along(rows, vector)


def _wrong_by(share: float) -> Callable[[Audit], None]:
    """Every step, and the end of every walk, is wrong by so much of what is charged for it when nothing is forgotten."""
    honest = dict(running_rules._RULES)

    def step(audit: Audit, one: Any, original: Callable[..., Any], *given: Any, **extra: Any) -> Any:
        (parts, *added), charge = original(*given, **extra), honest[type(one).__name__].charge
        for side in (side for side in (0, 1) if charge is not None and given[side] is not None):
            around = audit.rounding._around(one, side)._replace(before=lambda: None)
            vector = charge(one, around, audit.rounding._mass(one), side)
            if vector is not None:
                added[side] = added[side] + _off(share, side, given[side], vector).reshape(-1, 1)
        return parts, *added

    def end(audit: Audit, original: Callable[..., Any], *given: Any, **extra: Any) -> Any:
        found, start = list(original(*given, **extra)), next(iter(audit.bounded._modules.values()))
        vector = running_terms.constant(audit.centre.abs() + audit.radius, audit.rounding._sums)
        for side, rows in enumerate((start.lA, start.uA)):
            if rows is not None:
                found[side] = found[side] + _off(share, side, rows, vector).reshape(found[side].shape)
        return found

    def both(audit: Audit) -> None:
        _in_every_step(step, audit)
        _underneath(audit.bounded, "backward_general", end, audit)

    return both


KINDS = {
    "BoundLinear": "shallow", "BoundConv": "residual", "BoundMul": "residual", "BoundAdd": "residual", "BoundSub": "mean",
    "BoundDiv": "mean", "BoundGlobalAveragePool": "mean", "BoundRelu": "shallow", "BoundLeakyRelu": "leaky", "BoundSigmoid": "sigmoid",
    "BoundTanh": "tanh", "BoundMaxPool": "max pool",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(KINDS.values())))
def test_every_step_may_be_wrong_by_what_is_charged_for_it(name: str) -> None:
    audit, bound = audited(name, disturb=_wrong_by(0.99))
    assert audit.excess(bound.tau) <= 0
    assert audit.last_excess() > 0.7 * bound.tau


@pytest.mark.parametrize("kind", KINDS)
def test_a_charge_that_is_forgotten_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disturb = _wrong_by(0.99)
    monkeypatch.setitem(running_rules._RULES, kind, running_rules._RULES[kind]._replace(charge=lambda *given: None))
    audit, bound = audited(KINDS[kind], disturb=disturb)
    if kind not in {type(one).__name__ for one in audit.bounded._modules.values()}:
        pytest.skip(f"{audit.engine.version} has no {kind} for this network")
    assert audit.excess(bound.tau) > 0


def _ten_gamma(audit: Audit, one: Any, original: Callable[..., Any], *given: Any, **extra: Any) -> Any:
    parts, *added = original(*given, **extra)
    if type(one).__name__ == "BoundLinear":
        gamma = running_terms.gamma(running_rules._fan_out(one) + running_terms.EXTRA)
        parts = [tuple(None if part is None else part * (1 + 10 * gamma * part.sign()) for part in parts[0]), *parts[1:]]
    return parts, *added


def _in_float32(audit: Audit, one: Any, original: Callable[..., Any], *given: Any, **extra: Any) -> Any:
    parts, *added = original(*given, **extra)
    short: Callable[[Any], Any] = lambda part: part.float().double() if isinstance(part, Tensor) else part  # noqa: E731
    return [tuple(short(part) for part in pair) for pair in parts], *added


@pytest.mark.parametrize("change", [_ten_gamma, _in_float32])
@pytest.mark.parametrize("name", ["shallow", "cancelling"])
def test_a_walk_that_is_wrong_by_more_is_caught(name: str, change: Callable[..., Any]) -> None:
    for method in ("crown-ibp", "crown"):
        audit, bound = audited(name, method=method, disturb=functools.partial(_in_every_step, change))
        assert math.isfinite(bound.tau)
        assert audit.excess(bound.tau) > 0
