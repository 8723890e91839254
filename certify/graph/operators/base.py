"""What an operator is: how it is read from ONNX, evaluated, and rewritten for bound propagation. One class each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from certify.errors import ModelRejected

Shape = tuple[int, ...]

MAX_TENSOR_ELEMENTS = 2**26  # of one example
Weights = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Node:
    """One ONNX node as an operator reads it.

    `inputs` keep their ONNX positions ("" for one left out). `shapes` holds the shape of one example, without the batch axis, for
    every input that depends on the data; `constants` the value of every other input.
    """

    type: str
    name: str
    inputs: tuple[str, ...]
    output: str
    opset: int
    attributes: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    constants: Weights

    def reject(self, detail: str, mend: str = "change this layer before the export") -> ModelRejected:
        return ModelRejected.at(f"model.{self.name}", f"{self.type} {detail}", mend)

    def data(self, position: int) -> str:
        """The name of input `position`, which must depend on the data."""
        if position < len(self.inputs) and self.inputs[position] in self.shapes:
            return self.inputs[position]
        raise self.reject(f"needs a data tensor as input {position}")

    def constant(self, position: int) -> np.ndarray[Any, Any]:
        """The value of input `position`, which must not depend on the data."""
        if position < len(self.inputs) and self.inputs[position] in self.constants:
            return self.constants[self.inputs[position]]
        raise self.reject(f"needs a constant as input {position}")

    def has(self, position: int) -> bool:
        return position < len(self.inputs) and self.inputs[position] != ""

    def weight(self, position: int) -> np.ndarray[Any, Any]:
        """A constant that takes part in the arithmetic: float32."""
        value = self.constant(position)
        if value.dtype != np.float32:
            raise self.reject(f"has weights of type {value.dtype}", "export the model in float32")
        return value


@dataclass(frozen=True, kw_only=True)
class Operator(ABC):
    """One step of the graph. Shapes are those of one example; axis 0 of every tensor at run time is the batch.

    `unbounded` says why bound propagation cannot treat it; empty when it can.
    """

    types: ClassVar[tuple[str, ...]] = ()

    type: str
    name: str
    inputs: tuple[str, ...]
    output: str
    shape: Shape
    weights: Weights = field(default_factory=dict, repr=False)

    @classmethod
    @abstractmethod
    def read(cls, node: Node) -> Operator:
        """The operator of a node.

        Raises:
            ModelRejected: the node asks for something outside the allow-list; the reason names it.
        """

    @abstractmethod
    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape of each input)
        """The output, (batch, *shape). No row depends on another."""

    @property
    def unbounded(self) -> str:
        return ""

    def for_bounds(self) -> Operator:
        """The same function in a form that the bound engine treats soundly; weights may become float64."""
        return self

    @classmethod
    def common(cls, node: Node, shape: Shape, *, inputs: tuple[str, ...] | None = None, weights: Weights | None = None) -> dict[str, Any]:
        """The fields that every operator fills the same way."""
        return {
            "type": node.type,
            "name": node.name,
            "inputs": inputs or (node.data(0),),
            "output": node.output,
            "shape": shape,
            "weights": weights or {},
        }


def spatial_pads(value: np.ndarray[Any, Any] | list[int]) -> list[int]:
    """ONNX pads (all begins, then all ends) in the order of torch.nn.functional.pad (last axis first, begin and end together)."""
    half = len(value) // 2
    return [int(value[side * half + axis]) for axis in reversed(range(half)) for side in (0, 1)]


def as_tensor(value: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
    """An exact copy in float32 or float64."""
    return torch.from_numpy(np.array(value)).to(dtype)
