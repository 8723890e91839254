"""The typed graph: the one truth about a model that smoothing, bounds and attacks share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from certify.graph.operators import Operator


@dataclass(frozen=True)
class Graph:
    """A classifier as operators in topological order. Every shape is that of one example: the batch axis is implicit and free.

    Args:
        input: name of the raw input tensor.
        input_shape: shape of one raw input.
        output: name of the logits.
        classes: number of logits.
        operators: every operator comes after those it reads from.
        shapes: shape of every tensor by name.
    """

    input: str
    input_shape: tuple[int, ...]
    output: str
    classes: int
    operators: tuple[Operator, ...]
    shapes: Mapping[str, tuple[int, ...]]

    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.size for operator in self.operators for weight in operator.weights.values())

    def largest_tensor(self) -> int:
        """Elements of the largest tensor of one example."""
        return max(math.prod(shape) for shape in self.shapes.values())
