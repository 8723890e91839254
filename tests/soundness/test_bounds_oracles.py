"""Bounds against exact distances: linear models by rational arithmetic, small ReLU networks by enumeration of their linear pieces.

The property: no certified radius exceeds the distance to the nearest input with another answer.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from scipy.optimize import linprog, nnls

from certify import Examples, Model, certify
from certify.attacks.search import minimal_distance
from certify.bounds.certifier import BoundsCertifier
from certify.bounds.engine import METHODS, LirpaEngine, MarginBound
from certify.bounds.scout import Probe, Scout
from certify.certificate import Certificate
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support.linear import LinearTruth
from tests.support.onnx_models import Array, mlp, node
from tests.support.runs import run_for

Case = tuple[str, Norm]
CAP = 8.0
TOLERANCE = 1e-4
CASES = tuple(itertools.product(METHODS, Norm))
# The oracle asks for this much of the rival's lead, so that its witness survives exact evaluation.
LEAD = 1e-9


def certificates(model: Model, x: Array, *, clip: bool = False, iterations: int = 3) -> dict[tuple[str, Norm], list[Certificate]]:
    """The largest radii of all methods in all norms for the rows of x, by the one verb."""
    steps = {"alpha-crown": {"iterations": iterations}}
    entries = [
        {"kind": "bounds", "method": method, "norm": norm.value, "max_radius": CAP, "tolerance": TOLERANCE, **steps.get(method, {})}
        for method, norm in CASES
    ]
    spec = parse_spec({"certifiers": entries, "clip": clip})
    examples = Examples(tuple(range(len(x))), torch.from_numpy(x), torch.zeros(len(x), dtype=torch.int64))
    found: dict[tuple[str, Norm], list[Certificate]] = {case: [] for case in CASES}
    for certificate in certify(model, examples, spec, run_for(spec, model, len(x))):
        assert certificate.verdict is not Verdict.ERROR, certificate.reason
        found[CASES[certificate.certifier]].append(certificate)
    return found


def overstate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every bound claim a radius 2 % beyond the one that it was computed for, and the search propose such radii.

    The tripwire, which notices too, is taken away: here the oracle must.
    """
    monkeypatch.setattr(BoundsCertifier, "_try", lambda *_: None)
    honest, proposed = LirpaEngine.margin, Scout.probe

    def margin(self: LirpaEngine, x: torch.Tensor, label: int, radius: float, method: str) -> MarginBound:
        return honest(self, x, label, radius / 1.02, method)

    def probe(self: Scout, x: torch.Tensor, label: int, radius: float, method: str) -> Probe:
        found = proposed(self, x, label, radius / 1.02, method)
        return Probe(found.margin, found.reach * 1.02)

    monkeypatch.setattr(LirpaEngine, "margin", margin)
    monkeypatch.setattr(Scout, "probe", probe)


# -- linear models -------------------------------------------------------------------------------------------------------------


def clipped_distance(truth: LinearTruth, x: Array, prediction: int, value_range: tuple[float, float]) -> Fraction | None:
    """The exact linf distance from x to the nearest point in the range with another answer; null when there is none.

    A rival's deficit at radius r is the sum of |g_i| min(r, room_i): concave and piecewise linear, so its root is found by walking.
    """
    logits = truth.logits(x)
    scale = [Fraction(1)] * len(x) if truth.std is None else [Fraction(float(s)) for s in truth.std]
    low, high = (Fraction(end) for end in value_range)
    found = []
    for rival in set(range(len(logits))) - {prediction}:
        rows = zip(truth.weight[prediction], truth.weight[rival], scale, strict=True)
        slopes = [(Fraction(float(a)) - Fraction(float(b))) / s for a, b, s in rows]
        rooms = [Fraction(float(v)) - low if g > 0 else high - Fraction(float(v)) for g, v in zip(slopes, x, strict=True)]
        left, reached, slope = logits[prediction] - logits[rival], Fraction(0), sum((abs(g) for g in slopes), Fraction(0))
        for room, g in sorted(zip(rooms, slopes, strict=True)):
            if slope * (room - reached) >= left:
                break
            left, reached, slope = left - slope * (room - reached), room, slope - abs(g)
        if slope > 0:
            found.append(reached + left / slope)
    return min(found, default=None)


