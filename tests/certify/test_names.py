"""Names from files that would steer a terminal: the model is read, computes the same, and nobody sees them."""

from __future__ import annotations

import onnx
import pytest
import torch

from certify import Model
from certify.text import printable, printable_lines
from tests.support.onnx_models import mlp

CLEAR = "\x1b[2J"
RIGHT_TO_LEFT = "\u202e"


@pytest.mark.parametrize(
    "bad", ["\x1b[31m", "\x07", "\x9b2J", "\n", "\r", "\t", "\u202e", "\u2066", "\u200f", "\u200b", "\u2028", "\ud800"]
)
def test_what_steers_a_terminal_is_replaced(bad: str) -> None:
    shown = printable(f"a{bad}b")
    assert shown.isprintable()
    assert shown.startswith("a?")
    assert shown.endswith("b")


def test_letters_of_any_script_stay() -> None:
    text = "Größe ≤ 4 猫 קטן 🙂"
    assert printable(text) == text
    assert printable(text, 5) == "Größe"
    assert printable_lines("a\x1b\nb") == "a?\nb"


def renamed(*pairs: tuple[str, str]) -> bytes:
    """A small network with tensors under other names."""
    model = onnx.load_model_from_string(mlp((4, 5, 6, 3)))
    new = dict(pairs)
    for values in (model.graph.input, model.graph.output, model.graph.initializer):
        for value in values:
            value.name = new.get(value.name, value.name)
    for node in model.graph.node:
        node.name = f"{CLEAR}{node.name}"
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    return model.SerializeToString()


def test_unprintable_names_of_a_model_are_renamed_and_it_computes_the_same() -> None:
    """Two names that are shown alike stay two tensors, and one that is there already keeps its name."""
    plain = Model.from_onnx(mlp((4, 5, 6, 3)))
    odd = Model.from_onnx(renamed(("h0", f"{CLEAR}a"), ("h1", f"{RIGHT_TO_LEFT}[2Ja"), ("w0", "?[2Ja"), ("x", "\x1bx"), ("logits", "\x9b")))
    names = [name for operator in odd.graph.operators for name in (operator.name, operator.output)]
    assert all(name.isprintable() for name in names)
    assert len({operator.output for operator in odd.graph.operators}) == len(odd.graph.operators)
    x = torch.rand(7, 4)
    assert torch.equal(odd.module()(x), plain.module()(x))
