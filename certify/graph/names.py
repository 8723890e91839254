"""Names of tensors and operators come from the file; those that cannot be shown are renamed before anybody sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from certify.text import printable

Name = str | bytes  # protobuf gives a name that is not UTF-8 as bytes


def rename_unprintable(graph: onnx.GraphProto) -> None:
    """Give every tensor and node whose name holds a control character, a bidi mark or the like a printable name, in place.

    Tensors with different names keep different names, so the graph computes what it did.
    """
    names = list(dict.fromkeys(_tensors(graph)))
    taken = {name for name in names if isinstance(name, str) and name.isprintable()}
    new: dict[Name, str] = {}
    for name in names:
        if name not in taken:
            new[name] = _free(_shown(name), taken)
    for node in graph.node:
        node.name = _shown(node.name)
    if new:
        _rename(graph, new)


def _shown(name: Name) -> str:
    return printable(name if isinstance(name, str) else name.decode(errors="replace"))


def _tensors(graph: onnx.GraphProto) -> Iterator[Name]:
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        yield from (value.name for value in values)
    for node in graph.node:
        yield from node.input
        yield from node.output


def _free(wanted: str, taken: set[str]) -> str:
    """`wanted`, numbered where another tensor has that name; taken from then on."""
    found = wanted
    number = 1
    while found in taken:
        number += 1
        found = f"{wanted}~{number}"
    taken.add(found)
    return found


def _rename(graph: onnx.GraphProto, new: dict[Name, str]) -> None:
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in values:
            value.name = new.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = _renamed(node.input, new)
        node.output[:] = _renamed(node.output, new)


def _renamed(names: Iterable[Name], new: dict[Name, str]) -> list[str]:
    return [new.get(name) or str(name) for name in names]
