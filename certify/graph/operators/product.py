"""Products of tensors: MatMul in all its forms, and Einsum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from certify.graph.layout import Layout
from certify.graph.operators.affine import Dense
from certify.graph.operators.arithmetic import agreed, beside
from certify.graph.operators.base import MAX_TENSOR_ELEMENTS, Array, Node, Operator, Weights
from certify.graph.operators.linear import LeftMatMul, Linear
from certify.lipschitz.parts import Chain


@dataclass(frozen=True, kw_only=True)
class MatMul(Dense):
    """x @ y over the last two axes; the axes before them broadcast, the batch among them."""

    types = ("MatMul",)
    views: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    inner: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        if not node.is_data(1) and node.at_every_batch(1).fixed.ndim == 2:
            return Linear.of_matmul(node)
        if not node.is_data(0) and node.at_every_batch(0).fixed.ndim == 2:
            return LeftMatMul.read(node)
        ranks = [node.layout(i).rank if node.is_data(i) else node.at_every_batch(i).fixed.ndim for i in (0, 1)]
        if min(ranks) < 2:
            raise node.reject(f"of tensors of {ranks[0]} and {ranks[1]} axes is not supported")
        found = [cls._side(node, i, max(ranks)) for i in (0, 1)]
        layouts = agreed({i: side for i, side in enumerate(found) if isinstance(side, Layout)})
        sides = [layouts.get(i, side) for i, side in enumerate(found)]
        layout, inner = _multiplied(node, sides)
        constants = {str(i): beside(node, layout, i) for i, side in enumerate(sides) if isinstance(side, np.ndarray)}
        inputs = tuple(node.inputs[i] for i, side in enumerate(sides) if isinstance(side, Layout))
        left, right = (side.shape if isinstance(side, Layout) else None for side in sides)
        return cls(**cls.common(node, layout, inputs=inputs, weights=constants), views=(left, right), inner=inner)

    @staticmethod
    def _side(node: Node, position: int, rank: int) -> Layout | Array:
        if not node.is_data(position):
            return node.checked(position, node.at_every_batch(position).fixed)
        layout = node.layout(position).padded(rank)
        if layout.batch is not None and layout.batch >= rank - 2:
            raise node.across_batch()
        return layout

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, ..., rows, columns) each
        rest = iter(x)
        left, right = (weights[str(i)] if view is None else next(rest).reshape(-1, *view) for i, view in enumerate(self.views))
        return torch.matmul(left, right)

    @property
    def follows(self) -> bool:
        return True

    def parts(self) -> tuple[Chain, ...]:
        if len(self.inputs) == 2:
            raise self.no_constant("a product of two data tensors is not Lipschitz on an unbounded domain")
        return super().parts()

    @property
    def unbounded(self) -> str:
        return "a product of two data tensors" if len(self.inputs) == 2 else super().unbounded

    @property
    def flops(self) -> int:
        return 2 * math.prod(self.shape) * self.inner


def _multiplied(node: Node, sides: list[Layout | Array]) -> tuple[Layout, int]:
    """The layout of the product, and the length of the axis that is summed over."""
    layouts = [side for side in sides if isinstance(side, Layout)]
    first = layouts[0]
    if any((side.batch, side.outer, side.merged) != (first.batch, first.outer, first.merged) for side in layouts):
        raise node.across_batch()
    shapes = [side.sizes if isinstance(side, Layout) else side.shape for side in sides]
    try:
        front = tuple(np.broadcast_shapes(shapes[0][:-2], shapes[1][:-2]))
    except ValueError:
        front = ()
    if shapes[0][-1] != shapes[1][-2] or _moves_batch(first, front):
        raise node.reject(f"cannot multiply shapes {list(shapes[0])} and {list(shapes[1])}")
    if len(front) != first.rank - 2:
        raise node.reject(f"cannot multiply shapes {list(shapes[0])} and {list(shapes[1])}")
    return first.resized((*front, shapes[0][-2], shapes[1][-1])), int(shapes[0][-1])


def _moves_batch(layout: Layout, front: tuple[int, ...]) -> bool:
    return layout.batch is not None and front[layout.batch : layout.batch + 1] != (layout.sizes[layout.batch],)


_RUN_TIME_BATCH = "Z"
_MAX_OPERANDS = 4


@dataclass(frozen=True, kw_only=True)
class Einsum(Dense):
    """A sum of products by letters; the batch has a letter of its own, which every data input and the output carry."""

    types = ("Einsum",)
    equation: str
    order: tuple[bool, ...]  # for each operand, whether it is data
    work: int

    @classmethod
    def read(cls, node: Node) -> Operator:
        operands, output = _terms(node)
        layouts = {i: node.layout(i) for i in range(len(operands)) if node.is_data(i)}
        constants = {str(i): node.weight(i) for i in range(len(operands)) if i not in layouts}
        sizes = _letter_sizes(node, operands)
        if any(letter not in sizes for letter in output) or (len(operands) > 2 and math.prod(sizes.values()) > MAX_TENSOR_ELEMENTS):
            raise node.reject(f"cannot make {output!r} of shapes {[list(layout.shape) for layout in layouts.values()]}")
        batch, first = _batch_letter(node, operands, layouts), next(iter(layouts.values()))
        if batch and (batch not in output or any(batch in operands[int(i)] for i in constants)):
            raise node.across_batch()
        layout = Layout(tuple(sizes[letter] for letter in output), output.index(batch) if batch else None, first.outer)
        alone = "" if first.merged else batch  # a batch that is an axis of its own is the run-time batch
        terms = [_RUN_TIME_BATCH + _less(term, alone) if i in layouts else term for i, term in enumerate(operands)]
        return cls(
            **cls.common(node, layout, inputs=tuple(node.inputs[i] for i in layouts), weights=constants),
            equation=f"{','.join(terms)}->{_RUN_TIME_BATCH}{_less(output, alone)}",
            order=tuple(i in layouts for i in range(len(operands))),
            work=len(operands) * math.prod(sizes.values()),
        )

    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape) each
        rest = iter(x)
        return torch.einsum(self.equation, *(next(rest) if data else weights[str(i)] for i, data in enumerate(self.order)))

    @property
    def follows(self) -> bool:
        return not self.made_of()

    def parts(self) -> tuple[Chain, ...]:
        if len(self.inputs) > 1:
            raise self.no_constant("a product of data tensors is not Lipschitz on an unbounded domain")
        if self.made_of():
            raise self.no_constant("multiply its constants together before the export")
        return super().parts()

    @property
    def unbounded(self) -> str:
        return super().unbounded if len(self.inputs) == 1 else "a product of several data tensors"

    def made_of(self) -> Weights:
        """An entry of the matrix is a sum over the letters that neither data nor output have; one that is a single weight is exact."""
        left, output = self.equation.split("->")
        terms, sizes = left.split(","), dict[str, int]()
        for i, weight in self.weights.items():
            sizes |= zip(terms[int(i)], weight.shape, strict=True)
        seen = output + "".join(term for term, data in zip(terms, self.order, strict=True) if data)
        count = math.prod(size for letter, size in sizes.items() if letter not in seen)
        if count == len(self.weights) == 1:
            return {}
        size = replace(self, weights={i: np.abs(weight) for i, weight in self.weights.items()})._matrix()
        return {"0_0": size[:, :, None, None] * max(1.0, (count + len(terms)) / 8)}

    @property
    def flops(self) -> int:
        return self.work


def _less(term: str, letter: str) -> str:
    return term.replace(letter, "") if letter else term


def _terms(node: Node) -> tuple[list[str], str]:
    """The letters of each operand and of the output."""
    equation = node.attributes.get("equation", b"").decode(errors="replace").replace(" ", "")
    left, arrow, output = equation.partition("->")
    operands = left.split(",")
    known = all(term.isalpha() and _RUN_TIME_BATCH not in term and len(set(term)) == len(term) for term in [*operands, output])
    if not arrow or not known or len(operands) != len(node.inputs) or len(operands) > _MAX_OPERANDS:
        raise node.reject(f"has the equation {equation[:80]!r}", "write one letter for each axis and an explicit output")
    return operands, output


def _batch_letter(node: Node, operands: list[str], layouts: dict[int, Layout]) -> str:
    """The letter of the batch; empty in a file for a batch of one that has reshaped it away."""
    if any(
        (a.merged, a.outer, a.batch is None) != (b.merged, b.outer, b.batch is None) for a in layouts.values() for b in layouts.values()
    ):
        raise node.across_batch()
    letters = {operands[i][layout.batch] for i, layout in layouts.items() if layout.batch is not None}
    if len(letters) > 1:
        raise node.across_batch()
    return next(iter(letters), "")


def _letter_sizes(node: Node, operands: list[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for i, term in enumerate(operands):
        shape = node.layout(i).sizes if node.is_data(i) else node.constant(i).shape
        if len(shape) != len(term) or any(sizes.setdefault(letter, size) != size for letter, size in zip(term, shape, strict=True)):
            raise node.reject(f"has an operand of shape {list(shape)} for the letters {term[:40]!r}")
    return sizes
