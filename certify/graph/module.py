"""Graph -> torch module: straight-line operations, the batch axis free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from certify.errors import ModelRejected
from certify.graph.graph import Graph
from certify.graph.operators import Operator
from certify.graph.operators.base import Array, as_tensor


class GraphModule(nn.Module):
    """Evaluates a graph in `dtype`. Weights are the file's float32 values: exact in float32 and float64, rounded in bfloat16.

    Those that nodes on constants make are folded in float32 as ONNX's reference does, and in float64 within `Operator.loose`.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.graph = graph
        self.made_of: dict[str, Tensor] = {}
        self._slots: list[dict[str, str]] = []
        for position, operator in enumerate(graph.operators):
            slots = {key: f"w{position}_{key}" for key in operator.weights}
            for key, slot in slots.items():
                self.register_buffer(slot, as_tensor(_weight(operator, key, dtype), dtype))
            self._slots.append(slots)
        self._last_use = _last_uses(graph)

    def forward(
        self,
        x: Tensor,  # (batch, *input), raw input units
    ) -> Tensor:
        """Logits of shape (batch, classes); no row depends on another."""
        for _, value in self.steps(x):
            logits = value
        return logits

    def steps(
        self,
        x: Tensor,  # (batch, *input), raw input units
    ) -> Iterator[tuple[Operator, Tensor]]:
        """Every operator with its output, (batch, *shape), in order; what nobody reads any more is freed."""
        values = {self.graph.input: x}
        for position, operator in enumerate(self.graph.operators):
            weights = {key: getattr(self, slot) for key, slot in self._slots[position].items()}
            value = values[operator.output] = operator.evaluate(weights, *(values[name] for name in operator.inputs))
            for name in self._last_use.get(position, ()):
                del values[name]
            yield operator, value

    def name_a_parameter(self) -> None:
        """Make a weight a parameter: auto-LiRPA 0.3 asks the first one for its dtype where it relaxes what is not a linear operator."""
        slots = (slot for weights in self._slots for key, slot in weights.items() if key in ("weight", "0_0"))
        slot = next(slots, None)
        if slot is not None:
            weight = getattr(self, slot)
            delattr(self, slot)
            self.register_parameter(slot, nn.Parameter(weight))


def _weight(operator: Operator, key: str, dtype: torch.dtype) -> Array:
    kept = operator.weights[key]
    return kept if dtype == torch.float64 else operator.loose.deployed.get(key, kept)


def bounds_module(graph: Graph) -> GraphModule:
    """The same function in float64, every operator in the form that the bound engine treats soundly.

    `made_of` of the module has, for weights that are rounded sums, the sums of the magnitudes of their terms.

    Raises:
        ModelRejected: an operator has no such form; it is named.
    """
    for operator in graph.operators:
        if operator.refused:
            raise ModelRejected.at(
                f"model.{operator.name}",
                f"bound propagation does not support {operator.refused}",
                "use randomized smoothing for this model",
            )
    rewritten = replace(graph, operators=tuple(operator.for_bounds() for operator in graph.operators))
    module = GraphModule(rewritten, torch.float64).eval()
    for position, operator in enumerate(graph.operators):
        for key, value in operator.made_of_folded().items():
            module.made_of[f"w{position}_{key}"] = as_tensor(value, torch.float64)
    module.name_a_parameter()
    return module.requires_grad_(False)


def _last_uses(graph: Graph) -> dict[int, list[str]]:
    """Which tensors no later operator needs, by position: memory is freed as soon as it can be."""
    uses: dict[int, list[str]] = {}
    for name, position in graph.last_uses().items():
        if name != graph.output:
            uses.setdefault(position, []).append(name)
    return uses
