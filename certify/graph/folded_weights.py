"""Operators whose weights nodes on constants made: with the values that are certified, and bounds of how far these are off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from certify.errors import ModelRejected
from certify.graph.folding_error import Folded
from certify.graph.folding_rules import UNIT32
from certify.graph.operators import OPERATORS, Node, Operator
from certify.graph.operators.base import Loose

Array = np.ndarray[Any, Any]

_UNITS32 = 8 * UNIT32  # in which spreads are read, as errors are in `Loose.UNITS`


def read_all(node: Node, folded: Mapping[str, Folded]) -> tuple[Operator, ...]:
    """The operators of a node, their weights in real arithmetic but for what `loose` says.

    Args:
        folded: the constants that nodes on constants computed.

    An operator puts its constants at their places and computes nothing with them, so that it is read again for each thing that is known
    of them: the values in float64, and bounds of their errors in the same places.

    Raises:
        ModelRejected: as `Operator.read`.
    """
    operators = OPERATORS[node.type].read_all(node)
    known = {name: folded[name] for name in node.constants if name in folded}
    if not known:
        return operators
    unknown = next((f"reads {name!r}, {why}" for name, made in known.items() if (why := _in_doubt(made))), "")
    unknown = unknown or _by_batch(node)
    name, _ = next(iter(known.items()))
    if not unknown and all(_runs(made, node.constants[name]) for name, made in known.items()):
        again = operators  # only float32 runtimes may make something else
    else:
        unknown = unknown or (
            "" if all(o.follows for o in operators) else f"reads {name!r}, which is folded, and no rule follows its error"
        )
        again = () if unknown else _again(node, {name: made.value for name, made in known.items()})
    if not again:
        why = unknown or _decides(name)
        return tuple(_doubted(operator, why) for operator in operators)
    sizes = _again(node, {name: _size(made.value, made.error, Loose.UNITS) for name, made in known.items()}, np.abs)
    spreads: tuple[Operator, ...] = ()
    if all(np.all(np.isfinite(made.spread)) for made in known.values()):
        spreads = _again(node, {name: _size(made.value, made.spread, _UNITS32) for name, made in known.items()}, np.abs)
    each = (operators, again, sizes or operators, spreads or operators)
    return tuple(_joined(*one, decided=bool(spreads)) if sizes else _doubted(one[0], _decides(name)) for one in zip(*each, strict=True))


def _in_doubt(made: Folded) -> str:
    if np.all(np.isfinite(made.error)):
        return ""
    return "which is folded by nodes for which no bound of the rounding error is known: export with constant folding"


def _by_batch(node: Node) -> str:
    """Numbers that are laid out by the batch size stand in `by_batch`, where other values cannot be put in their place."""
    found = (name for name in node.by_batch if node.constants[name].dtype.kind == "f")
    name = next(found, "")
    return f"reads {name!r}, which is laid out by the batch size, beside folded numbers" if name else ""


def _runs(made: Folded, deployed: Array) -> bool:
    """Whether the constant that runs is the real one."""
    return not np.any(made.error) and np.array_equal(made.value, deployed)


def _size(value: Array, bound: Array, units: float) -> Array:
    """In `units` of which the bound stands; never the magnitude itself where there is a bound, which says that there is none."""
    size: Array = np.where(bound == 0, np.abs(value), np.maximum(2 * np.abs(value), bound.astype(np.float64) / units))
    return size


def _again(node: Node, values: Mapping[str, Array], others: Callable[[Array], Array] = np.asarray) -> tuple[Operator, ...]:
    """Read with other constants; empty where it is refused with them."""
    rest = {name: others(value) if value.dtype.kind == "f" else value for name, value in node.constants.items()}
    try:
        return OPERATORS[node.type].read_all(replace(node, constants={**rest, **values}, real=True))
    except ModelRejected:
        return ()


def _decides(name: str) -> str:
    return f"reads {name!r}, which decides its form and is folded"


def _doubted(operator: Operator, why: str) -> Operator:
    return replace(operator, loose=replace(operator.loose, unknown=why, undecided=why))


def _joined(deployed: Operator, real: Operator, sizes: Operator, spreads: Operator, *, decided: bool) -> Operator:
    """The operator with real weights and what is known of them."""
    forms = [replace(each, weights={}, loose=Loose()) for each in (deployed, real, sizes, spreads)]
    if any(form != forms[0] for form in forms):
        return _doubted(deployed, _decides(deployed.name))
    found = Loose(
        deployed={key: value for key, value in deployed.weights.items() if not np.array_equal(value, real.weights[key])},
        sizes=_apart(real, sizes),
        spreads={key: _UNITS32 * size for key, size in _apart(real, spreads).items()} if decided else {},
        undecided="" if decided else "reads a constant that float32 runtimes may fold to anything",
    )
    return replace(real, loose=found)


def _apart(real: Operator, sizes: Operator) -> dict[str, Array]:
    """The sizes of the weights that are not exact."""
    return {key: size for key, size in sizes.weights.items() if not np.array_equal(size, np.abs(real.weights[key]))}
