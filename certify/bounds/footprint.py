"""How many numbers bound propagation holds at once: the engine's walks, played through on the sizes of its tensors.

The engine bounds a network in the form of `Operator.for_bounds`. From every tensor that is relaxed it walks back to the input with one row
of coefficients for each of its elements, once below and once above; on the way a matrix of rows times the size of a tensor becomes one of
rows times the size of the tensor before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from certify.graph.graph import Graph

_VIEWS = ("reshape", "view", "flatten", "transpose", "permute", "squeeze", "unsqueeze")
_LINEAR = ("add", "sub", "rsub", "mul", "div", "neg", "conv2d", "linear", "adaptive_avg_pool2d")


class Step(NamedTuple):
    """One node of the engine's graph.

    Args:
        kind: what torch calls it.
        inputs: positions of earlier steps.
        size: of its output, for one example.
        constants: how many other tensors it reads.
    """

    kind: str
    inputs: tuple[int, ...]
    size: int
    constants: int = 0

    @property
    def relaxed(self) -> bool:
        return bool(self.inputs) and self.kind not in _VIEWS and self.kind not in _LINEAR


class Footprint(NamedTuple):
    """Counts of numbers.

    Args:
        parameters: weights of the network as it was uploaded.
        weights: those of the form that is bounded.
        values: of all tensors of one example.
        output: the most of the walk from the logits, which keeps every matrix it makes.
        walk: the most that one of the other walks holds at once.
        kept: all matrices of all walks together, which a gradient needs.
        bent, curved: rows times elements wherever a walk passes a ReLU, or another function that is relaxed.
    """

    parameters: int
    weights: int
    values: int
    output: int
    walk: int
    kept: int
    bent: int
    curved: int


def footprint(graph: Graph) -> Footprint:
    """Counted for the worst case: every neuron is unstable, so that every element of a relaxed tensor gets a row."""
    steps, weights = _steps(graph)
    output = _Walk(steps, len(steps) - 1, graph.classes, sides=1)
    starts = {i for step in steps if step.relaxed for i in step.inputs if i and steps[i].kind != "relu"}
    walks = [_Walk(steps, start, steps[start].size, sides=2) for start in sorted(starts)]
    everything = [output, *walks]
    return Footprint(
        parameters=graph.parameters(),
        weights=weights,
        values=sum(step.size for step in steps),
        output=output.most + output.made,
        walk=max((walk.most for walk in walks), default=0),
        kept=sum(walk.made for walk in everything),
        bent=sum(walk.bent for walk in everything),
        curved=sum(walk.curved for walk in everything),
    )


def _steps(graph: Graph) -> tuple[list[Step], int]:
    """What the engine's reader is going to trace, and the number of weights in it; one operator is rewritten at a time."""
    record, weights = _Record(math.prod(graph.input_shape)), 0
    values = {graph.input: record.start(torch.zeros(1, *graph.input_shape, dtype=torch.float64))}
    for operator in graph.operators:
        rewritten = operator.for_bounds()
        empty = {name: _empty(weight.shape) for name, weight in rewritten.weights.items()}
        weights += sum(weight.numel() for weight in empty.values())
        with torch.no_grad(), record:
            values[rewritten.output] = rewritten.evaluate(empty, *(values[name] for name in rewritten.inputs))
    return record.steps, weights


def _empty(shape: Iterable[int]) -> Tensor:
    """Zeros that take no memory."""
    return torch.zeros((), dtype=torch.float64).expand(*shape)


class _Record(TorchFunctionMode):
    """Notes every function of torch that makes a tensor from one that depends on the data."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.steps = [Step("input", (), size)]
        self._kept: list[Tensor] = []  # so that no address is used twice
        self._places: dict[int, int] = {}

    def start(self, x: Tensor) -> Tensor:  # x: (1, *input)
        self._places[id(x)] = len(self._kept)
        self._kept.append(x)
        return x

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        inputs = tuple(self._places[id(value)] for value in tensors if id(value) in self._places)
        if isinstance(found, Tensor) and inputs and id(found) not in self._places:
            self.steps.append(Step(func.__name__.strip("_"), inputs, found.numel(), len(tensors) - len(inputs)))
            self.start(found)
        return found


class _Walk:
    """One walk from `start` back to the input with so many rows, on one or both sides; counts are of numbers."""

    def __init__(self, steps: list[Step], start: int, rows: int, *, sides: int) -> None:
        self._steps, self._sides = steps, sides
        self._first = steps[start].size  # the matrix of ones and zeros that a walk starts with, and keeps
        self._most = self._made = self._first
        self._bent = self._curved = self._stuck = 0
        self._waiting = _degrees(steps, start)
        self._matrices: dict[int, int] = {start: 0}
        self._run(start)
        self.most, self.made = rows * self._most, rows * self._made
        self.bent, self.curved = rows * self._bent, rows * self._curved

    def _run(self, start: int) -> None:
        queue = deque([start])
        while queue:
            place = queue.popleft()
            self._pass(self._steps[place])
            passed = self._matrices.pop(place)
            for before in self._steps[place].inputs:
                self._arrive(before, passed if self._same(self._steps[place]) else self._sides * self._steps[before].size)
                self._waiting[before] -= 1
                if not self._waiting[before]:
                    queue.append(before)

    @staticmethod
    def _same(step: Step) -> bool:
        """Whether coefficients pass as they are, as the same numbers in memory."""
        return step.kind in _VIEWS or step.kind == "add"

    def _pass(self, step: Step) -> None:
        """The coefficients of a step become those of the tensors before it."""
        made = 0 if self._same(step) else self._sides * sum(self._steps[before].size for before in step.inputs)
        if step.kind in ("add", "sub", "rsub"):
            # Constants meet their coefficients at the end of the walk only.
            self._stuck += self._sides * step.size * step.constants
        self._hold(made + self._beside(step))
        self._made += made
        if step.kind == "relu":
            self._bent += step.size
        elif step.relaxed:
            self._curved += sum(self._steps[before].size for before in step.inputs)

    def _beside(self, step: Step) -> int:
        """What is made on the way and forgotten: positive and negative parts, products, magnitudes, contiguous copies."""
        if not step.relaxed:
            return step.size if step.inputs else (self._sides + 1) * step.size
        return 5 * step.size if step.kind != "max_pool2d" else 2 * step.size + 4 * self._steps[step.inputs[0]].size

    def _arrive(self, before: int, matrix: int) -> None:
        """Coefficients that come from two steps are added up."""
        total = self._sides * self._steps[before].size
        if before in self._matrices:
            self._hold(matrix + total)
            self._made, matrix = self._made + total, total
        self._matrices[before] = matrix

    def _hold(self, more: int) -> None:
        self._most = max(self._most, self._first + self._stuck + sum(self._matrices.values()) + more)


def _degrees(steps: list[Step], start: int) -> dict[int, int]:
    """How many steps on the way back from `start` read each tensor."""
    found: dict[int, int] = {}
    seen, stack = {start}, [start]
    while stack:
        for before in steps[stack.pop()].inputs:
            found[before] = found.get(before, 0) + 1
            if before not in seen:
                seen.add(before)
                stack.append(before)
    return found
