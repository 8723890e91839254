"""The rounding error of linear bounds and intervals, followed while auto-LiRPA computes them.

Coefficients A of a linear bound pass one node after another on their way back to the input. What rounding costs at a node is at most
|A| d, with a vector d that depends on the node alone (`running_rules`): a bound pays for the coefficients that it really has, and nothing
grows with products of weights. The costs of a walk are added up beside it, row by row.

Bounds that are needed on the way, of the inputs of what is relaxed, are made wider by their own error as soon as they are there. So they
hold in real arithmetic, no relaxation made from them is violated because of them, and a later call may use them for any smaller ball.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.1 (gamma_n) and 3.3 (running error analysis).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from certify.bounds.running_rules import leaf, rule
from certify.bounds.running_terms import EXTRA, FARTHEST, LOST, UNIT, UP, Around, Unknown, checked, constant, gamma

_T = TypeVar("_T")


class RunningError:
    """Watches every bound that a module of auto-LiRPA computes in float64; `error` is that of its last `compute_bounds`.

    No real margin in the ball is below the lower bound that `compute_bounds` gave minus `error`. Real means: the function of the weights
    that the module was made from, in real arithmetic. Proved, under the assumptions of `docs/rounding.md`; infinite, with the `reason`,
    where a node has no rule. With optimised slopes it is the largest error of all walks, of which the engine keeps the best bounds.

    Args:
        bounded: the module, not watched yet; it and its nodes are wrapped.
        made_of: for weights that are rounded sums, by name, the sums of the magnitudes of their terms; others are off by 8 roundings at
            most.
    """

    def __init__(self, bounded: Any, made_of: Mapping[str, Tensor]) -> None:
        self.reason = ""
        self._final, self._made_of = bounded.final_name, made_of
        self._nodes = {node.name for node in bounded._modules.values()}
        self._sums, self._depth = len(self._nodes) + EXTRA, 0
        self._walked: float | None = None
        self._enclosed: float | None = None
        self._sides: list[Any] = [0.0, 0.0]
        self._masses: dict[str, Tensor] = {}
        self._charges: dict[str, Tensor | None] = {}
        self._constants: dict[str, Tensor] = {}
        self._paid: set[str] = set()
        for node in bounded._modules.values():
            _wrap(node, "bound_backward", functools.partial(self._back, node))
            _wrap(node, "interval_propagate", functools.partial(self._forward, node))
        _wrap(bounded, "compute_bounds", self._compute_bounds)
        _wrap(bounded, "backward_general", self._backward_general)
        _wrap(bounded, "IBP_general", self._interval_general)

    @property
    def error(self) -> float:
        """Of the margins of the last `compute_bounds`, the largest; infinite where it is not known."""
        found = self._enclosed if self._walked is None else self._walked
        return math.inf if self.reason or found is None or math.isnan(found) else found

    def _guarded(self, function: Callable[..., _T], *given: Any) -> _T | None:
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self._guarded(function, *given)
        try:
            return function(*given)
        except Unknown as unknown:
            self.reason = self.reason or str(unknown)
            return None

    def _back(self, node: Any, original: Any, *given: Any, **extra: Any) -> Any:
        found = original(*given, **extra)
        self._guarded(self._step, node, given[:2], found[0])
        return found

    def _forward(self, node: Any, original: Any, *given: Any, **extra: Any) -> Any:
        found = original(*given, **extra)
        slack = self._guarded(self._slack, node, given)
        # With C it is a margin, of which the error is known elsewhere.
        if slack is None or extra.get("C") is not None:
            return found
        # In order, as the engine views intervals as one line, which it cannot after a transpose.
        return ((found[0] - slack).contiguous(), (found[1] + slack).contiguous())

    def _compute_bounds(self, original: Any, *given: Any, **extra: Any) -> Any:
        """The whole; optimising calls it again from inside, each time with bounds of its own."""
        if self._depth == 0:
            self.reason, self._walked, self._enclosed = "", None, None
        self._masses, self._charges = {}, {}
        (extra["x"] if "x" in extra else given[0])[0].ptb.witness = self._concretised
        self._depth += 1
        try:
            return original(*given, **extra)
        finally:
            self._depth -= 1

    def _backward_general(self, original: Any, *given: Any, **extra: Any) -> Any:
        """One walk back from a node; the bounds of any node but the last are made wider."""
        node = next(value for value in (*extra.values(), *given) if getattr(value, "name", None) in self._nodes)
        outer = self._sides, self._paid
        self._sides, self._paid = [LOST, LOST], set()
        try:
            found = original(*given, **extra)
            lower, upper = self._sides
        finally:
            self._sides, self._paid = outer
        if node.name == self._final:
            self._walked = _largest(self._walked, lower)
            return found
        return (_moved(found[0], lower, -1), _moved(found[1], upper, 1), *found[2:])

    def _interval_general(self, original: Any, *given: Any, **extra: Any) -> Any:
        """Intervals up to a node. Margins are a product of `C` with them, or of `C` with the node's matrix and then with its input."""
        found = original(*given, **extra)
        if extra.get("C") is not None:
            error = self._guarded(self._product_error, extra["node"] if "node" in extra else given[0], extra["C"])
            self._enclosed = _largest(self._enclosed, math.inf if error is None else error)
        return found

    def _product_error(
        self,
        node: Any,
        rows: Tensor,  # (1, margins, classes)
    ) -> Tensor:
        mass = self._mass(node)
        return gamma(rule(node).roundings(node) + mass.numel() + EXTRA) * _along(rows[0], mass) + LOST

    def _slack(self, node: Any, ends: tuple[tuple[Tensor, Tensor], ...]) -> Tensor | None:
        """How far the ends of an interval that the node makes can be off; null for not at all."""
        roundings = rule(node).roundings(node)
        if not roundings:
            return None
        around = self._around(node)._replace(
            reach=lambda i: _size(*ends[i]) if node.inputs[i].perturbed else self._reach(node.inputs[i]), interval=lambda: None
        )
        mass = self._masses[node.name] = checked(rule(node).mass(node, around))
        return gamma(roundings) * mass + LOST

    def _step(self, node: Any, coefficients: tuple[Any, ...], parts: Any) -> None:
        for side in (side for side in (0, 1) if coefficients[side] is not None):
            charge = None if node.name in self._paid else self._charge(node, side)
            if charge is not None:
                self._add(side, coefficients[side], charge)
            for value, part in zip(node.inputs, parts, strict=False):
                # What more than two nodes send back to one is added up one after another.
                if value.perturbed and len(value.output_name) > 2 and part[side] is not None:
                    self._add(side, part[side], gamma(len(value.output_name)) * checked(self._reach(value)))
        if rule(node).bends and self._leads_only_to(node):
            self._paid.add(node.inputs[0].name)

    def _concretised(
        self,
        rows: Tensor,  # (1, rows, values), magnitudes
        sign: int,
        size: Tensor,  # (1, *input), the largest values in the ball
    ) -> None:
        """The last step of a walk, where coefficients meet the ball."""
        side = int(sign > 0)
        charge = self._guarded(lambda: constant(checked(size, FARTHEST), self._sums))
        if charge is not None:
            self._sides[side] = self._sides[side] + (rows[0] @ charge.reshape(-1)) * UP

    def _add(
        self,
        side: int,
        rows: Any,
        charge: Tensor,  # (1, *shape), or (rows, 1, *shape)
    ) -> None:
        self._sides[side] = self._sides[side] + _along(rows, charge)

    def _charge(self, node: Any, side: int) -> Tensor | None:
        """The vector, with that of the node before it where this one leads to nothing else; null for none."""
        found = rule(node)
        if node.name in self._charges and not found.again:
            return self._charges[node.name]
        charge = found.charge(node, self._around(node, side), self._mass(node), side) if found.charge is not None else None
        if len(node.output_name) == 2:
            # Coefficients from two nodes were added up.
            charge = (0.0 if charge is None else charge) + UNIT * UP * self._reach(node)
        self._charges[node.name] = None if charge is None else checked(charge)
        return self._charges[node.name]

    def _leads_only_to(self, node: Any) -> bool:
        """Whether the node's input gets its coefficients from this node alone, so that it can be paid for here."""
        before = node.inputs[0]
        return before.perturbed and len(before.output_name) == 1 and len(before.inputs) > 0 and not rule(before).again

    def _before(self, node: Any, side: int) -> Tensor | None:
        return self._charge(node.inputs[0], side) if self._leads_only_to(node) else None

    def _around(self, node: Any, side: int = 0) -> Around:
        return Around(
            reach=lambda i: self._reach(node.inputs[i]),
            interval=lambda: _ends(node.inputs[0]),
            before=lambda: self._before(node, side),
            sums=self._sums,
        )

    def _reach(self, node: Any) -> Tensor:
        """The largest magnitude of each of its values in the ball; of a constant, that of the terms it was made of."""
        if node.perturbed:
            ends = _ends(node)
            return self._mass(node) if ends is None else _size(*ends)
        if node.name not in self._constants:
            value, size = leaf(node).abs(), self._made_of.get(getattr(node, "ori_name", ""))
            self._constants[node.name] = checked(value if size is None else size.to(value.device))
        return self._constants[node.name]

    def _mass(self, node: Any) -> Tensor:
        if node.name not in self._masses:
            self._masses[node.name] = checked(rule(node).mass(node, self._around(node)))
        return self._masses[node.name]