def linear_violations(truth: LinearTruth, *, clip: bool) -> tuple[set[tuple[str, Norm]], dict[tuple[str, Norm], list[float]]]:
    """The cases in which a certificate exceeds the exact distance, and the ratios of all to it where it is within the cap."""
    x = truth.examples(3, seed=3).x.numpy()
    model = replace(truth.model(), value_range=(0.0, 1.0) if clip else None)
    wrong, ratios = set(), {case: [] for case in CASES}
    for (method, norm), found in certificates(model, x, clip=clip).items():
        for certificate, row in zip(found, x, strict=True):
            assert certificate.prediction is not None
            exact: Fraction | None
            if clip and norm is Norm.LINF:
                exact = clipped_distance(truth, row, certificate.prediction, (0.0, 1.0))
            else:
                exact = truth.distance(row, certificate.prediction, norm)
            if exact is not None and Fraction(certificate.radius) > exact:
                wrong.add((method, norm))
            if exact is not None and exact < CAP:
                ratios[method, norm].append(float(Fraction(certificate.radius) / exact))
    return wrong, ratios


LINEAR = [(5, 3, 1, False), (5, 3, 2, True), (12, 2, 3, True), (3, 4, 4, False)]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("features", "classes", "seed", "normalised"), LINEAR)
def test_linear_models_are_never_certified_beyond_the_exact_distance(
    features: int, classes: int, seed: int, normalised: bool, clip: bool
) -> None:
    wrong, ratios = linear_violations(LinearTruth.random(features, classes, seed=seed, normalised=normalised), clip=clip)
    assert not wrong
    for norm in Norm:
        assert ratios["crown", norm]
        assert min(ratios["crown", norm]) > 1 - 1e-3
        assert min(ratios["alpha-crown", norm]) > 1 - 1e-3


def test_the_clipped_distance_is_where_the_lead_over_the_clipped_box_ends() -> None:
    truth = LinearTruth.random(5, 3, seed=2, normalised=True)
    assert truth.std is not None
    weight = truth.weight / truth.std.astype(np.float64)
    for row in truth.examples(20, seed=4).x.numpy().astype(np.float64):
        logits = np.array([float(v) for v in truth.logits(row)])
        label = int(logits.argmax())
        gaps, leads = weight[label] - np.delete(weight, label, 0), logits[label] - np.delete(logits, label)
        exact = clipped_distance(truth, row, label, (0.0, 1.0))
        assert exact is not None
        assert truth.distance(row, label, Norm.LINF) <= exact <= 1
        for radius, sign in ((float(exact) * (1 - 1e-5), 1), (float(exact) * (1 + 1e-5), -1)):
            low, high = (row - radius).clip(0, 1) - row, (row + radius).clip(0, 1) - row
            assert sign * (leads + np.minimum(gaps * low, gaps * high).sum(1)).min() > 0


def test_a_model_with_one_answer_in_the_whole_range_is_certified_to_the_cap() -> None:
    plain = LinearTruth.random(5, 3, seed=2)
    truth = replace(plain, bias=plain.bias + np.array([6.0, 0.0, 0.0], np.float32))
    x = truth.examples(3, seed=4).x.numpy()
    assert [clipped_distance(truth, row, 0, (0.0, 1.0)) for row in x] == [None] * 3
    found = certificates(replace(truth.model(), value_range=(0.0, 1.0)), x, clip=True)
    assert min(c.radius for c in found["crown", Norm.LINF]) > CAP * (1 - 1e-12)


@pytest.mark.parametrize("clip", [False, True])
def test_a_radius_two_percent_too_large_is_caught_on_linear_models(monkeypatch: pytest.MonkeyPatch, clip: bool) -> None:
    overstate(monkeypatch)
    wrong, _ = linear_violations(LinearTruth.random(5, 3, seed=2, normalised=True), clip=clip)
    assert wrong >= {(method, norm) for method in ("crown", "alpha-crown") for norm in Norm}


