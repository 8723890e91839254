"""Shape arithmetic of the batch size, one step after another at random, against ONNX's reference at many batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from certify.graph.batch_rules import follow
from certify.graph.batch_size import LARGEST_BATCH, BatchConstant
from certify.graph.layout import Layout
from tests.support.onnx_models import Array

Step = tuple[str, dict[str, Any], list[BatchConstant]]


def _step(rng: np.random.Generator, known: list[BatchConstant]) -> Step:
    """A random node on what is there and on random constants."""

    def any_of(*, lists: bool = False) -> BatchConstant:
        fits = [value for value in known if value.fixed.dtype == np.int64 and (value.fixed.ndim == 1 or not lists)]
        return fits[int(rng.integers(len(fits)))]

    def number(*choices: int) -> BatchConstant:
        return BatchConstant.plain(np.array(int(rng.choice(choices or range(-3, 5))), np.int64))

    def listed(*values: int) -> BatchConstant:
        return BatchConstant.plain(np.array(values, np.int64))

    two = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Mod")
    makers: list[Callable[[], Step]] = [
        lambda: (str(rng.choice(two)), {}, [any_of(), number(1, 2, 3, 6)]),
        lambda: (str(rng.choice(two)), {}, [number(1, 2, 3, 12), any_of()]),
        lambda: (str(rng.choice(two)), {}, [any_of(), any_of()]),
        lambda: ("Gather", {"axis": 0}, [any_of(lists=True), number(0)]),
        lambda: ("Gather", {"axis": 0}, [any_of(lists=True), listed(0)]),
        lambda: ("Slice", {}, [any_of(lists=True), listed(0), listed(int(rng.choice([1, 2, 2**31]))), listed(0)]),
        lambda: ("Unsqueeze", {}, [any_of(), listed(0)]),
        lambda: ("Squeeze", {}, [any_of(), listed(0)]),
        lambda: ("Concat", {"axis": 0}, [any_of(lists=True), any_of(lists=True)]),
        lambda: ("ConstantOfShape", {"value": np.array([2], np.int64)}, [any_of(lists=True)]),
        lambda: ("Range", {}, [number(0, 1), any_of(), number(1, 2)]),
        lambda: ("Shape", {}, [any_of()]),
        lambda: ("Size", {}, [any_of()]),
        lambda: ("ReduceProd", {"keepdims": int(rng.integers(2))}, [any_of()]),
        lambda: ("Neg", {}, [any_of()]),
        lambda: ("Expand", {}, [any_of(), any_of(lists=True)]),
        lambda: ("Tile", {}, [any_of(lists=True), any_of(lists=True)]),
        lambda: ("Reshape", {}, [any_of(), listed(*([-1], [1, -1], [-1, 1], [0, -1])[int(rng.integers(4))])]),
        lambda: ("Transpose", {}, [any_of()]),
        lambda: ("Where", {}, [BatchConstant.plain(np.array(bool(rng.integers(2)))), any_of(), any_of()]),
        lambda: ("Cast", {"to": int(rng.choice([7, 9]))}, [any_of()]),
        lambda: ("Identity", {}, [any_of()]),
    ]
    return makers[int(rng.integers(len(makers)))]()


def by_reference(kind: str, attributes: Mapping[str, Any], values: list[Array]) -> Array | None:
    names = [f"i{k}" for k in range(len(values))]
    given = {key: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for key, v in attributes.items()}
    graph = onnx.GraphProto(name="one", node=[onnx.helper.make_node(kind, names, ["o"], **given)])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in names)
    graph.output.append(onnx.ValueInfoProto(name="o"))
    try:
        with np.errstate(all="ignore"):
            return np.asarray(ReferenceEvaluator(graph, opsets={"": 17}).run(None, dict(zip(names, values, strict=True)))[0])
    except Exception:
        return None


def _walk(seed: int, steps: int) -> tuple[int, int]:
    """How many nodes were followed, and how many were not."""
    rng = np.random.default_rng(seed)
    shape = BatchConstant.shape_of(Layout((1, int(rng.integers(1, 7)), 2)))
    known, followed, lost = [shape], 0, 0
    for _ in range(steps):
        kind, attributes, given = _step(rng, known)
        made = by_reference(kind, attributes, [value.at(1) for value in given])
        if made is None or made.size > 50 or made.size < 1 or made.ndim > 3:
            continue
        found = follow(kind, attributes, given, made)
        if found is None:
            lost += 1
            continue
        followed += 1
        for count in (1, 2, 3, 4, 5, 7, 12, 60):
            expected = by_reference(kind, attributes, [value.at(count) for value in given])
            assert expected is not None, (kind, given, count)
            np.testing.assert_array_equal(found.at(count), expected, err_msg=f"{kind} {given} at {count}")
            assert found.at(count).dtype == expected.dtype
        known.append(found)
    return followed, lost


@pytest.mark.parametrize("seed", range(12))
def test_what_is_followed_is_what_the_reference_makes_at_every_batch_size(seed: int) -> None:
    followed, _ = _walk(seed, 80)
    assert followed > 5


@pytest.mark.slow
def test_what_is_followed_in_many_random_programs() -> None:
    followed, lost = np.sum([_walk(1000 + seed, 120) for seed in range(1500)], axis=0)
    assert followed > 20_000
    assert lost > 5_000


def test_numbers_that_a_type_cannot_hold_at_the_largest_batch_are_not_followed() -> None:
    count = BatchConstant.shape_of(Layout((1,)))
    for dtype, fits in ((6, 2**16), (1, 2**9), (7, 2**30)):
        factor = BatchConstant.plain(np.array([fits], np.int64))
        product = follow("Mul", {}, [count, factor], np.array([fits]))
        made = np.array([fits], onnx.helper.tensor_dtype_to_np_dtype(dtype))
        assert product is not None
        assert follow("Cast", {"to": dtype}, [product], made) is not None
        beyond = BatchConstant(product.fixed, product.times * 8, product.rows)
        assert follow("Cast", {"to": dtype}, [beyond], made * 8) is None
        assert fits * LARGEST_BATCH <= 2**53
