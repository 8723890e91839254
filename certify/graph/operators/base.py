"""What an operator is: how it is read from ONNX, evaluated, and rewritten for bound propagation. One class each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from certify.errors import ModelRejected
from certify.graph.batch_size import BatchConstant
from certify.graph.layout import Layout, Shape
from certify.lipschitz.constant import NoConstant
from certify.lipschitz.parts import Chain

MAX_TENSOR_ELEMENTS = 2**24  # of one example
MAX_RANK = 16
Array = np.ndarray[Any, Any]
Weights = Mapping[str, Array]


@dataclass(frozen=True)
class Loose:
    """What folding nodes on constants did to the weights of an operator; empty where each stands in the file.

    Args:
        deployed: of weights that float32 rounds, what stands in their place in the network that runs.
        sizes: a weight is within `8 * UNIT` of the size that stands here from real arithmetic; at least its magnitude.
        spreads: at least the distance of each weight from what any float32 runtime folds.
        unknown: why nothing is known of a weight, as the end of a sentence that starts with the operator's name.
        undecided: the same of float32 runtimes alone.
    """

    deployed: Weights = field(default_factory=dict, repr=False)
    sizes: Weights = field(default_factory=dict, repr=False)
    spreads: Weights = field(default_factory=dict, repr=False)
    unknown: str = ""
    undecided: str = ""

    UNITS: ClassVar[float] = 8 * 2.0**-53  # of a size

    def errors(self) -> Weights:
        """At least the distance of each weight from real arithmetic."""
        return {name: self.UNITS * size for name, size in self.sizes.items()}


@dataclass(frozen=True)
class Node:
    """One ONNX node as an operator reads it.

    Args:
        inputs: in their ONNX positions ("" for one left out).
        outputs: likewise.
        layouts: of every input that depends on the data.
        constants: the value of every other input, at batch size one.
        by_batch: the constants that depend on the batch size, at every batch size; null where it is not known how they do.
        fixed: the file fixes the batch to 1.
        real: some constants are float64: what folding made of them, in place of what float32 makes.
    """

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    attributes: Mapping[str, Any]
    layouts: Mapping[str, Layout]
    constants: Weights
    by_batch: Mapping[str, BatchConstant | None] = field(default_factory=dict)
    fixed: bool = False
    real: bool = False

    @property
    def output(self) -> str:
        return self.outputs[0]

    def reject(self, detail: str, mend: str = "change this layer before the export") -> ModelRejected:
        return ModelRejected.at(f"model.{self.name}", f"{self.type} {detail}", mend)

    def across_batch(self) -> ModelRejected:
        return self.reject("works across the batch axis, so that examples would influence one another", "keep to the axes after the batch")

    def data(self, position: int) -> str:
        """The name of input `position`, which must depend on the data."""
        if position < len(self.inputs) and self.inputs[position] in self.layouts:
            return self.inputs[position]
        raise self.reject(f"needs a data tensor as input {position}")

    def layout(self, position: int = 0) -> Layout:
        return self.layouts[self.data(position)]

    def shape(self, position: int = 0) -> Shape:
        """The shape of one example of an input that has the batch as its first axis."""
        layout = self.layout(position)
        if not layout.plain:
            raise self.reject(
                f"needs the batch as first axis, but it is axis {layout.batch} of {_sizes(layout)}", "keep the batch axis first"
            )
        return layout.shape

    def is_data(self, position: int) -> bool:
        return position < len(self.inputs) and self.inputs[position] in self.layouts

    def constant(self, position: int) -> Array:
        """The value of input `position`, which must depend neither on the data nor on the batch size."""
        found = self.at_every_batch(position)
        if not found.free:
            raise self.by_batch_size(position)
        return found.fixed

    def at_every_batch(self, position: int) -> BatchConstant:
        """Input `position`, which must not depend on the data, at every batch size: for shapes and indices only."""
        name = self.inputs[position] if position < len(self.inputs) else ""
        if name not in self.constants:
            raise self.reject(f"needs a constant as input {position}")
        if name not in self.by_batch:
            return BatchConstant.plain(self.constants[name])
        found = self.by_batch[name]
        if found is None:
            raise self.by_batch_size(position)
        return found

    def sizes_at_every_batch(self, position: int) -> BatchConstant:
        """As `at_every_batch`, of a constant as long as it is at batch size one: a list of sizes."""
        found = self.at_every_batch(position)
        if found.axis is not None:
            raise self.by_batch_size(position)
        return found

    def by_batch_size(self, position: int) -> ModelRejected:
        """An answer must not depend on how many rows are asked together."""
        return self.reject(
            f"takes {self.inputs[position]!r}, which depends on the batch size, in a way that could change a row's answer",
            "use the batch size in shapes and indices only, as it is or times a number",
        )

    def integers(self, position: int, name: str) -> list[int] | None:
        """A list of integers that is the input `position` in later opsets and the attribute `name` in earlier ones; null when absent."""
        if self.has(position):
            return [int(v) for v in self.constant(position).reshape(-1)]
        value = self.attributes.get(name)
        return None if value is None else [int(v) for v in np.reshape(value, -1)]

    def has(self, position: int) -> bool:
        return position < len(self.inputs) and self.inputs[position] != ""

    def weight(self, position: int) -> Array:
        """A constant that takes part in the arithmetic: float32."""
        return self.checked(position, self.constant(position))

    def checked(self, position: int, value: Array) -> Array:
        """That value of input `position`, found to be finite and float32."""
        if value.dtype != np.float32 and not (self.real and value.dtype == np.float64):
            raise self.reject(f"has weights of type {value.dtype}", "export the model in float32")
        if not np.all(np.isfinite(value)):
            where = f"model.{self.inputs[position]}"
            raise ModelRejected.at(where, "contains infinity", "check the training run and export finite weights")
        return value

    def axis(self, axis: int, position: int = 0) -> int:
        """An ONNX axis of a data input counted from the front, along which the operator may work."""
        layout = self.layout(position)
        found = layout.normal(axis)
        if found is None:
            raise self.reject(f"has the axis {axis} for a tensor of {layout.rank} axes")
        if found == layout.batch:
            raise self.across_batch()
        return found

    def axes(self, axes: Iterable[int], position: int = 0) -> list[int]:
        found = sorted({self.axis(axis, position) for axis in axes})
        if len(found) != len(list(axes)):
            raise self.reject(f"names an axis twice: {list(axes)}")
        return found


def _sizes(layout: Layout) -> str:
    return str(["batch" if axis == layout.batch and not layout.merged else size for axis, size in enumerate(layout.sizes)])


@dataclass(frozen=True, kw_only=True)
class Operator(ABC):
    """One step of the graph. At run time every tensor is (batch, *shape)."""

    types: ClassVar[tuple[str, ...]] = ()
    relaxed: ClassVar[bool] = False  # bound propagation replaces it by linear bounds, and needs those of its inputs first
    apart: ClassVar[bool] = False  # every value of the output depends on one of the inputs only

    type: str
    name: str
    inputs: tuple[str, ...]
    output: str
    layout: Layout
    sources: tuple[Shape, ...] = ()  # the shape of one example of each input
    weights: Weights = field(default_factory=dict, repr=False)
    on_the_way: int = 0  # values made for one example besides the output, and forgotten again
    loose: Loose = field(default_factory=Loose, repr=False)

    @property
    def shape(self) -> Shape:
        """The shape of one example of the output."""
        return self.layout.shape

    @classmethod
    @abstractmethod
    def read(cls, node: Node) -> Operator:
        """The operator of a node.

        Raises:
            ModelRejected: the node asks for something outside the allow-list; the reason names it.
        """

    @classmethod
    def read_all(cls, node: Node) -> tuple[Operator, ...]:
        """As `read`, for nodes with several outputs: one operator for each."""
        return (cls.read(node),)

    @abstractmethod
    def evaluate(self, weights: Mapping[str, Tensor], *x: Tensor) -> Tensor:  # x: (batch, *shape of each input)
        """The output, (batch, *shape). No row depends on another."""

    @property
    def follows(self) -> bool:
        """Whether every rule knows what becomes of weights that are off: those of `loose`."""
        return False

    def sized(self) -> Operator:
        """The same operator with `loose.sizes` as weights: what it makes of them bounds errors, `Loose.UNITS` times that of its own."""
        sizes = {name: self.loose.sizes.get(name, np.abs(value)) for name, value in self.weights.items()}
        return replace(self, weights=sizes)

    @property
    def unbounded(self) -> str:
        """What about it bound propagation has not been shown sound for; empty when it has. Operators speak up when they are fit."""
        return f"the operator {self.type}"

    @property
    def refused(self) -> str:
        """Why no bound is propagated through it: its form, or its weights; empty when one can be."""
        return self.unbounded or (f"that {self.type} {self.loose.unknown}" if self.loose.unknown else "")

    @property
    def flops(self) -> int:
        """Floating-point operations for one example; a multiplication and an addition count as two."""
        return math.prod(self.shape)

    def for_bounds(self) -> Operator:
        """The same function in a form that the bound engine treats soundly; weights may become float64."""
        return self

    def parts(self) -> tuple[Chain, ...]:
        """Of an operator that is linear in its data, but for a constant: for each input the steps that make what is summed up.

        Empty for all others.

        Raises:
            NoConstant: it is linear but for infinities.
        """
        return ()

    def lipschitz(self) -> float:
        """Of an operator without `parts`: at most so many times as far apart, in l2, are two outputs as are the inputs, taken together.

        Raises:
            NoConstant: none is known; the reason says why.
        """
        raise self.no_constant("no Lipschitz constant of it is known")

    @property
    def extreme(self) -> int:
        """1 for the larger of two inputs at each place, -1 for the smaller, else 0: a pair of both sorts, which moves no distance."""
        return 0

    @property
    def gate(self) -> float:
        """The largest slope of x times this function of x, elementwise; infinite when none is known."""
        return math.inf

    @property
    def multiplies(self) -> bool:
        """Whether it is the product of two data tensors of its own shape."""
        return False

    def no_constant(self, reason: str) -> NoConstant:
        return NoConstant(self.name, f"{self.type}: {reason}")

    def made_of(self) -> Weights:
        """For weights of `for_bounds` that are rounded sums: the sums of the magnitudes of their terms, in the same shapes.

        A weight is within 8 units of float64 of real arithmetic: of itself, or of the size that stands here.
        """
        return {}

    def made_of_folded(self) -> Weights:
        """As `made_of`, with what folding constants did to the weights.

        What `for_bounds` makes of a weight is a product with exact numbers, or a sum of such, and rounded a few times more.
        """
        made = dict(self.made_of())
        if self.loose.sizes:
            for name, size in self.sized().for_bounds().weights.items():
                made[name] = np.maximum(1.25 * np.abs(size) + 1.25 * made.get(name, 0.0), 0.0)
        return made

    def spread(self, value: Array) -> Array:
        """A constant in float64, in the full shape of one output: the bound engine does not broadcast every shape."""
        return np.ascontiguousarray(np.broadcast_to(np.asarray(value, np.float64), self.shape))

    @classmethod
    def common(
        cls, node: Node, layout: Layout, *, inputs: tuple[str, ...] | None = None, weights: Weights | None = None, output: str = ""
    ) -> dict[str, Any]:
        """The fields that every operator fills the same way; a result that is too large is refused before anything is made."""
        if layout.rank > MAX_RANK or min(layout.sizes, default=1) < 1 or math.prod(layout.sizes) > MAX_TENSOR_ELEMENTS:
            # The first sizes only: a hostile file may have very many.
            shown = list(layout.shape[:MAX_RANK])
            raise node.reject(
                f"makes a tensor of shape {shown}", f"keep every tensor below {MAX_TENSOR_ELEMENTS} values and {MAX_RANK} axes"
            )
        names = inputs or (node.data(0),)
        return {
            "type": node.type,
            "name": node.name,
            "inputs": names,
            "output": output or node.output,
            "layout": layout,
            "sources": tuple(node.layouts[name].shape for name in names),
            "weights": weights or {},
        }


def as_tensor(value: Array, dtype: torch.dtype) -> Tensor:
    """A copy, exact in float32 and float64, with numbers rounded in bfloat16; indices and masks as they are."""
    copy = torch.from_numpy(np.array(value))
    return copy.to(dtype) if copy.is_floating_point() else copy


def spatial_pads(value: Array | list[int]) -> list[int]:
    """ONNX pads (all begins, then all ends) in the order of torch.nn.functional.pad (last axis first, begin and end together)."""
    half = len(value) // 2
    return [int(value[side * half + axis]) for axis in reversed(range(half)) for side in (0, 1)]
