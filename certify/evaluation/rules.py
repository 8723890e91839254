"""What each operator does to an error: one rule for each kind, for inputs that are known within an error.

A rule gives two bounds for every number of the output: how far the operator in real arithmetic can carry its inputs' errors, and how far
the computed output is from the operator in real arithmetic at the computed inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce, singledispatch

import numpy as np
import torch
from torch import Tensor

from certify.evaluation.float64 import EXTRA, LARGEST, SMALL, Unknown, gamma, in_range
from certify.graph.operators import Operator
from certify.graph.operators.arithmetic import Arithmetic, Where
from certify.graph.operators.convolution import Conv, ConvTranspose
from certify.graph.operators.image import Resize
from certify.graph.operators.linear import LeftMatMul, Linear
from certify.graph.operators.normalisation import BatchNormalization
from certify.graph.operators.pad import Pad
from certify.graph.operators.pooling import AveragePool, GlobalPool, MaxPool
from certify.graph.operators.product import Einsum, MatMul
from certify.graph.operators.reduction import CumSum, Reduce, Softmax
from certify.graph.operators.shape import Movement


@dataclass(frozen=True)
class Point:
    """A computed value, and for each of its numbers a bound of the distance from real arithmetic."""

    value: Tensor  # (1, *shape), float64
    error: Tensor  # (1, *shape), float64


Weights = Mapping[str, Tensor]
Bounds = tuple[Tensor, Tensor]  # carried over from the inputs, and made by the operator: (1, *shape) each


@singledispatch
def rule(
    operator: Operator,
    weights: Weights,
    made: Tensor,  # (1, *shape of the output), as computed
    *x: Point,
) -> Bounds:
    """
    Raises:
        Unknown: there is no rule, or none for these values.
    """
    raise Unknown(f"({operator.type}) has no rounding rule")


@rule.register
def _(operator: Movement, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    """Values are moved and never computed; those that come from the file are exact."""
    plain = replace(operator, value=0.0) if isinstance(operator, Pad) else operator
    nothing = {name: value * 0 if value.is_floating_point() else value for name, value in weights.items()}
    return plain.evaluate(nothing, *(one.error for one in x)), torch.zeros_like(made)


def _terms(operator: Operator, weights: Weights) -> int:
    """How many products an output of a linear operator adds up, at most."""
    match operator:
        case Linear() | LeftMatMul():
            return int(weights["weight"].shape[1])
        case Conv():
            return math.prod(weights["weight"].shape[1:])
        case ConvTranspose():
            return math.prod(weights["weight"].shape[2:]) * int(weights["weight"].shape[0]) // operator.groups
        case MatMul() if len(operator.inputs) == 1:
            return operator.inner
        case Einsum() if len(operator.inputs) == 1:
            return operator.work // math.prod(operator.shape) + 2 * len(operator.order)
        case Resize():
            return sum(int(matrix.shape[1]) + 1 for matrix in weights.values())
        case AveragePool():
            return math.prod(operator.window.kernel)
        case Reduce() if operator.type in ("ReduceSum", "ReduceMean"):
            return math.prod(operator.sources[0][dim - 1] for dim in operator.dims)
        case GlobalPool() if operator.type == "GlobalAveragePool":
            return math.prod(operator.sources[0][1:])
        case CumSum():
            return operator.sources[0][operator.dim - 1]
    raise Unknown(f"({operator.type}) has no rounding rule")


def _magnitudes(operator: Operator, weights: Weights) -> tuple[Operator, Weights]:
    """A linear operator with |W| in place of W."""
    plain = replace(operator, alpha=abs(operator.alpha), beta=abs(operator.beta)) if isinstance(operator, Linear) else operator
    return plain, {name: value.abs() for name, value in weights.items()}


@rule.register(AveragePool)
@rule.register(Conv)
@rule.register(ConvTranspose)
@rule.register(CumSum)
@rule.register(Einsum)
@rule.register(LeftMatMul)
@rule.register(Linear)
@rule.register(MatMul)
@rule.register(Resize)
def linear(operator: Operator, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    """|W| error, and gamma_n (|W| |x| + |b|); where weights are off by D, with |W| + D for |W|, and D |x| besides."""
    terms = _terms(operator, weights)
    plain, sizes = _magnitudes(operator, weights)
    off = _off(operator, made)
    sizes = {name: value + off[name] if name in off else value for name, value in sizes.items()}
    without_bias = {name: value for name, value in sizes.items() if name != "bias"}
    carried = plain.evaluate(without_bias, x[0].error)
    mass = plain.evaluate(sizes, x[0].value.abs())
    own = gamma(terms + EXTRA) * mass + SMALL
    in_range(mass)
    if off:
        nothing = {name: torch.zeros_like(value) for name, value in weights.items()}
        own = own + _moved(plain, {**nothing, **off}, sizes, x[0].value.abs())
    return carried, own


def _moved(
    plain: Operator,
    off: Weights,
    sizes: Weights,
    x: Tensor,  # (1, *shape), magnitudes
) -> Tensor:
    """How far weights that are off move a linear operator; of several matrices in a row each in turn, the others at their largest."""
    if not isinstance(plain, Resize):
        return plain.evaluate(off, x)
    return sum((plain.evaluate({**sizes, name: off[name]}, x) for name in off), torch.zeros(()))


def _off(
    operator: Operator,
    like: Tensor,  # (*any), whose type and device are taken
) -> dict[str, Tensor]:
    """How far weights that nodes on constants made can be off; empty where each stands in the file."""
    return {name: torch.from_numpy(np.array(error)).to(like) for name, error in operator.loose.errors().items()}


@rule.register(MaxPool)
def _(operator: MaxPool, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    """A maximum is off by at most the largest error in its window; it rounds nothing."""
    return operator.evaluate(weights, x[0].error), torch.zeros_like(made)


@rule.register(GlobalPool)
def _(operator: GlobalPool, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    if operator.type == "GlobalMaxPool":
        return operator.evaluate(weights, x[0].error), torch.zeros_like(made)
    return linear(operator, weights, made, *x)


@rule.register(Reduce)
def _(operator: Reduce, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    largest = replace(operator, type="ReduceMax")
    terms = math.prod(operator.sources[0][dim - 1] for dim in operator.dims)
    if operator.type in ("ReduceMax", "ReduceMin"):
        return largest.evaluate({}, x[0].error), torch.zeros_like(made)
    if operator.type in ("ReduceL1", "ReduceL2"):
        return operator.evaluate({}, x[0].error), gamma(terms + EXTRA) * made + SMALL
    if operator.type == "ReduceLogSumExp":
        size = largest.evaluate({}, x[0].value.abs())
        return largest.evaluate({}, x[0].error), exponentials(terms) * (1 + size + made.abs())
    return linear(operator, weights, made, *x)


def exponentials(terms: int) -> float:
    """Relative error of a sum of exponentials of differences t from the largest, of whose terms exp(t) each is off by |t| exp(t) u."""
    return gamma(2 * terms + 8 * EXTRA)


@rule.register
def _(operator: Softmax, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    """A share p moves by at most 2 p (1 - p) of the largest error, its logarithm by at most twice the largest error."""
    dims = tuple(range(operator.first, operator.last + 1))
    terms = math.prod(operator.sources[0][dim - 1] for dim in dims)
    error, size = (part.amax(dims, keepdim=True).expand_as(made) for part in (x[0].error, x[0].value.abs()))
    if operator.type == "Softmax":
        return error / 2, torch.full_like(made, exponentials(terms))
    return error * 2, exponentials(terms) * (1 + 2 * size + made.abs())


@rule.register
def _(operator: BatchNormalization, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    """Whichever way the formula is arranged: |x| scale / std, mean scale / std and the bias are rounded, then added."""
    channels = (-1, *(1,) * (made.dim() - 2))
    kept = {name: value.reshape(channels) for name, value in weights.items()}
    factor = (kept["scale"] / torch.sqrt(kept["var"] + operator.epsilon)).abs()
    mass = factor * (x[0].value.abs() + kept["mean"].abs()) + kept["bias"].abs()
    in_range(mass, factor, 1 / torch.sqrt(kept["var"] + operator.epsilon))
    own = gamma(EXTRA) * mass + SMALL
    if operator.loose.sizes:
        scale, shift = (torch.from_numpy(operator.line_off(name)).to(made).reshape(channels) for name in ("scale", "shift"))
        own, factor = own + scale * x[0].value.abs() + shift, factor + scale
        in_range(own, factor)
    return factor * x[0].error, own


@rule.register
def _(operator: Where, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    if operator.views[0] is not None:
        raise Unknown("(Where) chooses by data")
    errors = {name: value if name == "0" else value * 0 for name, value in weights.items()}
    return operator.evaluate(errors, *(one.error for one in x)).expand_as(made), torch.zeros_like(made)


@rule.register
def _(operator: Arithmetic, weights: Weights, made: Tensor, *x: Point) -> Bounds:  # made: (1, *shape)
    values = operator.values(weights, tuple(one.value for one in x))
    nothing = {name: torch.zeros_like(value) for name, value in weights.items()}
    errors = operator.values({**nothing, **_off(operator, made)}, tuple(one.error for one in x))
    in_range(*(value.abs() for value in values))
    size = made.abs()
    match operator.type:
        case "Max" | "Min":
            carried, own = reduce(torch.maximum, errors), torch.zeros_like(size)
        case "Add" | "Sub":
            carried, own = errors[0] + errors[1], gamma(2) * size
        case "Sum" | "Mean":
            share = 1 / len(values) if operator.type == "Mean" else 1.0
            mass = reduce(torch.add, [value.abs() for value in values])
            carried, own = share * reduce(torch.add, errors), gamma(len(values) + 2) * share * mass
        case "Mul":
            (a, b), (da, db) = values, errors
            carried, own = a.abs() * db + da * b.abs() + da * db, gamma(2) * size + SMALL
        case "Div":
            carried, own = _quotient(values[1].abs() - errors[1], size, errors), gamma(2) * size + SMALL
        case _:
            raise Unknown(f"({operator.type}) has no rounding rule")
    return carried.expand_as(made), own.expand_as(made)


def _quotient(
    least: Tensor,  # (1, *shape), the least magnitude of the denominator
    size: Tensor,  # (1, *shape), of the quotient
    errors: list[Tensor],
) -> Tensor:
    if not bool((least > 1 / LARGEST).all()):
        raise Unknown("divides by what may be zero")
    return (errors[0] + (size * (1 + gamma(2)) + SMALL) * errors[1]) / least
