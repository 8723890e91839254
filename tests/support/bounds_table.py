"""The table of docs/bounds.md: what bound propagation does with every operator, read off the operators themselves.

python -m tests.support.bounds_table
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable

from certify.graph.graph import Graph
from certify.graph.operators import OPERATORS, Operator
from certify.graph.operators.affine import LinearForm
from certify.graph.reader import read_onnx

# How the forms that are not the operator itself are made.
_FORMS = {
    "LinearForm": "a matrix along each axis: transposes, 1x1 convolutions, sums",
    "EvenConv": "a 2-D convolution padded evenly, without dilations",
    "MaxOfWindows": "windows laid out side by side, then max pooling without overlap",
    "TwoSided": "relu(x) + a relu(-x)",
    "Bend": "ReLUs against each end",
    "ScaleShift": "x * scale + shift",
    "Mixture": "a sum of inputs times constants",
    "Extreme": "ReLUs of differences",
}


def table(graphs: Iterable[Graph]) -> str:
    """Markdown: one row for each operator type of the allow-list, from all uses of it in `graphs`."""
    forms: dict[str, set[str]] = defaultdict(set)
    reasons: dict[str, set[str]] = defaultdict(set)
    for graph in graphs:
        for operator in graph.operators:
            if operator.unbounded:
                reasons[operator.type].add(operator.unbounded)
            else:
                forms[operator.type].add(_form(operator))
    lines = ["| operator | bounds | as | refused |", "|---|---|---|---|"]
    for kind in sorted(OPERATORS):
        verdict = "yes" if not reasons[kind] else "in part" if forms[kind] else "no"
        why = "; ".join(sorted(reason for reason in reasons[kind] if reason != f"the operator {kind}"))
        lines.append(f"| {kind} | {verdict} | {'; '.join(sorted(forms[kind]))} | {why or ('not shown sound' if reasons[kind] else '')} |")
    return "\n".join(lines) + "\n"


def _form(operator: Operator) -> str:
    rewritten = operator.for_bounds()
    if type(rewritten) is LinearForm and any(step[0] == step[2] == 1 for chain in rewritten.steps for step in chain):
        # One step over all values at once, unless the example has one axis only.
        return "one matrix" if any(len(shape) > 1 for shape in operator.sources) else _FORMS["LinearForm"]
    return _FORMS.get(rewritten.type, "itself")


def current() -> str:
    """The table of all networks that the operators are tested on."""
    from tests.certify.graph.test_operators import CASES

    return table(read_onnx(data) for data in CASES.values())


if __name__ == "__main__":
    sys.stdout.write(current())
