"""The typed graph: the one truth about a model that smoothing, bounds and attacks share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from certify.graph.operators import Operator


@dataclass(frozen=True)
class Graph:
    """A network as operators in topological order: a classifier, or one of its two parts on either side of a tensor.

    Every shape is that of one example: the batch axis is implicit and free.

    Args:
        input: name of the raw input tensor.
        input_shape: shape of one raw input.
        output: name of the logits; of the tensor that an encoder ends in.
        classes: number of logits; of values that an encoder makes, whatever their shape.
        operators: every operator comes after those it reads from, and the logits depend on each.
        shapes: shape of every tensor by name.
        opset: version of the standard operators in the file.
        class_names: as the file names them, or null.
    """

    input: str
    input_shape: tuple[int, ...]
    output: str
    classes: int
    operators: tuple[Operator, ...]
    shapes: Mapping[str, tuple[int, ...]]
    opset: int = 0
    class_names: tuple[str, ...] | None = field(default=None, compare=False)

    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.size for operator in self.operators for weight in operator.weights.values())

    def flops(self) -> int:
        """Floating-point operations of one forward pass of one example."""
        return sum(operator.flops for operator in self.operators)

    def values(self) -> int:
        """Values of all tensors of one example together."""
        return sum(math.prod(shape) for shape in self.shapes.values()) + sum(operator.on_the_way for operator in self.operators)

    def largest_tensor(self) -> int:
        """Elements of the largest tensor of one example."""
        return max(math.prod(shape) for shape in self.shapes.values())

    def last_uses(self) -> dict[str, int]:
        """For each tensor that an operator reads, the position of the last one that does."""
        return {name: position for position, operator in enumerate(self.operators) for name in operator.inputs}

    def live_elements(self) -> int:
        """Elements that must be held at once for one example, at most."""
        last, live, most = self.last_uses(), math.prod(self.input_shape), 0
        for position, operator in enumerate(self.operators):
            live += math.prod(operator.shape)
            most = max(most, live + operator.on_the_way)
            live -= sum(math.prod(self.shapes[name]) for name in set(operator.inputs) if last[name] == position)
        return most

    def cuts(self) -> tuple[str, ...]:
        """The tensors between input and logits that every path goes through, in order: the dominators of the logits."""
        last, reach, found = self.last_uses(), -1, []
        previous = self.input
        for position, operator in enumerate(self.operators):
            # Nothing from before this operator is read after it: whoever comes later knows the input only through its output.
            reach = max(reach, last[previous])
            if reach <= position and operator.output != self.output:
                found.append(operator.output)
            previous = operator.output
        return tuple(found)

    def until(self, tensor: str) -> Graph:
        """The encoder: the same input, and that tensor as output; operators it does not need are dropped.

        Raises:
            ValueError: no operator makes a tensor of that name.
        """
        needed, kept = {tensor}, []
        for operator in reversed(self.operators):
            if operator.output in needed:
                kept.append(operator)
                needed.update(operator.inputs)
        if not kept:
            raise ValueError(f"no operator of the network makes a tensor {tensor!r}")
        return self._part(self.input, tensor, tuple(reversed(kept)), classes=math.prod(self.shapes[tensor]), class_names=None)

    def after(self, tensor: str) -> Graph:
        """The head: that tensor as input, the same logits. The network is the head of the encoder.

        Raises:
            ValueError: the tensor is no cut: some path from the input to the logits goes round it.
        """
        if tensor not in self.cuts():
            raise ValueError(f"the logits do not follow from {tensor!r} alone: choose one of the tensors {', '.join(self.cuts())}")
        position = next(i for i, operator in enumerate(self.operators) if operator.output == tensor)
        return self._part(tensor, self.output, self.operators[position + 1 :], classes=self.classes, class_names=self.class_names)

    def _part(self, start: str, end: str, operators: tuple[Operator, ...], *, classes: int, class_names: tuple[str, ...] | None) -> Graph:
        shapes = {name: self.shapes[name] for name in (start, *(operator.output for operator in operators))}
        return replace(
            self,
            input=start,
            input_shape=self.shapes[start],
            output=end,
            classes=classes,
            operators=operators,
            shapes=shapes,
            class_names=class_names,
        )
