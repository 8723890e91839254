"""How far the values that a network computes can be from real arithmetic, known before anything is computed.

Every operator hands on three things about each value v of its output, over a whole box of inputs: an interval that holds v in real
arithmetic, and how far from v the computed value can be. A sum of n products carries at most gamma_n = n u / (1 - n u) of the sum of
their magnitudes, in any order, with or without fused multiplication and addition, with or without subnormal numbers.

What is assumed of the arithmetic: IEEE operations of the dtype, rounded to nearest; convolutions and matrix products as sums of products
(not Winograd, Fourier or Strassen, and not TF32 or another shorter type); `sigmoid` and `tanh` within `LIBRARY` units. A normalisation or
constant may be folded into the convolution or matrix product before or after it, and a residual sum added to it, as optimisers do. Folded
weights may become subnormal, or zero: what that costs is counted (`Row`). Weights that the file itself makes of constants count with all
that a runtime may fold them to (`Operator.loose`).

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.1 and 3.5 (gamma_n, matrix products); the composition over layers
is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from itertools import starmap

import numpy as np
import torch
from torch import Tensor

from certify.bounds.forward_terms import UP, Format, Row, Unknown
from certify.evaluation.float64 import LIBRARY
from certify.graph.graph import Graph
from certify.graph.operators import Operator
from certify.graph.operators.activation import Activation, LeakyRelu
from certify.graph.operators.arithmetic import Arithmetic
from certify.graph.operators.base import as_tensor
from certify.graph.operators.convolution import Conv
from certify.graph.operators.linear import Linear
from certify.graph.operators.normalisation import BatchNormalization
from certify.graph.operators.pooling import AveragePool, GlobalPool, MaxPool
from certify.graph.operators.shape import Reshape, Transpose

# Roundings besides those of a sum itself: of folded constants, and of an elementwise formula in whichever form.
_EXTRA = 12
_FLOAT64 = 2.0**-53


@dataclass(frozen=True)
class ErrorBound:
    """The largest rounding error of each logit, over all inputs of a box; infinite, with the operator that stood in the way, if unknown."""

    logits: Tensor  # (classes,), float64, same unit as the logits
    reason: str = ""

    def margin(self, label: int) -> float:
        """The largest rounding error of any logit[label] - logit[rival], the subtraction itself not counted."""
        rivals = self.logits.clone()
        rivals[label] = 0.0
        return float(self.logits[label] + rivals.max()) * UP


def forward_error(
    graph: Graph,
    low: Tensor,  # (*input), float64, raw input units
    high: Tensor,  # (*input), float64
    dtype: torch.dtype,
) -> ErrorBound:
    """For every real input of the box, no logit computed in `dtype` is farther from the real one than this, in any summation order.

    The error of rounding the input to `dtype` is included. Real means: the uploaded weights in real arithmetic. Proved, under the
    assumptions at the top of this file. An operator without a rule, or values beyond the range of `dtype`, give infinity.
    """
    rule = Format.of(dtype)
    return _through(graph, rule, _start(rule, low, high))


@dataclass(frozen=True)
class _Values:
    """What is known of one tensor: the real values lie in [low, high], the computed ones within `error` of the real ones.

    `terms` counts the roundings in which a constant folded into the sum that made it would take part; `folds` says what it would cost.
    """

    low: Tensor  # (1, *shape), float64, as the others
    high: Tensor
    error: Tensor
    terms: int = 0
    folds: Row | None = None

    @property
    def run(self) -> Row:
        """The row of constants that ends here; a new one after anything else."""
        return self.folds or Row(float(self.reach.max()))

    @property
    def size(self) -> Tensor:
        """The largest magnitude of a real value."""
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def reach(self) -> Tensor:
        """The largest magnitude of a computed value."""
        return (self.size + self.error) * UP


_LIPSCHITZ = {"Sigmoid": 0.25, "Tanh": 1.0}


def _start(
    rule: Format,
    low: Tensor,  # (*input)
    high: Tensor,  # (*input)
) -> _Values:
    box = _Values(low.unsqueeze(0), high.unsqueeze(0), torch.zeros_like(low).unsqueeze(0))
    return replace(box, error=(rule.gamma(1) * box.size + rule.tiny) * UP)


@torch.no_grad()
def _through(graph: Graph, rule: Format, start: _Values) -> ErrorBound:
    """The errors of the logits; infinity from the first operator for which there is none."""
    values, last = {graph.input: start}, graph.last_uses()
    for position, operator in enumerate(graph.operators):
        x = tuple(values[name] for name in operator.inputs)
        try:
            if operator.unbounded:
                raise Unknown(f"is {operator.unbounded}, for which there is no rule")
            found = _rule(operator, rule, *x)
            rule.check(found.reach)
        except Unknown as unknown:
            infinite = torch.full((graph.classes,), math.inf, dtype=torch.float64)
            return ErrorBound(infinite, f"{operator.name} {unknown}")
        values[operator.output] = found
        for name in [name for name in set(operator.inputs) if last[name] == position and name != graph.output]:
            del values[name]
    return ErrorBound(values[graph.output].error[0])


def _outward(
    low: Tensor,  # (1, *shape), computed in float64
    high: Tensor,  # (1, *shape)
    size: Tensor,  # (1, *shape), the sum of the magnitudes that were added up for them
    error: Tensor,  # (1, *shape)
    terms: int = 1,
    *,
    folded: int = 0,
    folds: Row | None = None,
) -> _Values:
    """Values whose interval was computed with `terms` roundings of its own in float64, made wider by them."""
    slack = 2 * (terms + _EXTRA) * _FLOAT64 * size + torch.finfo(torch.float64).tiny
    return _Values(low - slack, high + slack, error * UP, folded, folds)


def _off(operator: Operator) -> dict[str, Tensor]:
    """How far the weights of any runtime, and the real ones, can be from those that are used here; empty where each stands in the file."""
    if operator.loose.unknown or operator.loose.undecided:
        raise Unknown(operator.loose.unknown or operator.loose.undecided)
    kinds = (operator.loose.errors(), operator.loose.spreads)
    names = dict.fromkeys(name for kind in kinds for name in kind)
    nothing = np.zeros(1)
    return {name: torch.from_numpy(np.array(sum(kind.get(name, nothing) for kind in kinds), np.float64)) * UP for name in names}


@singledispatch
def _rule(operator: Operator, rule: Format, *x: _Values) -> _Values:
    raise Unknown("has no rounding rule")


@_rule.register(Reshape)
@_rule.register(Transpose)
def _(operator: Reshape | Transpose, rule: Format, *x: _Values) -> _Values:
    low, high, error = (operator.evaluate({}, part) for part in (x[0].low, x[0].high, x[0].error))
    return _Values(low, high, error, x[0].terms, x[0].folds)


def _absolutely(
    operator: Linear | Conv,
    weights: Mapping[str, Tensor],
    x: Tensor,  # (rows, *shape of the input)
    *,
    bias: bool = False,
) -> Tensor:
    """The operator with |W| in place of W, and |b| or nothing in place of b: (rows, *shape)."""
    plain = replace(operator, alpha=abs(operator.alpha), beta=abs(operator.beta)) if isinstance(operator, Linear) else operator
    return plain.evaluate({name: value.abs() for name, value in weights.items() if bias or name != "bias"}, x)


@_rule.register(Linear)
@_rule.register(Conv)
def _(operator: Linear | Conv, rule: Format, *x: _Values) -> _Values:
    """|W| error + gamma_n (|W| reach + |b|): n counts products, the bias, and what may be folded in.

    Where weights may be off by D, |W| + D stands for |W|, and D reach is added.
    """
    v, weights = x[0], {name: as_tensor(value, torch.float64) for name, value in operator.weights.items()}
    off = _off(operator)
    nothing = {name: torch.zeros_like(value) for name, value in weights.items()}
    apart = _absolutely(operator, {**nothing, **off}, v.reach, bias=True)
    largest = {name: value.abs() + off.get(name, 0.0) for name, value in weights.items()}
    around, size, error = _absolutely(operator, largest, torch.cat([(v.high - v.low) / 2, v.size, v.error])).chunk(3)
    middle = operator.evaluate(weights, (v.low + v.high) / 2)
    weight, shift = largest["weight"], _absolutely(operator, largest, torch.zeros_like(v.low), bias=True)
    terms, run = math.prod(weight.shape[1:]), v.run
    mass = (size + error + shift) * UP
    rule.check(mass)
    around, error = around + apart, error + apart
    factors = (abs(operator.alpha), abs(operator.beta)) if isinstance(operator, Linear) else ()
    heaviest = float(weight.max()) * max((1.0, *factors[:1]))
    # A product of subnormals, or one that is too small, may be lost whole: both factors are off by at most `tiny`.
    lost = 2 * terms * rule.tiny * (run.bare + run.gain * (heaviest + 8)) * max((1.0, *factors))
    error = error + rule.gamma(terms + _EXTRA) * mass + lost
    folds = run.multiplied(rule, heaviest, terms, mass)
    return _outward(middle - around, middle + around, size + shift, error, terms, folded=terms + 1, folds=folds)


@_rule.register
def _(operator: BatchNormalization, rule: Format, *x: _Values) -> _Values:
    """Whichever way the formula is arranged: |x| scale / std, mean scale / std and the bias are rounded, then added."""
    channels = (-1, *(1,) * (len(operator.shape) - 1))
    kept = {name: as_tensor(value, torch.float64).reshape(channels) for name, value in operator.weights.items()}
    if bool((kept["var"] < 0).any()) or bool((kept["var"] + operator.epsilon < rule.tiny).any()):
        raise Unknown("has a variance too small for the floating-point format")
    off = {name: value.numpy() for name, value in _off(operator).items()}
    apart = [torch.from_numpy(operator.line_off(name, off)).reshape(channels) for name in ("scale", "shift")] if off else None
    inverse, mean, scale = 1 / torch.sqrt(kept["var"] + operator.epsilon), kept["mean"].abs(), kept["scale"].abs()
    factor, v = kept["scale"] * inverse, x[0]
    middle = factor * ((v.low + v.high) / 2 - kept["mean"]) + kept["bias"]
    moved = apart[0] * v.reach + apart[1] if apart else torch.zeros_like(middle)
    largest = factor.abs() + (apart[0] if apart else 0.0)
    around, mass = largest * (v.high - v.low) / 2 + moved, largest * (v.reach + mean) + kept["bias"].abs() + moved
    rule.check(mass, (v.reach + mean) * inverse, (v.reach + mean) * scale, largest, mean * inverse)
    lost = 8 * rule.tiny * (1 + v.reach + mean) * (1 + inverse) * (1 + scale) + v.run.lost(rule)
    error = largest * v.error + rule.gamma(v.terms + _EXTRA) * mass + lost + moved
    folds = v.run.scaled(rule, max(1.0, float(scale.max())) * max(1.0, float(inverse.max())), mass)
    return _outward(middle - around, middle + around, mass, error, folded=v.terms + 2, folds=folds)


@_rule.register
def _(operator: Arithmetic, rule: Format, *x: _Values) -> _Values:
    if operator.type not in ("Add", "Sub", "Mul", "Div"):
        raise Unknown("has no rounding rule")
    kept = {name: as_tensor(value, torch.float64) for name, value in operator.weights.items()}
    off = {name: torch.zeros_like(value) for name, value in kept.items()} | _off(operator)
    if operator.type in ("Mul", "Div"):
        return _scaled(rule, x[0], next(iter(kept.values())), next(iter(off.values())), divided=operator.type == "Div")
    ends = ({name: value - off[name] for name, value in kept.items()}, {name: value + off[name] for name, value in kept.items()}, off)
    parts = (tuple(getattr(v, part) for v in x) for part in ("low", "high", "error"))
    rows = zip(*(operator.values(w, part) for w, part in zip(ends, parts, strict=True)), strict=True)
    first, second = starmap(_Values, rows)
    if operator.type == "Sub":
        second = replace(second, low=-second.high, high=-second.low)
    terms, mass = sum(v.terms for v in x), first.reach + second.reach
    rule.check(mass)
    error = first.error + second.error + rule.gamma(terms + _EXTRA) * mass + 4 * rule.tiny
    runs = [v.run for v in x]
    folds = (
        replace(runs[0], bare=runs[0].bare + float(mass.max()), count=runs[0].count + 1, since=runs[0].since + 1)
        if len(runs) == 1
        else runs[0].plus(runs[1])
    )
    return _outward(first.low + second.low, first.high + second.high, mass, error, folded=terms + 2, folds=folds.checked(rule))


def _scaled(
    rule: Format,
    v: _Values,
    constant: Tensor,  # (*shape), or axes of length 1
    off: Tensor,  # (*shape) likewise, how far it may be from that of a runtime and from the real one
    *,
    divided: bool,
) -> _Values:
    """A product with a constant, or a quotient, which may be computed as a product with the inverse."""
    if divided and bool((constant.abs() - off < rule.tiny).any()):
        raise Unknown("divides by a number too small for the floating-point format")
    factor = 1 / constant if divided else constant
    apart = off / (constant.abs() * (constant.abs() - off)) if divided else off
    largest = factor.abs() + apart
    ends, mass, moved = (factor * v.low, factor * v.high), largest * v.reach, apart * v.reach
    rule.check(mass, largest)
    lost = 4 * rule.tiny * (1 + v.reach) * (1 + largest) + v.run.lost(rule)
    error = largest * v.error + rule.gamma(v.terms + _EXTRA) * mass + lost + moved
    folds = v.run.scaled(rule, float(largest.max()), mass)
    low, high = torch.minimum(*ends) - moved, torch.maximum(*ends) + moved
    return _outward(low, high, mass, error, folded=v.terms + 2, folds=folds)


@_rule.register
def _(operator: Activation, rule: Format, *x: _Values) -> _Values:
    if operator.type == "Relu":
        return _leaky(rule, x[0], 0.0)
    if operator.type not in _LIPSCHITZ:
        raise Unknown("has no rounding rule")
    v, steepest = x[0], _LIPSCHITZ[operator.type]
    # Both derivatives are steepest / cosh^2: of x for tanh, of x / 2 for the sigmoid. They fall away from zero.
    nearest = torch.minimum(torch.maximum(torch.zeros_like(v.low), v.low - v.error), v.high + v.error)
    slope = steepest / torch.cosh(nearest if operator.type == "Tanh" else nearest / 2) ** 2 + 1e-300
    low, high = (operator.evaluate({}, end) for end in (v.low, v.high))
    error = slope * v.error + LIBRARY * rule.unit + rule.tiny
    return _outward(low, high, torch.full_like(low, LIBRARY), error)


@_rule.register
def _(operator: LeakyRelu, rule: Format, *x: _Values) -> _Values:
    if not 0.0 <= operator.slope <= 1.0:
        raise Unknown(f"has a slope of {operator.slope:g}, for which there is no rounding rule")
    return _leaky(rule, x[0], operator.slope)


def _leaky(rule: Format, v: _Values, slope: float) -> _Values:
    """Slopes in [0, 1], so that it is monotone. An error is scaled down where no computed value is above zero."""
    low, high = (torch.where(end > 0, end, slope * end) for end in (v.low, v.high))
    error = torch.where(v.high + v.error < 0, slope, 1.0) * v.error + rule.gamma(_EXTRA) * slope * v.reach + 2 * rule.tiny
    return _outward(low, high, slope * v.size, error)


@_rule.register
def _(operator: MaxPool, rule: Format, *x: _Values) -> _Values:
    """A maximum is off by at most the largest error in its window; it rounds nothing."""
    low, high, error = operator.evaluate({}, torch.cat([x[0].low, x[0].high, x[0].error])).chunk(3)
    return _Values(low, high, error + rule.tiny)


@_rule.register(GlobalPool)
@_rule.register(AveragePool)
def _(operator: GlobalPool | AveragePool, rule: Format, *x: _Values) -> _Values:
    """A mean is a sum of at most so many terms, each of which may be divided before or after."""
    if operator.type not in ("GlobalAveragePool", "AveragePool"):
        raise Unknown("has no rounding rule")
    v, weights = x[0], {name: as_tensor(value, torch.float64) for name, value in operator.weights.items()}
    low, high, mass, error = operator.evaluate(weights, torch.cat([v.low, v.high, v.reach, v.error])).chunk(4)
    terms = math.prod(operator.window.kernel if isinstance(operator, AveragePool) else v.low.shape[2:])
    rule.check(terms * mass)
    error = error + rule.gamma(terms + _EXTRA) * mass + 2 * (terms + 1) * rule.tiny
    return _outward(low, high, mass, error, terms)
