"""Where a radius may be found: bounds in float32 that reuse what is known of larger balls. They propose, and prove nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certify.bounds import lirpa_compat
from certify.bounds.ball import ball, enclosing_box
from certify.bounds.engine import FAULTS, METHODS, LirpaEngine
from certify.norms import Norm

_HALVINGS = 50
_FARTHEST = 1e30  # lines are followed no farther


@dataclass(frozen=True)
class Probe:
    """A margin at a radius, and where the same linear bounds cross zero: NaN where unknown.

    Linear bounds made for a ball hold in every smaller one: a `reach` below the radius is one that they would prove. Beyond the radius
    they hold no more, and it is an upper estimate.
    """

    margin: float
    reach: float = math.nan


class Scout:
    """The engine's bounds at a fraction of their cost, for one example at a time; nothing found here is ever claimed.

    In float32, and CROWN walks back only from neurons that were unstable in the smallest known ball around the asked one, in networks
    whose only curves are ReLUs.

    Args:
        engine: its network, norm and range are explored.
    """

    def __init__(self, engine: LirpaEngine) -> None:
        self._engine, self._network = engine, copy.deepcopy(engine.rewritten).float()
        self._bounded = self._read()
        # Neurons that are known to be stable get no new bounds: a ReLU needs none, other operators would be relaxed too widely.
        self._reusing = all(operator.type == "Relu" for operator in self._network.graph.operators if operator.relaxed)
        self._known: list[tuple[float, dict[str, tuple[Tensor, Tensor]]]] = []

    def _read(self) -> Any:
        with lirpa_compat.quiet():
            return self._engine.read(self._network, torch.float32)

    def begin(self) -> None:
        """Forget what was learnt about the last example."""
        self._known.clear()

    def probe(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        radius: float,
        method: str,
    ) -> Probe:
        """What the method finds at a radius; NaN where it fails."""
        optimised = method == "alpha-crown"
        bounded = self._read() if optimised else self._bounded
        batch = x.to(self._engine.device, torch.float32).unsqueeze(0)
        region = self._ball(batch, radius)
        rivals, known = self._engine.rivals(label).float(), self._nearest(radius) if method == "crown" else {}
        try:
            with torch.set_grad_enabled(optimised), lirpa_compat.quiet():
                inside = lirpa_compat.load().BoundedTensor(batch, region)
                lower, _ = bounded.compute_bounds(
                    x=(inside,), C=rivals, method=METHODS[method], bound_upper=False, aux_reference_bounds=known
                )
        except FAULTS:
            self._bounded = bounded if optimised else self._read()
            return Probe(math.nan)
        if method == "crown" and self._reusing:
            self._known.append((radius, lirpa_compat.intermediate_bounds(bounded)))
        margins = lower.detach().double()
        lowest = math.nan if bool(margins.isnan().any()) else float(margins.min())
        return Probe(lowest, self._reach(batch, margins, region, radius))

    def _ball(
        self,
        x: Tensor,  # (1, *input)
        radius: float,
    ) -> Any:
        radii = torch.tensor([radius], dtype=x.dtype, device=x.device)
        return ball(x, radii, self._engine.norm, self._engine.value_range)

    def _nearest(self, radius: float) -> dict[str, tuple[Tensor, Tensor]]:
        """Bounds of all neurons in the smallest known ball that holds this one."""
        larger = [known for known in self._known if known[0] >= radius]
        return min(larger, key=lambda known: known[0])[1] if larger else {}

    def _reach(
        self,
        x: Tensor,  # (1, *input)
        margins: Tensor,  # (1, rivals)
        region: Any,
        radius: float,
    ) -> float:
        """Where the lines that gave `margins` at `radius` cross zero."""
        lines = region.lines
        if lines is None or lines.shape[:2] != margins.shape or not bool(margins.isfinite().all()):
            return math.nan
        fall = self._fall(x, lines)
        centre = margins + fall(radius)

        def holds(r: float) -> bool:
            return bool((centre > fall(r)).all())

        low, high = 0.0, radius
        while holds(high):
            low, high = high, 2 * high
            if high > _FARTHEST:
                return math.inf
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low

    def _fall(
        self,
        x: Tensor,  # (1, *input)
        lines: Tensor,  # (1, rivals, *input)
    ) -> Callable[[float], Tensor]:
        """How far each line falls from x to the worst point of a ball, (1, rivals), by radius."""
        rows, norm, value_range = lines.double().flatten(2), self._engine.norm, self._engine.value_range
        if value_range is None:
            size = torch.linalg.vector_norm(rows, {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}[norm.dual], dim=2)
            return lambda r: size * r

        def clipped(r: float) -> Tensor:
            low, high = enclosing_box(x.double(), torch.full((1,), r, dtype=torch.float64, device=x.device), value_range)
            down, up = (x - low).flatten(1).unsqueeze(1), (high - x).flatten(1).unsqueeze(1)
            return (rows.clamp(min=0) * down - rows.clamp(max=0) * up).sum(2)

        return clipped
