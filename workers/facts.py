"""What a worker finds out about a model, beyond reading it."""

from __future__ import annotations

from certify.bounds.support import support as bounds_support
from certify.facts import ModelFacts, OperatorFact, Support, TensorFact
from certify.lipschitz.support import cuts, layers
from certify.lipschitz.support import support as lipschitz_support
from certify.model import Model


def model_facts(model: Model, *, lipschitz: bool = True) -> ModelFacts:
    """Facts of a model, for the API to validate specs against.

    Args:
        lipschitz: with its Lipschitz bounds, which take seconds for large networks.
    """
    facts = _facts(model)
    if not lipschitz:
        return facts
    bounds = model.lipschitz
    # First: bounds of single tensors, asked for later, would stand among the layers.
    rows, ends = layers(bounds), cuts(bounds)
    return facts.model_copy(update={"layers": rows, "cuts": ends, "support": (*facts.support, *lipschitz_support(bounds, ends))})


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
        support=(*voting, *bounds_support(graph)),
        largest_tensor=graph.largest_tensor(),
        flops=graph.flops(),
        cuts=tuple(TensorFact(name=name, shape=graph.shapes[name]) for name in graph.cuts()),
        opset=graph.opset,
        class_names=graph.class_names,
    )
