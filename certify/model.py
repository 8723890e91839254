"""The model under test and the examples it is tested on, as values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from certify.errors import InputError, Problem
from certify.graph.graph import Graph
from certify.graph.module import GraphModule
from certify.graph.reader import read_onnx
from certify.precision import dtype_of, ieee, network_in
from certify.spec import Precision

if TYPE_CHECKING:
    from certify.lipschitz.bound import Bounds

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """A classifier read from ONNX bytes with the contract of its raw input.

    Args:
        graph: the typed graph, the one truth that smoothing, bounds and attacks share.
        digest: SHA-256 of the uploaded bytes, in hex.
        value_range: declared range of raw input values, or null when unknown.
    """

    graph: Graph
    digest: str
    value_range: tuple[float, float] | None = None
    _modules: dict[tuple[str, torch.dtype], GraphModule] = field(default_factory=dict, compare=False, repr=False)
    _parts: dict[tuple[str, ...], Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_onnx(cls, data: bytes, value_range: tuple[float, float] | None = None) -> Model:
        """Read a model from the bytes of one ONNX file.

        Raises:
            ModelRejected: the file is not ONNX, or holds something outside the allow-list; the reason names it.
        """
        return cls(read_onnx(data), hashlib.sha256(data).hexdigest(), value_range)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.graph.input_shape

    @property
    def classes(self) -> int:
        return self.graph.classes

    def module(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GraphModule:
        """The network in eval mode on `device`: (batch, *input) raw input -> (batch, classes) logits. Built once for each pair."""
        ieee()
        key = (device, dtype)
        if key not in self._modules:
            self._modules[key] = GraphModule(self.graph, dtype).to(device).eval().requires_grad_(False)
        return self._modules[key]

    def voters(self, device: str, precision: Precision, field: str) -> Callable[[Tensor], Tensor]:
        """The network as its votes are counted: (batch, *input) float32 -> (batch, classes) float32, computed in `precision`.

        Args:
            device: a torch device name.
            precision: as in a spec.
            field: where it stands in the spec, for a network that cannot be computed so.
        """
        return network_in(self.module(device, dtype_of(precision)), precision, field)

    def before(self, split: str) -> Graph:
        """The encoder: from the raw input to that tensor. Made once."""
        return self._once(("before", split), lambda: self.graph.until(split))

    def behind(self, split: str) -> Model:
        """The head: from that tensor to the logits, as a model of its own. Made once.

        Raises:
            InputError: some path from the input to the logits does not go through the tensor.
        """
        try:
            return self._once(("behind", split), lambda: Model(self.graph.after(split), self.digest))
        except ValueError as error:
            raise InputError.at("split", f"{split!r} is not a cut", str(error)) from None

    @property
    def lipschitz(self) -> Bounds:
        """Upper bounds of the l2 Lipschitz constants of its tensors. Made once."""
        from certify.lipschitz.bound import Bounds

        return self._once(("lipschitz",), lambda: Bounds.of(self.graph))

    @property
    def constants(self) -> dict[str, float]:
        """The l2 Lipschitz constants from cut to cut, which carry rounding errors. Made once."""
        from certify.evaluation.constants import part_constants

        return self._once(("constants",), lambda: part_constants(self.graph))

    def _once(self, key: tuple[str, ...], make: Callable[[], T]) -> T:
        if key not in self._parts:
            self._parts[key] = make()
        found: T = self._parts[key]
        return found


@dataclass(frozen=True)
class Examples:
    """Examples to certify, with the dataset rows they came from (the rows key the noise streams)."""

    rows: tuple[int, ...]
    x: Tensor  # (N, *input), float32, raw input units
    y: Tensor  # (N,), int64

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.x) == len(self.y):
            raise InputError(
                Problem(field="examples", detail=f"{len(self.rows)} rows, {len(self.x)} inputs and {len(self.y)} labels differ")
            )

    def __len__(self) -> int:
        return len(self.rows)

    def digest(self, position: int) -> str:
        """SHA-256 of one input, little-endian float32 in its order."""
        return hashlib.sha256(self.x[position].cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()).hexdigest()

    def part(self, first: int, last: int) -> Examples:
        """Positions first <= i < last."""
        return Examples(self.rows[first:last], self.x[first:last], self.y[first:last])
