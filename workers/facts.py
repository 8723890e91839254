"""What a worker finds out about a model, beyond reading it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from certify.bounds.ladder import LADDERS
from certify.bounds.support import NORMS
from certify.bounds.support import support as bounds_support
from certify.facts import ModelFacts, OperatorFact, Support, TensorFact
from certify.lipschitz.support import cuts, layers
from certify.lipschitz.support import support as lipschitz_support
from certify.model import Model
from certify.norms import Norm


def model_facts(model: Model, *, lipschitz: bool = True) -> ModelFacts:
    """Facts of a model, for the API to validate specs against.

    Args:
        lipschitz: with its Lipschitz bounds, which take seconds for large networks.
    """
    facts = _facts(model)
    if not lipschitz:
        return facts
    found = _apart("Lipschitz bounds", lambda: _lipschitz(model), _LIPSCHITZ)
    return facts.model_copy(update={**found, "support": (*facts.support, *found["support"])})


# The kinds that cannot be used where an analysis has failed: kind, methods and norms.
_LIPSCHITZ = [("lipschitz", None, Norm.L2), ("latent-smoothing", None, Norm.L2)]
_BOUNDS = [("bounds", method, norm) for method in LADDERS for norm in NORMS]


def _lipschitz(model: Model) -> dict[str, Any]:
    bounds = model.lipschitz
    # First: bounds of single tensors, asked for later, would stand among the layers.
    rows = layers(bounds)
    ends = cuts(bounds)
    return {"layers": rows, "cuts": ends, "support": lipschitz_support(bounds, ends)}


def _apart(analysis: str, find: Callable[[], dict[str, Any]], kinds: Sequence[tuple[str, str | None, str]]) -> dict[str, Any]:
    """What an analysis found; where it fails, the kinds that need it are not supported, and nothing else is lost.

    Memory that runs out is a failure of the machine and says nothing about the model: it goes on.
    """
    try:
        return find()
    except MemoryError:
        raise
    except Exception as error:
        # To stderr: the standard output of an inspection is its answer.
        logging.getLogger(__name__).exception("%s of a model failed: a fault of Assay", analysis)
        reason = f"a fault of Assay, not of the model: its {analysis} ended in {type(error).__name__}"
        rows = (Support(kind=kind, method=method, norm=norm, supported=False, reason=reason) for kind, method, norm in kinds)
        return {"support": tuple(rows)}


def _facts(model: Model) -> ModelFacts:
    graph = model.graph
    # Votes need nothing of a model but its answers.
    voting = (
        Support(kind=kind, method=None, norm=norm, supported=True)
        for kind, norm in (("smoothing", "l2"), ("smoothing", "l1"), ("instance-smoothing", "l2"), ("dssn", "l1"))
    )
    operators = (
        OperatorFact(type=o.type, name=o.name, output=TensorFact(name=o.output, shape=o.shape), flops=o.flops) for o in graph.operators
    )
    return ModelFacts(
        input_shape=graph.input_shape,
        classes=graph.classes,
        parameters=graph.parameters(),
        operators=tuple(operators),
        support=(*voting, *_apart("bounds", lambda: {"support": bounds_support(graph)}, _BOUNDS)["support"]),
        largest_tensor=graph.largest_tensor(),
        flops=graph.flops(),
        cuts=tuple(TensorFact(name=name, shape=graph.shapes[name]) for name in graph.cuts()),
        opset=graph.opset,
        class_names=graph.class_names,
    )
