"""What composition works with: a linear map from a base tensor, as a kernel while it can be one, or read off as a matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify.lipschitz.constant import Rounding, Work
from certify.lipschitz.kernel import Kernel, Shape, composed, summed
from certify.lipschitz.parts import Chain, Moved, Scaled

Array = np.ndarray[Any, Any]

_CHUNK = 2**23  # values of the largest tensor made at once


@dataclass(frozen=True)
class Form:
    """A linear map from a base tensor as a kernel; `moved` when its values have got other places since, which changes no norm."""

    kernel: Kernel
    moved: bool = False

    @classmethod
    def identity(cls, shape: Shape) -> Form:
        return cls(Kernel.identity(shape or (1,)))

    def through(self, chain: Chain, made: Shape, work: Work) -> Form | None:
        """The map after these steps, which end in the shape `made`; null where it is no kernel."""
        form = self
        for part in chain:
            if isinstance(part, Moved):
                form = replace(form, moved=True)
                continue
            if isinstance(part, Scaled) and np.all(np.asarray(part.factor) == 1.0) and (form.moved or part.shape == form.kernel.target):
                continue  # as sums scale their terms; the kernel stays the same one, whose norm may be known
            if form.moved:
                # Places are not known any more: what treats all alike still fits.
                if not isinstance(part, Scaled) or np.asarray(part.factor).size != 1:
                    return None
                # One number; in the file it may have more axes than the kernel.
                number = np.reshape(part.factor, ())
                step = Scaled(number, form.kernel.target, part.terms).kernel(form.kernel.target)
            else:
                step = part.kernel(form.kernel.target)
            after = None if step is None else composed(form.kernel, step, work)
            if after is None:
                return None
            form = replace(form, kernel=after)
        return form if form.moved or form.kernel.target == (made or (1,)) else None

    def plus(self, other: Form) -> Form | None:
        """The sum of both; null where it is no kernel."""
        both = None if self.moved or other.moved else summed(self.kernel, other.kernel)
        return None if both is None else Form(both)


@dataclass(frozen=True)
class Step:
    """One linear operator: the sum over its inputs of their chains, but for a constant."""

    name: str
    inputs: tuple[str, ...]
    chains: tuple[Chain, ...]
    output: str
    shape: Shape
    flops: int

    def apply(self, values: Mapping[str, Tensor]) -> Tensor | None:  # (batch, *shape) each
        """(batch, *shape); null when no input is there."""
        total: Tensor | None = None
        for name, chain in zip(self.inputs, self.chains, strict=True):
            value = values.get(name)
            if value is None:
                continue
            for part in chain:
                value = part.apply(value)
            value = value.reshape(-1, *self.shape)
            total = value if total is None else total + value
        return total

    def rounding(self, before: Mapping[str, Rounding]) -> Rounding | None:
        """Of the output, from that of the inputs."""
        total: Rounding | None = None
        for name, chain in zip(self.inputs, self.chains, strict=True):
            if name not in before:
                continue
            after = before[name]
            for part in chain:
                after = after.then(part.rounding())
            total = after if total is None else total.plus(after)
        return total


@dataclass(frozen=True)
class Block:
    """The matrix from one base tensor, (values of the output, values of the base), and its error in the operator norm."""

    matrix: Array
    error: float


def blocks(steps: Sequence[Step], bases: Mapping[str, Shape], target: str) -> dict[str, Block]:
    """For each base the matrix that the steps make of it, in float64, read off column by column or row by row.

    Args:
        steps: in topological order, from the bases to `target`.
        bases: shape of each by name.

    Raises:
        NoConstant: a weight is not finite.
    """
    found = {}
    for base, shape in bases.items():
        error = _error(steps, base, target)
        wide = math.prod(shape) <= math.prod(steps[-1].shape)
        matrix = _columns(steps, base, shape, target) if wide else _rows(steps, base, shape, target)
        found[base] = Block(matrix, error)
    return found


def _error(steps: Sequence[Step], base: str, target: str) -> float:
    known = {base: Rounding()}
    for step in steps:
        after = step.rounding(known)
        if after is not None:
            known[step.output] = after
    # Read row by row, what several steps read is added up too: at most one sum for each of their inputs.
    joins = sum(len(step.inputs) for step in steps)
    total = known[target]
    return Rounding(total.terms + joins, total.magnitude).error


def _run(steps: Sequence[Step], base: str, value: Tensor, target: str) -> Tensor:  # value: (batch, *shape of the base)
    values = {base: value}
    for step in steps:
        made = step.apply(values)
        if made is not None:
            values[step.output] = made
    return values[target]


def _largest(steps: Sequence[Step], shape: Shape) -> int:
    return max(math.prod(shape), *(math.prod(step.shape) for step in steps))


def _columns(steps: Sequence[Step], base: str, shape: Shape, target: str) -> Array:
    """What is made of the unit vectors of the base."""
    size, chunk = math.prod(shape), max(1, _CHUNK // _largest(steps, shape))
    matrix = np.empty((math.prod(steps[-1].shape), size))
    for start in range(0, size, chunk):
        units = torch.eye(size, dtype=torch.float64)[start : start + chunk].reshape(-1, *shape)
        with torch.no_grad():
            matrix[:, start : start + chunk] = _run(steps, base, units, target).reshape(len(units), -1).numpy().T
    return matrix


def _rows(steps: Sequence[Step], base: str, shape: Shape, target: str) -> Array:
    """What the transposed map makes of the unit vectors of the output: its gradients."""
    count, chunk = math.prod(steps[-1].shape), max(1, _CHUNK // _largest(steps, shape))
    matrix = np.empty((count, math.prod(shape)))
    for start in range(0, count, chunk):
        units = torch.eye(count, dtype=torch.float64)[start : start + chunk]
        zero = torch.zeros(len(units), *shape, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            made = _run(steps, base, zero, target).reshape(len(units), -1)
            (gradient,) = torch.autograd.grad(made, zero, units)
        matrix[start : start + chunk] = gradient.reshape(len(units), -1).numpy()
    return matrix
