"""Lower bounds of all margins over a ball, behind a small protocol so that another engine can come."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from certify.bounds import lirpa_compat
from certify.bounds.ball import ball, enclosing_box
from certify.bounds.rounding_error import forward_error
from certify.bounds.running_error import RunningError
from certify.errors import ModelRejected, NumericalError, Problem
from certify.graph.graph import Graph
from certify.graph.module import GraphModule, bounds_module
from certify.norms import Norm

# What it raises when it meets a graph it was not written for; running out of memory (also a RuntimeError) is among them.
FAULTS = (RuntimeError, AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError)

METHODS = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN", "alpha-crown": "CROWN-Optimized"}

# How far two readings of a network in float64 may be apart, as a share of the largest logit (at least 1): orders of magnitude more than
# rounding does in trained networks, and less than any misreading.
_SAME = 1e-10


@dataclass(frozen=True)
class MarginBound:
    """min over the ball and over all rivals of logit[label] - logit[rival] is at least `lower` - `tau`, in real arithmetic.

    `method` is the one that found it. `tau` bounds the rounding of this bound, followed while it was computed (`running_error`);
    `float32_error` the difference of any margin in the ball when the network runs in float32. Both are proved, under the assumptions of
    `docs/rounding.md`, and infinite where nothing is known.
    """

    lower: float
    tau: float
    method: str = ""
    float32_error: float = math.inf

    @property
    def proved(self) -> bool:
        """True only for a finite bound beyond its rounding error: NaN and infinity prove nothing."""
        return abs(self.lower) < float("inf") and self.lower > self.tau

    @property
    def holds_in_float32(self) -> bool:
        """Whether the margin covers its own rounding and that of the network in float32."""
        return self.proved and self.lower > self.tau + self.float32_error


class BoundsEngine(Protocol):
    """Proves margins for one example at a time, so that no result depends on which others are computed with it."""

    version: str

    def margin(
        self,
        x: Tensor,  # (*input), float32 or float64, raw input units
        label: int,
        radius: float,
        method: str,
    ) -> MarginBound: ...


class LirpaEngine:
    """auto-LiRPA on our float64 graph, under our own ball.

    Args:
        graph: the model.
        norm: the ball's norm.
        value_range: cut linf balls to it; null for the full ball.
        iterations: optimisation steps of `alpha-crown`; any number of them is sound.

    Raises:
        ModelRejected: an operator has no sound form; it is named.
        EngineUnavailable: auto-LiRPA is missing or of an unknown version.

    Source: Gowal et al. 2018 (IBP); Zhang et al. 2018 (CROWN), 2020 (CROWN-IBP); Xu et al. 2020 (auto-LiRPA), 2021 (alpha-CROWN).
    """

    def __init__(
        self,
        graph: Graph,
        norm: Norm,
        value_range: tuple[float, float] | None = None,
        device: str = "cpu",
        iterations: int | None = None,
    ) -> None:
        self._lirpa = lirpa_compat.load()
        self.version = f"auto-LiRPA {lirpa_compat.engine_version()}"
        self.norm, self.device, self.classes = norm, device, graph.classes
        self.value_range, self._graph = value_range, graph
        self._deployed = GraphModule(graph, torch.float32).eval().requires_grad_(False).to(device)
        self._plain = GraphModule(graph, torch.float64).eval().requires_grad_(False).to(device)
        self.rewritten, self._iterations = bounds_module(graph).to(device), iterations
        self._bounded, self._rounding = self._build()
        self._known: Tensor | None = None

    def _build(self) -> tuple[Any, RunningError]:
        """A module in float64 that has bounded nothing yet, and what follows its rounding."""
        with lirpa_compat.double():
            bounded = self.read(self.rewritten, torch.float64)
        return bounded, RunningError(bounded, self.rewritten.made_of)

    def read(self, module: GraphModule, dtype: torch.dtype) -> Any:
        """auto-LiRPA's module of a form of the network, of that dtype; it has bounded nothing yet.

        Raises:
            ModelRejected: it cannot be read.
        """
        example = torch.zeros(1, *self._graph.input_shape, dtype=dtype, device=self.device)
        options = lirpa_compat.options(self._iterations)
        try:
            bounded = self._lirpa.BoundedModule(module, example, bound_opts=options, device=self.device)
        except FAULTS as error:
            detail = f"auto-LiRPA cannot read this network ({type(error).__name__}: {str(error)[:200]})"
            raise ModelRejected.at("model", detail, "use randomized smoothing for this model") from None
        bounded.eval()
        return bounded

    def logits(
        self,
        x: Tensor,  # (*input)
    ) -> Tensor:
        """Logits at x, (classes,), float64; the engine's reading of the network must agree with ours.

        Raises:
            NumericalError: a logit is NaN or infinite, or the two readings differ.
        """
        batch = x.to(self.device, torch.float64).unsqueeze(0)
        with torch.no_grad(), lirpa_compat.double():
            ours: Tensor = self._plain(batch)[0]
            theirs: Tensor = self._bounded(batch)[0]
            deployed: Tensor = self._deployed(batch.float())[0]
        # float64 can hold logits that overflow in the float32 network that people run.
        if not bool(ours.isfinite().all() and deployed.isfinite().all()):
            raise NumericalError(Problem(field="model", detail="the input itself gets a NaN or infinite logit", mend="check the weights"))
        if not bool((ours - theirs).abs().max() <= _SAME * max(1.0, float(ours.abs().max()))):
            raise NumericalError(
                Problem(
                    field="model", detail="auto-LiRPA reads this network differently, so its bounds are not used", mend="report this model"
                )
            )
        return ours

    def margin(
        self,
        x: Tensor,  # (*input), raw input units
        label: int,
        radius: float,
        method: str,
    ) -> MarginBound:
        """The margin bound by one of `METHODS`.

        Raises:
            NumericalError: the engine failed on this network, or the input itself has no finite logits.
        """
        if self._known is None or not torch.equal(self._known, x):
            self.logits(x)
            self._known = x.clone()
        batch = x.to(self.device, torch.float64).unsqueeze(0)
        radii = torch.tensor([radius], dtype=torch.float64, device=self.device)
        region = self._lirpa.BoundedTensor(batch, ball(batch, radii, self.norm, self.value_range))
        # Optimising leaves traces in the module, and a fault leaves it broken: what came before must not show in any bound.
        bounded, rounding = self._build() if method == "alpha-crown" else (self._bounded, self._rounding)
        try:
            with torch.set_grad_enabled(method == "alpha-crown"), lirpa_compat.double():
                lower, _ = bounded.compute_bounds(x=(region,), C=self.rivals(label), method=METHODS[method], bound_upper=False)
        except FAULTS as error:
            if bounded is self._bounded:
                self._bounded, self._rounding = self._build()
            detail = f"auto-LiRPA cannot bound this network ({type(error).__name__}: {str(error)[:200]})"
            raise NumericalError(Problem(field="method", detail=detail, mend="use another method, or randomized smoothing")) from None
        # min() would skip no NaN in torch, but say so: a NaN margin must never read as a number.
        margin = float("nan") if bool(lower.isnan().any()) else float(lower.detach().min())
        return MarginBound(margin, rounding.error, method)

    def rounded(
        self,
        bound: MarginBound,
        x: Tensor,  # (*input), raw input units
        label: int,
        radius: float,
    ) -> MarginBound:
        """The bound with what is known about float32 runtimes in this ball: asked once, for a radius that is going to be stored."""
        box = enclosing_box(x.double().unsqueeze(0).cpu(), torch.tensor([radius], dtype=torch.float64), self.value_range)
        low, high = (end[0] for end in box)
        return replace(bound, float32_error=forward_error(self._graph, low, high, torch.float32).margin(label))

    def rivals(self, label: int) -> Tensor:
        """logit[label] - logit[rival] for every rival: (1, classes - 1, classes)."""
        identity = torch.eye(self.classes, dtype=torch.float64, device=self.device)
        others = [rival for rival in range(self.classes) if rival != label]
        return (identity[label].unsqueeze(0) - identity[others]).unsqueeze(0)