# -- ReLU networks ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReluNet:
    """Affine maps with ReLU between them, x -> weight x + shift, as exact rationals and as float64; `data` is the ONNX file."""

    data: bytes
    maps: tuple[tuple[list[list[Fraction]], list[Fraction]], ...]

    @classmethod
    def random(cls, front: str, sizes: tuple[int, int, int], seed: int) -> ReluNet:
        """One hidden layer behind a front; the parameters are read back from the file."""
        width = sizes[0]
        constants: dict[str, Array] = {
            "nothing": {},
            "normalisation": {"k": np.linspace(-0.4, 0.6, width, dtype=np.float32), "s": np.linspace(0.2, 0.7, width, dtype=np.float32)},
            "ReLU": {"k": np.linspace(-0.3, 0.3, width, dtype=np.float32)},
            "reshape": {"to": np.array([0, 2, width // 2], np.int64)},
        }[front]
        nodes = {
            "nothing": [],
            "normalisation": [node("Sub", "x k", "c"), node("Div", "c s", "start")],
            "ReLU": [node("Sub", "x k", "c"), node("Relu", "c", "start")],
            "reshape": [node("Reshape", "x to", "r"), node("Transpose", "r", "t", perm=[0, 2, 1]), node("Flatten", "t", "start")],
        }[front]
        data = mlp(sizes, seed=seed, first=nodes, **constants)
        stored = {w.name: numpy_helper.to_array(w) for w in onnx.load_from_string(data).graph.initializer}
        hidden, last = ((rational(stored[f"w{i}"]), rational(stored[f"b{i}"])) for i in range(2))
        start = front_map(front, width, constants)
        return cls(data, (start, hidden, last) if front == "ReLU" else (composed(hidden, start), last))

    def logits(self, x: list[Fraction]) -> list[Fraction]:
        for position, (weight, shift) in enumerate(self.maps):
            values = [max(v, Fraction(0)) for v in x] if position else x
            x = [sum((w * v for w, v in zip(row, values, strict=True)), b) for row, b in zip(weight, shift, strict=True)]
        return x

    def pieces(self) -> Iterator[tuple[Array, Array, Array, Array]]:
        """All linear pieces (G, h, W, b), feasible or not: where G x >= h the logits are W x + b; together they cover the space."""
        maps = [(np.array(weight, np.float64), np.array(shift, np.float64)) for weight, shift in self.maps]
        widths = [len(shift) for _, shift in maps[:-1]]
        for pattern in itertools.product((0.0, 1.0), repeat=sum(widths)):
            (weight, shift), rows, ends, used = maps[0], [], [], 0
            for (next_weight, next_shift), width in zip(maps[1:], widths, strict=True):
                active = np.array(pattern[used : used + width])
                rows.append((2 * active - 1)[:, None] * weight)
                ends.append((1 - 2 * active) * shift)
                weight, shift = next_weight @ (active[:, None] * weight), next_weight @ (active * shift) + next_shift
                used += width
            yield np.concatenate(rows), np.concatenate(ends), weight, shift


def rational(values: Array) -> Any:
    """Nested lists of exact rationals."""
    return [rational(row) for row in values] if values.ndim else Fraction(float(values))


def front_map(front: str, width: int, constants: dict[str, Array]) -> Any:
    """The affine map that the nodes of a front compute."""
    order = np.arange(width).reshape(2, -1).T.flatten() if front == "reshape" else np.arange(width)
    offsets, scales = rational(constants.get("k", np.zeros(width))), rational(constants.get("s", np.ones(width)))
    weight = [[Fraction(int(order[i] == j)) / scales[i] for j in range(width)] for i in range(width)]
    return weight, [-k / s for k, s in zip(offsets, scales, strict=True)]


def composed(second: Any, first: Any) -> Any:
    """The affine map second after first."""
    columns = list(zip(*first[0], strict=True))
    weight = [[sum((a * b for a, b in zip(row, column, strict=True)), Fraction(0)) for column in columns] for row in second[0]]
    return weight, [sum((a * b for a, b in zip(row, first[1], strict=True)), shift) for row, shift in zip(*second, strict=True)]


def nearest(G: Array, h: Array, norm: Norm) -> tuple[Array, Array | None]:
    """Multipliers u >= 0 and a point d of least norm with G d >= h; d is null when there is none, and u then proves it.

    Source: least-distance programming by nonnegative least squares (Lawson & Hanson 1974) for l2; linear programming otherwise.
    """
    target = np.zeros(G.shape[1] + 1)
    target[-1] = 1.0
    u, rest = nnls(np.vstack([G.T, h]), target)
    if norm is Norm.L2:
        residual = np.vstack([G.T, h]) @ u - target
        return u, -residual[:-1] / residual[-1] if rest > 1e-9 else None
    width = G.shape[1]
    sizes = np.eye(width) if norm is Norm.L1 else np.ones((width, 1))  # |d| <= sizes @ s, and the sum of s is the norm
    rows = np.block([[np.eye(width), -sizes], [-np.eye(width), -sizes], [-G, np.zeros((len(G), sizes.shape[1]))]])
    cost = np.concatenate([np.zeros(width), np.ones(sizes.shape[1])])
    solved = linprog(cost, A_ub=rows, b_ub=np.concatenate([np.zeros(2 * width), -h]), bounds=(None, None))
    if solved.status != 0:
        return u, None
    return -np.minimum(solved.ineqlin.marginals[2 * width :], 0.0), solved.x[:width]


def length(values: Any, norm: Norm) -> float:
    return float(np.linalg.norm(np.asarray(values, np.float64), {Norm.L1: 1, Norm.L2: 2, Norm.LINF: np.inf}[norm]))


def halfspace_distance(u: Array, G: Array, h: Array, norm: Norm) -> float:
    """A lower bound of the norm of any d with G d >= h, from any u >= 0: those d satisfy (u G) d >= u h (Hoelder)."""
    reach, deficit = length(u @ G, norm.dual), float(u @ h)
    return 0.0 if deficit <= 0 else deficit / max(reach, 1e-300)


@dataclass(frozen=True)
class Distance:
    """The exact distance to another answer lies in [lower, upper]: a dual bound of every piece, and a witness checked in rationals."""

    lower: float
    upper: float


def exact_distance(net: ReluNet, x: Array, label: int, norm: Norm) -> Distance:
    """Enumerates pieces and rivals from the nearest possible on, until no other can be nearer than the witness in hand."""
    problems = []
    centre = x.astype(np.float64)
    for G, h, weight, shift in net.pieces():
        for rival in set(range(len(shift))) - {label}:
            rows = np.vstack([G, weight[rival] - weight[label]])
            ends = np.append(h, shift[label] - shift[rival]) - rows @ centre
            cheap = max(halfspace_distance(unit, rows, ends, norm) for unit in np.eye(len(rows)))
            problems.append((cheap, rival, rows, ends))
    lower, upper = math.inf, math.inf
    for cheap, rival, rows, ends in sorted(problems, key=lambda problem: problem[0]):
        if cheap > upper:
            break
        ahead = ends.copy()
        ahead[-1] += LEAD
        u, d = nearest(rows, ahead, norm)
        lower = min(lower, max(cheap, halfspace_distance(u, rows, ends, norm)))
        if d is not None:
            upper = min(upper, witnessed(net, x, d, label, rival, norm))
    return Distance(min(lower, upper), upper)


def witnessed(net: ReluNet, x: Array, d: Array, label: int, rival: int, norm: Norm) -> float:
    """The length of d, rounded up, when exact arithmetic confirms that x + d is not answered `label`; else infinity."""
    logits = net.logits([Fraction(float(a)) + Fraction(float(b)) for a, b in zip(x, d, strict=True)])
    return length(d, norm) * (1 + 1e-14) if logits[rival] >= logits[label] else math.inf


NETS = [
    ("nothing", (2, 7, 2), 1),
    ("nothing", (3, 6, 3), 2),
    ("nothing", (4, 7, 3), 3),
    ("normalisation", (3, 7, 2), 4),
    ("normalisation", (4, 6, 3), 5),
    ("ReLU", (3, 5, 3), 9),
    ("ReLU", (4, 4, 2), 7),
    ("reshape", (4, 6, 3), 8),
]


def compare(front: str, sizes: Any, seed: int, *, rows: int = 2, iterations: int = 3) -> tuple[set[Case], dict[Case, list[float]]]:
    """The cases in which a certificate exceeds the exact distance, and the ratios of all to it."""
    net = ReluNet.random(front, sizes, seed)
    x = np.random.default_rng(seed).uniform(-1, 1, (rows, sizes[0])).astype(np.float32)
    wrong, ratios = set(), {case: [] for case in CASES}
    exact: dict[tuple[int, Norm], Distance] = {}
    for (method, norm), found in certificates(Model.from_onnx(net.data), x, iterations=iterations).items():
        for position, certificate in enumerate(found):
            row, label = x[position], certificate.prediction
            assert label is not None
            if (position, norm) not in exact:
                exact[position, norm] = exact_distance(net, row, label, norm)
            distance = exact[position, norm]
            if certificate.radius > distance.upper:
                wrong.add((method, norm))
            if distance.lower < CAP:
                assert distance.upper <= distance.lower * (1 + 1e-6) + 1e-7, "the oracle is not sharp"
                ratios[method, norm].append(certificate.radius / distance.upper)
    return wrong, ratios


measured = functools.cache(compare)


@pytest.mark.parametrize(("front", "sizes", "seed"), NETS)
def test_relu_networks_are_never_certified_beyond_the_exact_distance(front: str, sizes: tuple[int, int, int], seed: int) -> None:
    wrong, ratios = measured(front, sizes, seed)
    assert not wrong
    assert all(min(ratios[case], default=0) > 0 for case in CASES)


@pytest.mark.parametrize("norm", list(Norm))
def test_tighter_methods_prove_more_of_the_exact_distance(norm: Norm) -> None:
    # Not behind a ReLU: with two layers of them CROWN may choose worse slopes on tighter intermediate bounds.
    plain = [measured(*net)[1] for net in NETS if net[0] != "ReLU"]
    ibp, crown_ibp, crown, alpha = (float(np.mean([r for ratios in plain for r in ratios[method, norm]])) for method in METHODS)
    assert 0.2 < ibp < crown_ibp <= crown + TOLERANCE <= alpha + 2 * TOLERANCE <= 1 + 2 * TOLERANCE
    assert crown > 0.8


@pytest.mark.parametrize("net", [NETS[0], NETS[3]])
def test_a_radius_two_percent_too_large_is_caught_on_relu_networks(
    monkeypatch: pytest.MonkeyPatch, net: tuple[str, tuple[int, int, int], int]
) -> None:
    overstate(monkeypatch)
    wrong, _ = compare(*net, rows=3, iterations=5)
    assert wrong >= {(method, norm) for method in ("crown", "alpha-crown") for norm in Norm}


@pytest.mark.parametrize(("front", "sizes", "seed"), NETS)
def test_the_oracle_reads_the_network_as_the_service_does(front: str, sizes: tuple[int, int, int], seed: int) -> None:
    net = ReluNet.random(front, sizes, seed)
    module = Model.from_onnx(net.data).module("cpu", torch.float64)
    for row in np.random.default_rng(99).uniform(-2, 2, (5, sizes[0])):
        logits = module(torch.from_numpy(row).unsqueeze(0))[0].numpy()
        np.testing.assert_allclose([float(v) for v in net.logits(rational(row))], logits, atol=1e-12)
        holding = [weight @ row + shift for G, h, weight, shift in net.pieces() if (G @ row >= h).all()]
        assert holding
        for piece in holding:
            np.testing.assert_allclose(piece, logits, atol=1e-12)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("net", [NETS[1], NETS[4], NETS[7]])
def test_an_attack_comes_near_the_oracle_and_never_below(net: tuple[str, tuple[int, int, int], int], norm: Norm) -> None:
    built = ReluNet.random(*net)
    module = Model.from_onnx(built.data).module("cpu", torch.float64)
    ratios = []
    for row in np.random.default_rng(net[2]).uniform(-1, 1, (3, net[1][0])).astype(np.float32):
        x, generator = torch.from_numpy(row), torch.Generator().manual_seed(0)
        label = int(module(x.double().unsqueeze(0)).argmax())
        distance = exact_distance(built, row, label, norm)
        found = minimal_distance(module, x, label, norm=norm, max_radius=distance.upper * 1.5, generator=generator)
        ratios.append(math.inf if found is None else found.distance_upper / distance.lower)
    assert 1 <= min(ratios) < 1.05
