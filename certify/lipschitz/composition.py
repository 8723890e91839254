"""How bounds compose: a walk over a graph that knows, for each tensor, what is linear before it and how far it may move."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from certify.graph.graph import Graph
from certify.graph.operators import Operator
from certify.lipschitz.constant import NoConstant, Work, finite
from certify.lipschitz.forms import Form, Step, blocks
from certify.lipschitz.kernel import Kernel, Shape, stacked
from certify.lipschitz.parts import Chain, Moved, loosened
from certify.lipschitz.pieces import joined
from certify.lipschitz.spectral import EXACT_SIDE, matrix_norm
from certify.lipschitz.symbol import Found, kernel_norm

MAX_ENTRIES = 2**22  # of a matrix read off a run of linear operators
# Beyond these a linear tensor counts as if it were not: files may be hostile, and work must stay in proportion to them.
_MAX_BASES = 8
_MAX_ROOTS = 64
_MAX_RUN = 64


@dataclass(frozen=True)
class Total:
    """The bound of one tensor, with the factor of the last step and the tensors which that step starts from."""

    total: float
    constant: float
    how: str
    bases: tuple[str, ...]


class Composition:
    """The bounds of the tensors of a graph, as they are asked for; `roots` of a tensor are the last before it that are not linear."""

    def __init__(self, graph: Graph, budget: float) -> None:
        self.graph = graph
        self._work = Work(budget)
        self.steps: dict[str, Step] = {}
        self.makers = {operator.output: operator for operator in graph.operators}
        self._places = {operator.output: place for place, operator in enumerate(graph.operators)}
        self._forms: dict[str, dict[str, Form]] = {}
        self._answers: dict[str, Total | NoConstant] = {}
        self._side: set[str] = set()  # linear tensors that depend on several roots side by side
        self._norms: dict[int, tuple[Kernel, Found]] = {}  # by identity, which the kernel kept here keeps from being reused
        self._runs: dict[str, int] = {}  # how many linear operators lie between a tensor and its roots
        self.totals: dict[str, Total | NoConstant] = {graph.input: Total(1.0, 1.0, "the input", ())}
        self.roots: dict[str, tuple[str, ...]] = {graph.input: (graph.input,)}

    def walk(self) -> None:
        """Every operator in order: bounds of what is not linear, and of the logits."""
        last = self.graph.last_uses()
        # What overflows is not finite, and then refused by name.
        with np.errstate(over="ignore", invalid="ignore"):
            self._walk(last)
        self._forms.clear()
        self._norms.clear()

    def _walk(self, last: Mapping[str, int]) -> None:
        for place, operator in enumerate(self.graph.operators):
            self._enter(operator)
            if self.roots[operator.output] == (operator.output,):
                self.settle(operator.output)  # now, so that no later question goes back through the whole file
            else:
                self._form(operator.output)
            for name in set(operator.inputs):
                if last[name] == place and name != self.graph.output:
                    self._forms.pop(name, None)
        self.settle(self.graph.output)

    def asked(self, tensor: str, work: float) -> Total | NoConstant:
        """The bound of any tensor. Work of its own, so that the answer does not depend on what was asked before."""
        if tensor in self.totals:
            return self.totals[tensor]
        if tensor not in self._answers:
            kept, before = self._work, dict(self.totals)
            self._work = Work(work)
            with np.errstate(over="ignore", invalid="ignore"):
                self._answers[tensor] = self.settle(tensor)
            self._work, self.totals = kept, before
            self._forms.clear()
            self._norms.clear()
        return self._answers[tensor]

    def shapes(self, names: tuple[str, ...]) -> dict[str, Shape]:
        return {name: self._shape(name) for name in names}

    def _shape(self, name: str) -> Shape:
        return self.makers[name].shape if name in self.makers else self.graph.input_shape

    # One operator after another

    def _enter(self, operator: Operator) -> None:
        """Take note of an operator: of what is linear, how it goes on from its bases."""
        name = operator.output
        try:
            chains = _chains(operator)
        except NoConstant as missing:
            self.totals[name] = missing.named(operator.name)
            chains = ()
        if chains:
            self.steps[name] = Step(operator.name, operator.inputs, chains, name, operator.shape, operator.flops)
            roots = tuple(dict.fromkeys(root for source in operator.inputs for root in self.roots[source]))
            # What was sorted is better bounded together than one after the other.
            sorted_ = operator.apart and any(self._partner(self.makers[root], set(roots)) for root in roots if root in self.makers)
            run = 1 + max(self._runs.get(source, 0) for source in operator.inputs)
            fresh = sorted_ or run > _MAX_RUN or len(roots) > _MAX_ROOTS
            self.roots[name], self._runs[name] = ((name,), 0) if fresh else (roots, run)
            if (operator.apart and len(roots) > 1) or self._side.intersection(operator.inputs):
                self._side.add(name)
        else:
            self.roots[name] = (name,)

    def _form(self, name: str) -> dict[str, Form]:
        """The kernels that make a tensor, by base; made when they are asked for, and kept as long as they are needed."""
        if name not in self._forms:
            fresh = self.roots[name] == (name,)
            self._forms[name] = {name: Form.identity(self._shape(name))} if fresh else self._continued(self.steps[name])
        return self._forms[name]

    def _continued(self, step: Step) -> dict[str, Form]:
        """The kernels that make the output of a step, by base; the output is a base itself where there are none."""
        total: dict[str, Form] = {}
        whole = joined(step, self.steps)
        for source, chain in [whole] if whole else zip(step.inputs, step.chains, strict=True):
            forms = self._through(self._form(source), chain, step.shape)
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

    def _through(self, forms: Mapping[str, Form], chain: Chain, shape: Shape) -> dict[str, Form] | None:
        found = {}
        for base, form in forms.items():
            after = form.through(chain, shape, self._work)
            if after is None:
                return None
            found[base] = after
        return found

    # Bounds

    def settle(self, tensor: str) -> Total | NoConstant:
        """The bound of a tensor, found once."""
        if tensor not in self.totals:
            operator = self.makers[tensor]
            try:
                self.totals[tensor] = self._linear(tensor) if tensor in self.steps else self._curved(operator)
            except NoConstant as missing:
                self.totals[tensor] = missing.named(operator.name)
        return self.totals[tensor]

    def _total(self, tensor: str) -> float:
        found = self.settle(tensor)
        if isinstance(found, NoConstant):
            raise found
        return found.total

    def _curved(self, operator: Operator) -> Total:
        """Of an operator that is not linear: its constant, times the bound of its inputs taken together."""
        gated = self._gated(operator)
        if gated is not None:
            return gated
        constant = finite(operator.lipschitz())
        inputs = tuple(dict.fromkeys(operator.inputs))
        before = self._together(operator.inputs)
        return Total(up(constant * before), constant, "elementwise" if constant != 1.0 else "1 by definition", inputs)

    def _gated(self, operator: Operator) -> Total | None:
        """Of x times a gate of the same x, as exporters write SiLU; null for all others."""
        for base in operator.inputs if operator.multiplies else ():
            (other,) = set(operator.inputs) - {base}
            maker = self.makers.get(other)
            if maker is not None and maker.inputs == (base,) and maker.shape == self._shape(base) and math.isfinite(maker.gate):
                return Total(up(maker.gate * self._total(base)), maker.gate, f"one function with {maker.name}", (base,))
        return None

    def _together(self, inputs: tuple[str, ...]) -> float:
        """At least the constant of several tensors side by side, each as often as it is named."""
        if len(set(inputs)) == len(inputs):
            inputs = self._unsorted(inputs)
        if len(inputs) == 1:
            return self._total(inputs[0])
        found = up(math.hypot(*(self._total(name) for name in inputs)))
        forms = [self._form(name) for name in inputs]
        bases = {base for form in forms for base in form}
        if len(bases) == 1 and not any(form.moved for each in forms for form in each.values()):
            (base,) = bases
            kernel = stacked([form[base].kernel for form in forms])
            if kernel is not None:
                return min(found, up(kernel_norm(kernel, self._work).norm * self._total(base)))
        return found

    def _unsorted(self, tensors: tuple[str, ...]) -> tuple[str, ...]:
        """Tensors that are together at least as far apart: what a pair of extremes sorts, instead of the sorted; before moves."""
        names = set(tensors)
        open_ends = sorted((self._places[name], name) for name in names if name in self._places)
        while open_ends:  # the last first
            name = open_ends.pop()[1]
            operator = self.makers[name]
            step, other = self.steps.get(name), self._partner(operator, names)
            moved = step is not None and len(step.chains) == 1 and all(isinstance(part, Moved) for part in step.chains[0])
            if name not in names or names & set(operator.inputs) or not (moved or other):
                continue
            names = names - {name, other} | set(operator.inputs)
            for source in operator.inputs:
                if source in self._places:
                    bisect.insort(open_ends, (self._places[source], source))
        return tuple(sorted(names, key=lambda name: self._places.get(name, -1)))

    def _partner(self, operator: Operator, names: set[str]) -> str:
        """Of the larger of two tensors the tensor of the smaller, and the other way round, if it is among these; else empty."""
        for name in names if operator.extreme else ():
            other = self.makers.get(name, operator)
            if other.extreme == -operator.extreme and set(other.inputs) == set(operator.inputs):
                return name
        return ""

    def _linear(self, tensor: str) -> Total:
        """The least of: a matrix from the last tensors that are not linear; kernels; its own steps after its inputs."""
        roots = self.roots[tensor]
        found = None if roots == (tensor,) else self._by_matrix(tensor, roots)
        if found is None:
            found = self._by_kernels(tensor)
        if found is None or (tensor in self._side and len(found.bases) > 1):
            local = self._by_steps(tensor)
            found = local if found is None or local.total < found.total else found
        return found

    def _by_matrix(self, tensor: str, bases: tuple[str, ...]) -> Total | None:
        steps = self.between(bases, tensor)
        if not self.readable(bases, tensor, steps, self._work, MAX_ENTRIES):
            return None
        before = {base: self._total(base) for base in bases}
        norms = {}
        for base, block in blocks(steps, self.shapes(bases), tensor).items():
            norms[base] = matrix_norm(block.matrix, self._work) + block.error
        sizes = f"SVD {math.prod(self._shape(tensor))} x {sum(math.prod(self._shape(base)) for base in bases)}"
        return self._summed(norms, before, sizes)

    def readable(self, bases: tuple[str, ...], tensor: str, steps: list[Step], work: Work, entries: int) -> bool:
        """Whether the matrix is small enough to be read off; then its work is spent."""
        into, out = sum(math.prod(self._shape(base)) for base in bases), math.prod(self._shape(tensor))
        side = min(into, out)
        cost = 2.0 * side * sum(step.flops + math.prod(step.shape) for step in steps) * len(bases)
        if side > EXACT_SIDE or into * out > entries or not work.affords(cost):
            return False
        work.spend(cost)
        return True

    def _by_kernels(self, tensor: str) -> Total | None:
        forms = self._form(tensor)
        if tensor in forms:
            return None
        before = {base: self._total(base) for base in forms}
        found = {base: self._norm(form.kernel) for base, form in forms.items()}
        how = " + ".join(dict.fromkeys(each.how for each in found.values()))
        return self._summed({base: each.norm for base, each in found.items()}, before, how)

    def _norm(self, kernel: Kernel) -> Found:
        """Of a kernel; branches that run on beside many sums are met again and again."""
        if id(kernel) not in self._norms:
            if len(self._norms) >= 4 * _MAX_BASES:
                self._norms.clear()
            self._norms[id(kernel)] = (kernel, kernel_norm(kernel, self._work))
        return self._norms[id(kernel)][1]

    @staticmethod
    def _summed(norms: Mapping[str, float], before: Mapping[str, float], how: str) -> Total:
        total = up(math.fsum(up(norms[base] * before[base]) for base in norms))
        if len(norms) == 1:
            return Total(finite(total), finite(next(iter(norms.values()))), how, tuple(norms))
        largest = max(before.values())
        return Total(finite(total), total / largest if largest else 0.0, f"sum of {len(norms)} branches: {how}", tuple(norms))

    def _by_steps(self, tensor: str) -> Total:
        """The norms of the operator's own steps times the bounds of its inputs."""
        step = self.steps[tensor]
        before, factors, hows = [], [], []
        for source, chain in zip(step.inputs, step.chains, strict=True):
            found = [part.norm(self._work) for part in chain] or [Found(1.0, "1 by definition")]
            factors.append(up(math.prod(each.norm for each in found)))
            hows.append(", ".join(dict.fromkeys(each.how for each in found)))
            before.append(self._total(source))
        shares = [up(a * b) for a, b in zip(factors, before, strict=True)]
        apart = self.makers[tensor].apart
        total = finite(up(math.hypot(*shares) if apart else math.fsum(shares)))
        if apart and len(shares) > 1:
            total = min(total, up(max(factors) * self._together(step.inputs)))
        if len(shares) == 1:
            return Total(total, factors[0], hows[0], step.inputs)
        largest = max(before)
        how = f"{'squares' if apart else 'sum'} of {len(shares)} branches"
        return Total(total, total / largest if largest else 0.0, how, tuple(dict.fromkeys(step.inputs)))

    def between(self, bases: tuple[str, ...], tensor: str) -> list[Step]:
        """The linear operators on the way from the bases to a tensor, in order."""
        wanted, open_ends = {}, [tensor]
        while open_ends:
            name = open_ends.pop()
            if name in wanted or (name in bases and name != tensor):
                continue
            wanted[name] = self.steps[name]
            open_ends.extend(self.steps[name].inputs)
        return [wanted[name] for name in sorted(wanted, key=self._places.__getitem__)]


def _chains(operator: Operator) -> tuple[Chain, ...]:
    """The linear steps of an operator, with what is known of weights that are folded.

    Raises:
        NoConstant: as `Operator.parts`; nothing is known of a weight.
    """
    if operator.loose.unknown:
        raise operator.no_constant(operator.loose.unknown)
    chains = operator.parts()
    return loosened(chains, operator.sized().parts()) if operator.loose.sizes else chains


def up(value: float) -> float:
    """At least the value in real arithmetic, of which this is a product or a sum of a few roundings."""
    return value * (1 + 1e-14)
