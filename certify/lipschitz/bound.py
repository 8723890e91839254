"""An upper bound of the l2 Lipschitz constant from the raw graph input to any tensor of a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from certify.graph.graph import Graph
from certify.graph.operators import Operator
from certify.lipschitz.constant import NoConstant, Work, finite, gamma
from certify.lipschitz.forms import Block, Form, Step, blocks
from certify.lipschitz.kernel import Shape, stacked
from certify.lipschitz.spectral import EXACT_SIDE, matrix_norm
from certify.lipschitz.symbol import Found, kernel_norm

Array = np.ndarray[Any, Any]

BUDGET = 4e11  # floating-point operations of one walk through a graph
ONE = 4e10  # of one question that the walk has not answered
_MAX_ENTRIES = 2**22  # of a matrix read off a run of linear operators
_MAX_BASES = 8


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


@dataclass(frozen=True)
class _Total:
    """The bound of one tensor, with the factor of the last step and the tensors which that step starts from."""

    total: float
    constant: float
    how: str
    bases: tuple[str, ...]


class Bounds:
    """Upper bounds of the l2 Lipschitz constants of a graph, from its raw input on the whole space, in real arithmetic.

    Runs of linear operators are one operator wherever that can be exact: a kernel (kernel.py) or a matrix (forms.py). Sums
    of branches add up, parts side by side add up in squares, everything else multiplies; the least of the sound routes counts.
    """

    def __init__(self, graph: Graph, budget: float) -> None:
        self.graph = graph
        self._work = Work(budget)
        self._steps: dict[str, Step] = {}
        self._makers = {operator.output: operator for operator in graph.operators}
        self._places = {operator.output: place for place, operator in enumerate(graph.operators)}
        self._forms: dict[str, dict[str, Form]] = {graph.input: {graph.input: Form.identity(graph.input_shape)}}
        self._totals: dict[str, _Total | NoConstant] = {graph.input: _Total(1.0, 1.0, "the input", ())}
        self._roots: dict[str, tuple[str, ...]] = {graph.input: (graph.input,)}
        self._final: dict[str, Block] | None = None

    @classmethod
    def of(cls, graph: Graph, budget: float = BUDGET) -> Bounds:
        """The bounds of a graph. Work is counted, never timed: the same graph and budget have the same bounds."""
        bounds = cls(graph, budget)
        for operator in graph.operators:
            bounds._enter(operator)
            if operator.output not in bounds._steps:
                bounds._settle(operator.output)
        bounds._settle(graph.output)
        return bounds

    def at(self, tensor: str) -> float:
        """At least the l2 Lipschitz constant from the graph input to this tensor.

        Raises:
            NoConstant: there is none; the operator that has none is named.
            KeyError: the graph has no such tensor.
        """
        if tensor not in self.graph.shapes and tensor not in self._makers:
            raise KeyError(tensor)
        found = self._totals.get(tensor)
        if found is None:
            # A budget of its own, so that the answer does not depend on what was asked before.
            kept, self._work = self._work, Work(ONE)
            before = dict(self._totals)
            found = self._settle(tensor)
            self._work, self._totals = kept, {**before, tensor: found}
        if isinstance(found, NoConstant):
            raise found
        return found.total

    @property
    def layers(self) -> tuple[LayerBound, ...]:
        """One row for each operator in order, up to the first that has no constant."""
        rows: list[LayerBound] = []
        merged = self._merged()
        for operator in self.graph.operators:
            found = self._totals.get(operator.output)
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
            found = [min(whole, _up(finite(float(value)))) for value in total]
        found[label] = 0.0
        return found

    def _head(self) -> dict[str, Block]:
        """The last linear operator, from the earliest tensors for which its matrix is small enough; empty when it is not linear."""
        if self._final is None:
            self._final = {}
            target = self.graph.output
            if target in self._steps:
                for bases in (self._roots[target], tuple(dict.fromkeys(self._steps[target].inputs))):
                    steps = self._between(bases, target)
                    if self._readable(bases, target, steps, Work(ONE), 4 * _MAX_ENTRIES):
                        self._final = blocks(steps, self._shapes(bases), target)
                        break
        return self._final

    def _merged(self) -> dict[str, str]:
        """For outputs of linear operators with no bound of their own, the operator that they are one with."""
        found: dict[str, str] = {}
        for operator in self.graph.operators:
            total = self._totals.get(operator.output)
            if isinstance(total, _Total) and operator.output in self._steps:
                for step in self._between(total.bases, operator.output)[:-1]:
                    found.setdefault(step.output, operator.name)
        return found

    def _shapes(self, names: tuple[str, ...]) -> dict[str, Shape]:
        return {name: self._shape(name) for name in names}

    def _shape(self, name: str) -> Shape:
        return self._makers[name].shape if name in self._makers else self.graph.input_shape

    # One operator after another

    def _enter(self, operator: Operator) -> None:
        """Take note of an operator: of what is linear, how it goes on from its bases."""
        name = operator.output
        try:
            chains = operator.parts()
        except NoConstant as missing:
            self._totals[name] = missing.named(operator.name)
            chains = ()
        if chains:
            self._steps[name] = Step(operator.name, operator.inputs, chains, name, operator.shape, operator.flops)
            self._roots[name] = tuple(dict.fromkeys(root for source in operator.inputs for root in self._roots[source]))
            self._forms[name] = self._continued(self._steps[name])
        else:
            self._roots[name] = (name,)
            self._forms[name] = {name: Form.identity(operator.shape)}

    def _continued(self, step: Step) -> dict[str, Form]:
        """The kernels that make the output of a step, by base; the output is a base itself where there are none."""
        total: dict[str, Form] = {}
        for source, chain in zip(step.inputs, step.chains, strict=True):
            forms = self._through(self._forms[source], chain, step.shape)
            if forms is None:
                forms = self._through({source: Form.identity(self._shape(source))}, chain, step.shape)
            for base, form in (forms or {}).items():
                both = form if base not in total else total[base].plus(form)
                if both is None:
                    forms = None
                    break
                total[base] = both
            if forms is None or len(total) > _MAX_BASES:
                return {step.output: Form.identity(step.shape)}
        return total

    @staticmethod
    def _through(forms: Mapping[str, Form], chain: Any, shape: Shape) -> dict[str, Form] | None:
        found = {}
        for base, form in forms.items():
            after = form.through(chain, shape)
            if after is None:
                return None
            found[base] = after
        return found

    # Bounds

    def _settle(self, tensor: str) -> _Total | NoConstant:
        """The bound of a tensor, found once."""
        if tensor not in self._totals:
            operator = self._makers[tensor]
            try:
                self._totals[tensor] = self._linear(tensor) if tensor in self._steps else self._curved(operator)
            except NoConstant as missing:
                self._totals[tensor] = missing.named(operator.name)
        return self._totals[tensor]

    def _total(self, tensor: str) -> float:
        found = self._settle(tensor)
        if isinstance(found, NoConstant):
            raise found
        return found.total

    def _curved(self, operator: Operator) -> _Total:
        """Of an operator that is not linear: its constant, times the bound of its inputs taken together."""
        constant = finite(operator.lipschitz())
        inputs = tuple(dict.fromkeys(operator.inputs))
        before = self._together(operator.inputs)
        return _Total(_up(constant * before), constant, "elementwise" if constant != 1.0 else "1 by definition", inputs)

    def _together(self, inputs: tuple[str, ...]) -> float:
        """At least the constant of several tensors side by side, each as often as it is named."""
        if len(inputs) == 1:
            return self._total(inputs[0])
        found = _up(math.hypot(*(self._total(name) for name in inputs)))
        forms = [self._forms[name] for name in inputs]
        bases = {base for form in forms for base in form}
        if len(bases) == 1 and not any(form.moved for each in forms for form in each.values()):
            (base,) = bases
            kernel = stacked([form[base].kernel for form in forms])
            if kernel is not None:
                return min(found, _up(kernel_norm(kernel, self._work).norm * self._total(base)))
        return found

    def _linear(self, tensor: str) -> _Total:
        """The least of: a matrix from the last tensors that are not linear; kernels; its own steps after its inputs."""
        found = self._by_matrix(tensor, self._roots[tensor])
        if found is None:
            found = self._by_kernels(tensor)
        operator = self._makers[tensor]
        if found is None or (operator.apart and len(found.bases) > 1):
            local = self._by_steps(tensor)
            found = local if found is None or local.total < found.total else found
        return found

    def _by_matrix(self, tensor: str, bases: tuple[str, ...]) -> _Total | None:
        steps = self._between(bases, tensor)
        if not self._readable(bases, tensor, steps, self._work, _MAX_ENTRIES):
            return None
        before = {base: self._total(base) for base in bases}
        norms = {}
        for base, block in blocks(steps, self._shapes(bases), tensor).items():
            norms[base] = matrix_norm(block.matrix, self._work) + block.error
        sizes = f"SVD {math.prod(self._shape(tensor))} x {sum(math.prod(self._shape(base)) for base in bases)}"
        return self._summed(norms, before, sizes)

    def _readable(self, bases: tuple[str, ...], tensor: str, steps: list[Step], work: Work, entries: int) -> bool:
        """Whether the matrix is small enough to be read off; then its work is spent."""
        into, out = sum(math.prod(self._shape(base)) for base in bases), math.prod(self._shape(tensor))
        side = min(into, out)
        cost = 2.0 * side * sum(step.flops + math.prod(step.shape) for step in steps) * len(bases)
        if side > EXACT_SIDE or into * out > entries or not work.affords(cost):
            return False
        work.spend(cost)
        return True

    def _by_kernels(self, tensor: str) -> _Total | None:
        forms = self._forms[tensor]
        if tensor in forms:
            return None
        before = {base: self._total(base) for base in forms}
        found = {base: kernel_norm(form.kernel, self._work) for base, form in forms.items()}
        how = " + ".join(dict.fromkeys(each.how for each in found.values()))
        return self._summed({base: each.norm for base, each in found.items()}, before, how)

    @staticmethod
    def _summed(norms: Mapping[str, float], before: Mapping[str, float], how: str) -> _Total:
        total = _up(math.fsum(_up(norms[base] * before[base]) for base in norms))
        if len(norms) == 1:
            return _Total(finite(total), finite(next(iter(norms.values()))), how, tuple(norms))
        largest = max(before.values())
        return _Total(finite(total), total / largest if largest else 0.0, f"sum of {len(norms)} branches: {how}", tuple(norms))

    def _by_steps(self, tensor: str) -> _Total:
        """The norms of the operator's own steps times the bounds of its inputs."""
        step = self._steps[tensor]
        before, factors, hows = [], [], []
        for source, chain in zip(step.inputs, step.chains, strict=True):
            found = [part.norm(self._work) for part in chain] or [Found(1.0, "1 by definition")]
            factors.append(_up(math.prod(each.norm for each in found)))
            hows.append(", ".join(dict.fromkeys(each.how for each in found)))
            before.append(self._total(source))
        shares = [_up(a * b) for a, b in zip(factors, before, strict=True)]
        apart = self._makers[tensor].apart
        total = finite(_up(math.hypot(*shares) if apart else math.fsum(shares)))
        if len(shares) == 1:
            return _Total(total, factors[0], hows[0], step.inputs)
        largest = max(before)
        how = f"{'squares' if apart else 'sum'} of {len(shares)} branches"
        return _Total(total, total / largest if largest else 0.0, how, tuple(dict.fromkeys(step.inputs)))

    def _between(self, bases: tuple[str, ...], tensor: str) -> list[Step]:
        """The linear operators on the way from the bases to a tensor, in order."""
        wanted, open_ends = {}, [tensor]
        while open_ends:
            name = open_ends.pop()
            if name in wanted or (name in bases and name != tensor):
                continue
            wanted[name] = self._steps[name]
            open_ends.extend(self._steps[name].inputs)
        return [wanted[name] for name in sorted(wanted, key=self._places.__getitem__)]


def _up(value: float) -> float:
    """At least the value in real arithmetic, of which this is a product or a sum of a few roundings."""
    return value * (1 + 1e-14)


__all__ = ["Bounds", "LayerBound", "NoConstant"]
