"""What the steps of auto-LiRPA really prove: its own coefficients, checked one node after another in rational arithmetic.

A walk back turns A f(v) + c, at a node v -> f(v), into A' v + c'. Whatever A' and c' are, the largest A' v + c' - A f(v) over all v in the
node's interval is what the bound can be wrong by because of this step. The audit finds it exactly for every node and row, without any
formula for rounding errors; subtracted from the exact end of the walk they give what is proved.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify.bounds.engine import LirpaEngine, MarginBound
from certify.norms import Norm
from tests.support.exact import ACTIVATIONS, EXACT, SQRT
from tests.support.onnx_models import Array

ZERO = Fraction(0)
CURVES = {"BoundTanh": (1.0, 1.0), "BoundSigmoid": (0.25, 2.0)}  # f' = first / cosh(x / second)^2
BENT = ("BoundRelu", "BoundLeakyRelu", *CURVES)
RELAXED = (*BENT, "BoundMaxPool")


def rational(value: Tensor) -> Array:
    """The same numbers, exactly."""
    return EXACT(value.detach().numpy())


def constant_of(node: Any) -> Array:
    """The exact value of a constant; auto-LiRPA 0.7 makes one of a divisor."""
    return 1 / constant_of(node.inputs[0]) if type(node).__name__ == "BoundReciprocal" else rational(node.forward())


@dataclass
class Walk:
    """One walk back: for each side what every node got, sent back and added, and the bounds in the end.

    With the intervals of what is relaxed and the largest magnitudes of all nodes as they were then.
    """

    node: Any
    intervals: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    reach: dict[str, Tensor] = field(default_factory=dict)
    steps: list[tuple[Any, tuple[Any, Any], Any, tuple[Any, Any]]] = field(default_factory=list)
    ends: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    bounds: tuple[Any, Any] = (None, None)


class Audit:
    """Listens to one module of the engine, which then uses no other; `walks` are those of the last margin."""

    centre: Tensor
    radius: float
    ball: Any

    def __init__(self, engine: LirpaEngine, disturb: Callable[[Audit], None] = lambda audit: None) -> None:
        self.engine, (self.bounded, self.rounding) = engine, engine._build()
        engine._bounded, engine._rounding = self.bounded, self.rounding
        engine._build = lambda: (self.bounded, self.rounding)  # type: ignore[method-assign]
        self.walks: list[Walk] = []
        disturb(self)
        for node in self.bounded._modules.values():
            self._over(node, "bound_backward", self._step(node))
        self._over(self.bounded, "backward_general", self._walk)
        self._over(self.bounded, "compute_bounds", self._whole)

    def margin(self, x: Tensor, label: int, radius: float, method: str) -> MarginBound:  # x: (*input)
        """The engine's margin, listened to."""
        self.walks.clear()
        self.centre, self.radius = x, radius
        return self.engine.margin(x, label, radius, method)

    @staticmethod
    def _over(owner: Any, name: str, around: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        object.__setattr__(owner, name, lambda *given, **extra: around(original, *given, **extra))

    def _whole(self, original: Any, *given: Any, **extra: Any) -> Any:
        self.ball = (extra["x"] if "x" in extra else given[0])[0].ptb
        return original(*given, **extra)

    def _step(self, node: Any) -> Callable[..., Any]:
        def step(original: Any, *given: Any, **extra: Any) -> Any:
            found = original(*given, **extra)
            self.walks[-1].steps.append((node, given[:2], found[0], found[1:]))
            return found

        return step

    def _walk(self, original: Any, *given: Any, **extra: Any) -> Any:
        walk = Walk(next(value for value in (*extra.values(), *given) if hasattr(value, "bound_backward")))
        self.walks.append(walk)
        found = original(*given, **extra)
        # A copy: optimising puts the best of all walks in place of the last.
        walk.bounds = tuple(None if end is None else end.detach().clone() for end in found[:2])
        nodes = self.bounded._modules.values()
        walk.ends = {node.name: (node.lA, node.uA) for node in nodes if not node.inputs}
        for node, *_ in walk.steps:
            walk.reach |= {value.name: self.rounding._reach(value) for value in node.inputs if value.perturbed}
            if type(node).__name__ in RELAXED:
                walk.intervals[node.name] = (node.inputs[0].lower.detach(), node.inputs[0].upper.detach())
        return found

    def excess(self, tau: float) -> float:
        """By how much any bound goes beyond what is proved, margins with `tau` taken off; 0 or less is sound."""
        final = self.bounded.final_name
        return float(max(self._excess(walk, tau if walk.node.name == final else 0.0) for walk in self.walks))

    def last_excess(self) -> float:
        """That of the margins of the last walk, as they are."""
        return float(self._excess(self.walks[-1], 0.0))

    def _excess(self, walk: Walk, tau: float) -> Fraction:
        found = []
        for side in (side for side in (0, 1) if walk.bounds[side] is not None):
            bounds = self._signed(walk.bounds[side], side).reshape(-1) - Fraction(tau)
            found.append(max(bounds - self.proved(walk, side)))
        return max(found)

    def proved(self, walk: Walk, side: int) -> Array:
        """Lower bounds of the rows (of their negatives, for side 1) that hold in real arithmetic, (rows,)."""
        parts: dict[str, list[Array]] = defaultdict(list)
        total: Any = ZERO
        for node, coefficients, sent, added in walk.steps:
            rows = self._rows(node, coefficients[side], side)
            total = total - _merged(walk, node, rows, parts.pop(node.name, None))
            constant = self._signed(added[side], side).reshape(-1) if isinstance(added[side], Tensor) else ZERO
            back = [self._back(part[side], side) for part, _ in zip(sent, node.inputs, strict=False)]
            for value, part in zip(node.inputs, back, strict=False):
                if part is not None and value.perturbed:
                    parts[value.name].append(part)
                elif part is not None:
                    constant = constant + part @ constant_of(value).reshape(-1)
            total = total + constant - _loss(walk, node, rows, back, constant)
        for name, received in parts.items():
            rows = self._signed(walk.ends[name][side], side)
            rows = rows.reshape(len(rows), -1)
            total = total - _merged(walk, self.bounded[name], rows, received) + self._least(rows)
        return total

    def _signed(self, value: Tensor, side: int) -> Array:
        return -rational(value) if side else rational(value)

    def _back(self, part: Any, side: int) -> Array | None:
        if part is None:
            return None
        rows = self._signed(part, side)
        return rows.reshape(len(rows), -1)

    def _rows(self, node: Any, coefficients: Any, side: int) -> Array:
        """Coefficients as a matrix; those that only name places are written out."""
        if not isinstance(coefficients, Tensor):
            size = int(np.prod(node.output_shape))
            places = torch.arange(size) if type(coefficients).__name__ == "eyeC" else coefficients.index.reshape(-1)
            coefficients = torch.eye(size, dtype=torch.float64)[places]
        rows = self._signed(coefficients, side)
        return rows.reshape(len(rows), -1)

    def _least(self, rows: Array) -> Array:
        """The least value on the ball, (rows,)."""
        ball, norm = self.ball, self.engine.norm
        low, high = rational(ball.x_L).reshape(-1), rational(ball.x_U).reshape(-1)
        if norm is Norm.LINF:
            return np.minimum(rows * low, rows * high).sum(1)
        centre, radius = rational(self.centre).reshape(-1), Fraction(self.radius)
        width = SQRT((rows * rows).sum(1)) if norm is Norm.L2 else abs(rows).max(1)
        return rows @ centre - radius * width


def _merged(walk: Walk, node: Any, rows: Array, received: list[Array] | None) -> Any:
    """What adding up the coefficients from several nodes can cost."""
    return ZERO if received is None else abs(rows - sum(received)) @ rational(walk.reach[node.name]).reshape(-1)


def _loss(walk: Walk, node: Any, rows: Array, back: list[Array | None], constant: Any) -> Any:
    """The largest (what was sent back) v + constant - rows f(v), (rows,)."""
    if type(node).__name__ in RELAXED:
        assert back[0] is not None
        interval = [rational(end).reshape(-1) for end in walk.intervals[node.name]]
        worst = _bent if type(node).__name__ in BENT else _pooled
        return constant + worst(node, interval, rows, back[0])
    matrices, offset = affine(node)
    loss = constant - rows @ offset
    for value, part, matrix in zip(node.inputs, back, matrices, strict=False):
        if part is not None and value.perturbed:
            loss = loss + abs(part - rows @ matrix) @ rational(walk.reach[value.name]).reshape(-1)
    return loss


def _points(node: Any, interval: list[Array], rows: Array, back: Array) -> Iterator[Array]:
    """Places in the interval of each value: the ends, zero, and for curves where their slope is that of the line."""
    low, high = interval
    yield low
    yield high
    yield np.minimum(np.maximum(low, ZERO), high)
    if type(node).__name__ in CURVES:
        steepest, stretch = CURVES[type(node).__name__]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.nan_to_num(back.astype(float) / rows.astype(float) / steepest, nan=1.0)
            touch = np.nan_to_num(stretch * np.arccosh(1 / np.sqrt(np.clip(share, 1e-300, 1.0))))
        yield np.minimum(np.maximum(EXACT(touch), low), high)
        yield np.minimum(np.maximum(-EXACT(touch), low), high)


def _bent(node: Any, interval: list[Array], rows: Array, back: Array) -> Array:
    worst = None
    for point in _points(node, interval, rows, back):
        off = back * point - rows * function(node, point)
        worst = off if worst is None else np.maximum(worst, off)
    assert worst is not None
    return worst.sum(1)


def function(node: Any, x: Array) -> Array:
    kind = type(node).__name__.removeprefix("Bound")
    return np.maximum(x, x * Fraction(getattr(node, "leaky_alpha", node.alpha))) if kind == "LeakyRelu" else ACTIVATIONS[kind](x)


def _windows(node: Any) -> list[list[int]]:
    """For each value of a max pooling, which values it is the largest of."""
    places = torch.arange(float(np.prod(node.inputs[0].output_shape))).reshape(node.inputs[0].output_shape)
    windows = torch.nn.functional.unfold(places.transpose(0, 1), node.kernel_size, stride=node.kernel_size)
    return windows.transpose(1, 2).reshape(int(np.prod(node.output_shape)), -1).long().tolist()  # type: ignore[no-any-return]


def _pooled(node: Any, interval: list[Array], rows: Array, back: Array) -> Array:
    """Each window by itself, its values at all ends that any of them has."""
    low, high = interval
    total = np.full(len(rows), ZERO)
    for out, window in enumerate(_windows(node)):
        ends = sorted({*low[window], *high[window]})
        choices = [[end for end in ends if low[i] <= end <= high[i]] for i in window]
        worst = None
        for values in itertools.product(*choices):
            off = back[:, window] @ np.array(values, dtype=object) - rows[:, out] * max(values)
            worst = off if worst is None else np.maximum(worst, off)
        assert worst is not None
        total = total + worst
    return total


def _in_order(bounded: Any) -> list[Any]:
    """The nodes of data, each after those that it reads; auto-LiRPA 0.7 puts some at the end."""
    found: dict[str, Any] = {}

    def visit(node: Any) -> None:
        if node.perturbed and node.name not in found:
            for value in node.inputs:
                visit(value)
            found[node.name] = node

    for node in bounded._modules.values():
        visit(node)
    return list(found.values())


def real_values(bounded: Any, x: Array) -> dict[str, Array]:
    """The values of all nodes at one input, flat, in rational arithmetic (curves to 60 digits)."""
    values: dict[str, Array] = {}
    for node in _in_order(bounded):
        kind, given = type(node).__name__, [values.get(value.name) for value in node.inputs]
        if kind == "BoundInput":
            values[node.name] = x.reshape(-1)
        elif kind == "BoundMaxPool":
            values[node.name] = np.array([max(given[0][i] for i in window) for window in _windows(node)], dtype=object)  # type: ignore[index]
        elif kind in BENT:
            assert given[0] is not None
            values[node.name] = function(node, given[0])
        else:
            matrices, offset = affine(node)
            pairs = zip(matrices, given, strict=False)
            values[node.name] = offset + sum(matrix @ value for matrix, value in pairs if value is not None and matrix is not None)
    return values


def affine(node: Any) -> tuple[list[Array | None], Array]:
    """The exact matrix of each data input, (outputs, inputs), and what is added."""
    kind, sizes = type(node).__name__, [int(np.prod(value.output_shape)) for value in node.inputs]
    outputs = int(np.prod(node.output_shape))
    constants = [None if value.perturbed else constant_of(value) for value in node.inputs]
    offset = np.full(outputs, ZERO)
    if kind in ("BoundReshape", "BoundFlatten", "BoundTranspose"):
        places = torch.arange(sizes[0]).reshape(node.inputs[0].output_shape)
        moved = places.permute(*node.perm) if kind == "BoundTranspose" else places
        return [EXACT(np.eye(sizes[0]))[moved.reshape(-1).numpy()]], offset
    if kind in ("BoundAdd", "BoundSub"):
        signs = [1, -1 if kind == "BoundSub" else 1]
        for sign, constant in zip(signs, constants, strict=True):
            offset = offset if constant is None else offset + sign * constant.reshape(-1)
        return [sign * EXACT(np.eye(outputs)) for sign in signs], offset
    if kind in ("BoundMul", "BoundDiv"):
        (place,) = (i for i, constant in enumerate(constants) if constant is not None)
        factor = constants[place].reshape(-1)  # type: ignore[union-attr]
        matrix = EXACT(np.eye(outputs)) * (1 / factor if kind == "BoundDiv" else factor)
        return [None if i == place else matrix for i in range(2)], offset
    if kind == "BoundGlobalAveragePool":
        return [np.kron(EXACT(np.eye(outputs)), np.full((1, sizes[0] // outputs), Fraction(outputs, sizes[0])))], offset
    assert kind in ("BoundLinear", "BoundConv"), kind
    with torch.no_grad():
        units = torch.eye(sizes[0], dtype=torch.float64).reshape(sizes[0], *node.inputs[0].output_shape[1:])
        weight = node.inputs[1].forward()
        if kind == "BoundLinear":
            matrix = rational(weight if node.transB else weight.T)
        else:  # every entry is one weight, or zero
            matrix = rational(torch.nn.functional.conv2d(units, weight, None, node.stride, node.padding, node.dilation, node.groups))
            matrix = matrix.reshape(sizes[0], -1).T
    if constants[2:]:
        offset = np.repeat(constants[2].reshape(-1), outputs // constants[2].size)  # type: ignore[union-attr]
    return [matrix], offset