def _wrap(owner: Any, name: str, watched: Callable[..., Any]) -> None:
    object.__setattr__(owner, name, functools.partial(watched, getattr(owner, name)))


def _ends(node: Any) -> tuple[Tensor, Tensor] | None:
    """The interval of a node, (1, *shape) each, where the engine has one by now."""
    if hasattr(type(node), "is_lower_bound_current") and not (node.is_lower_bound_current() and node.is_upper_bound_current()):
        return None
    low, high = getattr(node, "lower", None), getattr(node, "upper", None)
    if not isinstance(low, Tensor) or not isinstance(high, Tensor) or not low.shape == high.shape == node.output_shape:
        return None
    return low.detach(), high.detach()


def _size(low: Tensor, high: Tensor) -> Tensor:  # low, high: (1, *shape)
    return torch.maximum(low.detach().abs(), high.detach().abs())


def _along(
    rows: Any,  # (rows, [1,] *shape); a matrix with one 1 in each row may be given by a class of its own
    charge: Tensor,  # (1, *shape), or (rows, 1, *shape)
) -> Tensor:
    """|rows| charge for each row, (rows,), rounded up."""
    vector = charge.reshape(-1)
    if type(rows).__name__ == "eyeC":
        return vector
    if type(rows).__name__ == "OneHotC" and rows.coeffs is None:
        return vector[rows.index.reshape(-1)]
    if not isinstance(rows, Tensor) or rows.numel() % len(vector) or rows.numel() not in (len(vector), len(rows) * len(vector)):
        raise Unknown(f"coefficients as {type(rows).__name__} of shape {tuple(getattr(rows, 'shape', ()))}")
    sizes = rows.detach().abs().reshape(len(rows), -1)
    if sizes.shape[1] == len(vector):
        return (sizes @ vector) * UP
    return (sizes * charge.reshape(sizes.shape)).sum(1) * UP


def _moved(bound: Tensor | None, error: Tensor | float, sign: int) -> Tensor | None:  # bound: (1, *shape); error: (rows,)
    """The bound moved outward, by its own rounding as well."""
    if bound is None:
        return None
    wide = error.reshape(bound.shape) if isinstance(error, Tensor) else error
    return bound + sign * (wide + 4 * UNIT * (wide + bound.detach().abs()))


def _largest(known: float | None, found: Tensor | float) -> float:  # found: (rows,)
    """NaN where anything is."""
    largest = float(found.max()) if isinstance(found, Tensor) else found
    return math.nan if math.isnan(largest) or (known is not None and math.isnan(known)) else max(known or 0.0, largest)
