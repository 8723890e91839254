"""An upper bound of the l2 Lipschitz constant from the raw graph input to any tensor of a graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from certify.graph.graph import Graph
from certify.lipschitz.composition import MAX_ENTRIES, Composition, Total, up
from certify.lipschitz.constant import NoConstant, Work, finite, gamma
from certify.lipschitz.forms import Block, blocks

BUDGET = 2e12  # floating-point operations of one walk through a graph
ONE = 2e11  # of one question that the walk has not answered


@dataclass(frozen=True)
class LayerBound:
    """One operator of the graph: what it costs.

    Args:
        constant: the factor that it puts between what it reads and what it makes; 1 where it is one operator with a later one.
        total: the bound from the graph input to its output; null where nobody asked, as it is one operator with a later one.
        how: in short words, how the constant was found.
        reason: why there is no constant; else empty.
    """

    name: str
    type: str
    output: str
    constant: float
    total: float | None
    how: str
    reason: str = ""


class Bounds:
    """Upper bounds of the l2 Lipschitz constants of a graph, from its raw input on the whole space, in real arithmetic.

    Runs of linear operators are one operator wherever that can be exact: a kernel (kernel.py) or a matrix (forms.py). Sums
    of branches add up, parts side by side add up in squares, everything else multiplies; the least of the sound routes counts.
    """

    def __init__(self, graph: Graph, budget: float) -> None:
        self.graph = graph
        self._parts = Composition(graph, budget)
        self._parts.walk()
        self._final: dict[str, Block] | None = None

    @classmethod
    def of(cls, graph: Graph, budget: float = BUDGET) -> Bounds:
        """The bounds of a graph. Work is counted, never timed: the same graph and budget have the same bounds."""
        return cls(graph, budget)

    def at(self, tensor: str) -> float:
        """At least the l2 Lipschitz constant from the graph input to this tensor.

        Raises:
            NoConstant: there is none; the operator that has none is named.
            KeyError: the graph has no such tensor.
        """
        if tensor not in self.graph.shapes:
            raise KeyError(tensor)
        found = self._parts.asked(tensor, ONE)
        if isinstance(found, NoConstant):
            raise found
        return found.total

    @property
    def layers(self) -> tuple[LayerBound, ...]:
        """One row for each operator in order, up to the first that has no constant."""
        rows: list[LayerBound] = []
        merged = self._merged()
        for operator in self.graph.operators:
            found = self._parts.totals.get(operator.output)
            named = (operator.name, operator.type, operator.output)
            if isinstance(found, NoConstant):
                rows.append(LayerBound(*named, math.inf, None, "", str(found)))
                break
            if found is not None:
                rows.append(LayerBound(*named, found.constant, found.total, found.how))
            else:
                rows.append(LayerBound(*named, 1.0, None, f"one operator with {merged.get(operator.output, 'a later one')}"))
        return tuple(rows)

    def pairwise(self, label: int) -> list[float]:
        """For each class j at least the l2 Lipschitz constant of logit `label` minus logit j; 0 at the label itself.

        Raises:
            NoConstant: as `at` of the logits.
        """
        whole = self.at(self.graph.output) * math.sqrt(2.0) * (1 + 1e-14)
        found = [whole] * self.graph.classes
        head = self._head()
        if head:
            total = np.zeros(self.graph.classes)
            for base, block in head.items():
                differences = block.matrix[label] - block.matrix
                norms = np.sqrt(np.square(differences).sum(axis=1)) * (1 + 4 * gamma(differences.shape[1] + 4)) + 1.5 * block.error
                total += norms * self.at(base) * (1 + 1e-14)
            found = [min(whole, up(finite(float(value)))) for value in total]
        found[label] = 0.0
        return found

    def _head(self) -> dict[str, Block]:
        """The last linear operator, from the earliest tensors for which its matrix is small enough; empty when it is not linear."""
        if self._final is None:
            self._final = {}
            target = self.graph.output
            if target in self._parts.steps:
                roots = self._parts.roots[target]
                for bases in dict.fromkeys((roots, tuple(dict.fromkeys(self._parts.steps[target].inputs)))):
                    if target in bases:
                        continue
                    steps = self._parts.between(bases, target)
                    if self._parts.readable(bases, target, steps, Work(ONE), 4 * MAX_ENTRIES):
                        self._final = blocks(steps, self._parts.shapes(bases), target)
                        break
        return self._final

    def _merged(self) -> dict[str, str]:
        """For outputs of linear operators with no bound of their own, the operator that they are one with."""
        found: dict[str, str] = {}
        for operator in self.graph.operators:
            total = self._parts.totals.get(operator.output)
            if isinstance(total, Total) and operator.output in self._parts.steps:
                for step in self._parts.between(total.bases, operator.output)[:-1]:
                    found.setdefault(step.output, operator.name)
        return found


__all__ = ["Bounds", "LayerBound", "NoConstant"]
