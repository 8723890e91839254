"""What a worker found in a model or a dataset, as tables."""

from __future__ import annotations

from collections import Counter
from typing import Any

from api.cli.console import show_table
from certify.errors import Problem
from certify.facts import DatasetFacts, ModelFacts, RuntimeFact, TensorFact
from certify.rounding import show_upper

_SHOWN_CUTS = 40
_SHOWN_LAYERS = 200


def show_artifact(found: dict[str, Any]) -> None:
    """One model or dataset as the service answers it."""
    rows = [("id", found["id"]), ("name", f"{found['name']} v{found['version']}"), ("state", found["state"]), ("sha256", found["blob"])]
    rows += [("why", found["condition"])] if found["condition"] else []
    rows += [("rejected", Problem(**problem).sentence()) for problem in found["rejection"]]
    facts = found["facts"]
    if facts is None:
        show_table(("", ""), rows)
    elif "classes" in facts:
        _model(rows, ModelFacts.model_validate(facts), found["range"])
    else:
        _dataset(rows, DatasetFacts.model_validate(facts))


def _model(rows: list[tuple[str, str]], facts: ModelFacts, value_range: list[float] | None) -> None:
    values = f", values {value_range[0]:g} to {value_range[1]:g}" if value_range else ""
    rows += [
        ("input", _shape(facts.input_shape) + values),
        ("classes", _classes(facts.classes, facts.class_names)),
        ("parameters", f"{facts.parameters:,}"),
        ("operations per example", f"{_si(facts.flops)}FLOP"),
        ("opset", str(facts.opset)),
        ("onnxruntime", _runtime(facts.runtime)),
    ]
    show_table(("", ""), rows)
    _operators(facts)
    _layers(facts)
    _cuts(facts.cuts)
    _support(facts)


def _runtime(fact: RuntimeFact | None) -> str:
    if fact is None:
        return "nobody looked"
    return fact.sentence or f"{fact.version} computes the same with its default options"


def _dataset(rows: list[tuple[str, str]], facts: DatasetFacts) -> None:
    rows += [
        ("examples", f"{facts.count:,} of shape {_shape(facts.input_shape)}"),
        ("values", f"{facts.low:g} to {facts.high:g}" + (", rounded from float64 to float32" if facts.rounded else "")),
        ("labels", f"{facts.label_low} to {facts.label_high}"),
        ("class names", ", ".join(facts.class_names) if facts.class_names else "none"),
    ]
    show_table(("", ""), rows)


def _operators(facts: ModelFacts) -> None:
    counts: Counter[str] = Counter(operator.type for operator in facts.operators)
    costs: Counter[str] = Counter()
    for operator in facts.operators:
        costs[operator.type] += operator.flops
    rows = [(kind, counts[kind], f"{_si(costs[kind])}FLOP", f"{_share(costs[kind], facts.flops)}") for kind, _ in costs.most_common()]
    show_table(("operator", "count", "operations", "share"), rows, "Operators")


def _layers(facts: ModelFacts) -> None:
    """How far each operator can pull two values apart, in l2: which layer costs a radius how much."""
    if not facts.layers:
        return
    rows = [
        (layer.name, layer.type, layer.reason or layer.how, _upper(layer.constant), _upper(layer.total))
        for layer in facts.layers[:_SHOWN_LAYERS]
    ]
    more = len(facts.layers) - len(rows)
    title = "Lipschitz bounds (l2): of each operator, and from the input to its output"
    show_table(
        ("operator", "type", "how", "factor", "from the input"), [*rows, *([("...", f"{more} more", "", "", "")] if more else [])], title
    )


def _upper(bound: float | None) -> str:
    return "" if bound is None else show_upper(bound)


def _cuts(cuts: tuple[TensorFact, ...]) -> None:
    rows = [(cut.name, _shape(cut.shape), _upper(cut.lipschitz)) for cut in cuts[:_SHOWN_CUTS]]
    more = len(cuts) - len(rows)
    title = "Cuts: every path goes through these tensors"
    show_table(("tensor", "shape", "Lipschitz from the input"), [*rows, *([("...", f"{more} more", "")] if more else [])], title)


def _support(facts: ModelFacts) -> None:
    rows = [
        (" ".join(filter(None, (row.kind, row.method))), row.norm, "yes" if row.supported else "no", row.reason) for row in facts.support
    ]
    show_table(("method", "norm", "supported", "why not"), rows, "Certificates")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _classes(count: int, names: tuple[str, ...] | None) -> str:
    return f"{count}: {', '.join(names)}" if names else str(count)


def _si(number: int) -> str:
    for factor, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {letter}"
    return f"{number} "


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
