"""Where text is made of a radius: it goes through `certify/rounding.py`, or this finds it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

_RADIUS = re.compile(r"radi(us|i)|epsilon|distance_upper|(^|_)reach(es)?$", re.IGNORECASE)
_MAKES_TEXT = ("repr", "str", "format", "round")
# What comes out of these is no radius: a number of radii, a truth.
_SPARED = ("len", "bool", "isinstance", "x")  # x: a place on a page


def unrounded(source: str) -> Iterator[str]:
    """Every place that turns a radius into text by itself: in an f-string, with repr, str, format or round, or by %.

    A radius is what is called one, and what a comprehension takes from something that is called radii.
    """
    tree = ast.parse(source)
    taken = set(_taken(tree))
    for node in ast.walk(tree):
        for part in _texts(node):
            if _shows(part, taken):
                yield f"{part.lineno}: {ast.unparse(part)}"


def _texts(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that a node turns into text."""
    if isinstance(node, ast.FormattedValue):
        yield node.value
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name in _MAKES_TEXT or name.endswith(".format"):
            yield from node.args
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant | ast.JoinedStr):
        yield node.right


def _shows(node: ast.expr, taken: set[str]) -> bool:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).rpartition(".")[2]
        if name.startswith("show_") or name in _SPARED:
            return False
    if isinstance(node, ast.Compare | ast.BoolOp | ast.Lambda | ast.Constant | ast.JoinedStr):
        return False  # an f-string inside is looked at by itself
    if isinstance(node, ast.IfExp):
        return _shows(node.body, taken) or _shows(node.orelse, taken)
    if isinstance(node, ast.Name):
        return node.id in taken or _RADIUS.search(node.id) is not None
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return _RADIUS.search(node.slice.value) is not None
    if isinstance(node, ast.Attribute):
        return _RADIUS.search(node.attr) is not None
    return any(_shows(child, taken) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))


def _taken(tree: ast.AST) -> Iterator[str]:
    """Names that a loop or a comprehension binds to single radii."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.comprehension | ast.For) or not isinstance(node.target, ast.Name):
            continue
        if isinstance(node.iter, ast.Name | ast.Attribute) and re.search("radii", ast.unparse(node.iter)):
            yield node.target.id
