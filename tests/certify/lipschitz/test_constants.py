"""The constants of operators: at least the largest slope, found to thirty digits or on a dense grid, and no more than a little above."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch

from certify.graph.module import GraphModule
from certify.graph.operators import Operator
from certify.graph.reader import read_onnx
from certify.lipschitz.bound import Bounds, NoConstant
from certify.lipschitz.constant import Rounding, gamma
from tests.certify.graph.test_formulas import PARAMETERS
from tests.support.onnx_models import model_bytes, node


def one(kind: str, shape: tuple[int, ...] = (6,), opset: int = 24, **attributes: object) -> Operator:
    nodes = [node(kind, "x", "y", **attributes), node("Flatten", "y", "logits")]
    return read_onnx(model_bytes(nodes, {}, input_shape=("batch", *shape), opset=opset)).operators[0]


def _phi(x: mpmath.mpf) -> mpmath.mpf:
    return (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2


# Each with the start of a search for the place of its largest slope, where its second derivative is zero.
SMOOTH: dict[str, tuple[Callable[[mpmath.mpf], mpmath.mpf], float, Operator]] = {
    "gelu": (lambda x: x * _phi(x), 1.4, one("Gelu", opset=20)),
    "gelu tanh": (
        lambda x: x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))),
        1.4,
        one("Gelu", opset=20, approximate="tanh"),
    ),
    "swish": (lambda x: x / (1 + mpmath.exp(-x)), 2.4, one("Swish")),
    "swish 3": (lambda x: x / (1 + mpmath.exp(-3 * x)), 0.8, one("Swish", alpha=3.0)),
    "swish -2": (lambda x: x / (1 + mpmath.exp(2 * x)), -1.2, one("Swish", alpha=-2.0)),
    "mish": (lambda x: x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x))), 1.5, one("Mish", opset=18)),
    "erf": (mpmath.erf, 0.01, one("Erf")),
    "sigmoid": (lambda x: 1 / (1 + mpmath.exp(-x)), 0.01, one("Sigmoid")),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_have_the_slope_at_their_inflection_rounded_up(name: str) -> None:
    function, start, operator = SMOOTH[name]
    with mpmath.workdps(30):
        place = mpmath.findroot(lambda x: mpmath.diff(function, x, 2), start)
        steepest = abs(mpmath.diff(function, place))
        everywhere = max(abs(mpmath.diff(function, mpmath.mpf(k) / 20)) for k in range(-160, 161))
    assert everywhere <= steepest * (1 + mpmath.mpf("1e-9"))
    assert steepest <= operator.lipschitz() <= float(steepest) * (1 + 1e-5)


CURVED = {
    "Abs": {}, "Asinh": {}, "Atan": {}, "Cos": {}, "HardSwish": {}, "Relu": {}, "Sin": {}, "Softsign": {}, "Tanh": {}, "Softplus": {},
    "Elu": {"alpha": 2.5}, "Celu": {"alpha": 2.5}, "Selu": {}, "HardSigmoid": {"alpha": 0.7}, "LeakyRelu": {"alpha": -1.5},
    "Shrink": {"lambd": 0.5, "bias": 0.5}, "ThresholdedRelu": {"alpha": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("kind", CURVED)
def test_slopes_on_a_dense_grid_never_exceed_the_constant_and_reach_it(kind: str) -> None:
    operator = one(kind, **CURVED[kind])
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    y = operator.evaluate({}, x[:, None])[:, 0]
    slopes = (y.diff() / x.diff()).abs()
    assert float(slopes.max()) <= operator.lipschitz() * (1 + 1e-9)
    assert float(slopes.max()) >= operator.lipschitz() * (1 - 1e-3)


def test_negative_parameters_count_by_what_the_operator_computes() -> None:
    for kind, attributes in (("Elu", {"alpha": -3.0}), ("Selu", {"alpha": -2.0, "gamma": -1.5})):
        operator = one(kind, **attributes)
        x = torch.linspace(-9, 9, 100_001, dtype=torch.float64)
        slopes = (operator.evaluate({}, x[:, None])[:, 0].diff() / x.diff()).abs()
        assert float(slopes.max()) <= operator.lipschitz() * (1 + 1e-9)


@pytest.mark.parametrize(("kind", "given"), [(kind, given) for kind, many in PARAMETERS.items() for given in many])
def test_odd_parameters_on_a_dense_grid(kind: str, given: dict[str, float | str]) -> None:
    """A constant, if there is one, is a slope that nothing on the grid exceeds, jumps among them."""
    if any(isinstance(value, float) and 0 < abs(value) < 1e-20 for value in given.values()):
        return  # its bend is narrower than any grid
    operator = one(kind, **given)
    x = torch.linspace(-20, 20, 200_001, dtype=torch.float64)
    y = operator.evaluate({}, x[:, None])[:, 0]
    steepest = float((y.diff() / x.diff()).abs().max())
    try:
        most = operator.lipschitz()
    except NoConstant:
        assert kind in ("Celu", "Shrink", "ThresholdedRelu")
        return
    assert steepest <= most * (1 + 1e-6) + 1e-9


def test_a_celu_that_grows_as_an_exponential_is_refused() -> None:
    with pytest.raises(NoConstant, match="negative alpha"):
        one("Celu", alpha=-0.5).lipschitz()


@pytest.mark.parametrize("kind", ["Ceil", "Exp", "Floor", "Log", "Reciprocal", "Round", "Sign", "Sqrt", "Tan", "Acos", "Atanh"])
def test_what_jumps_or_has_no_steepest_slope_is_refused(kind: str) -> None:
    with pytest.raises(NoConstant, match=kind):
        one(kind).lipschitz()


@pytest.mark.parametrize("attributes", [{"lambd": 0.5, "bias": 0.0}, {"lambd": 0.5, "bias": 0.4}, {"lambd": -0.5, "bias": -0.5}])
def test_a_shrink_that_jumps_is_refused(attributes: dict[str, float]) -> None:
    with pytest.raises(NoConstant, match="jumps"):
        one("Shrink", **attributes).lipschitz()


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("Sigmoid", {}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        ("HardSigmoid", {"alpha": -2.0, "beta": -1.5}),
        ("HardSigmoid", {"beta": 3.0}),
    ],
)
def test_a_tensor_times_its_own_gate_is_one_function(kind: str, attributes: dict[str, float]) -> None:
    """SiLU as two nodes; a gate that another tensor opens is a product and refused."""
    gate = node(kind, "x", "g", **attributes)
    made = read_onnx(model_bytes([gate, node("Mul", "g x", "logits")], {}, input_shape=("batch", 2)))
    x = torch.linspace(-15, 15, 300_001, dtype=torch.float64)[:, None].expand(-1, 2)
    slopes = (GraphModule(made, torch.float64)(x)[:, 0].diff() / x[:, 0].diff()).abs()
    assert float(slopes.max()) <= Bounds.of(made).at("logits") * (1 + 1e-9) <= float(slopes.max()) * (1 + 1e-3)
    apart = [node("Neg", "x", "n"), node("Relu", "n", "r"), node(kind, "r", "g", **attributes), node("Mul", "g x", "logits")]
    with pytest.raises(NoConstant, match="product of two data"):
        Bounds.of(read_onnx(model_bytes(apart, {}, input_shape=("batch", 2)))).at("logits")


def test_softmax_and_its_logarithm_reach_their_constants() -> None:
    """Half at two equal values beside far smaller ones; sqrt(K) towards a single large one."""
    for kind, point, share in (("Softmax", [0.0, 0.0, -40.0, -40.0], 1.0), ("LogSoftmax", [40.0, 0.0, 0.0, 0.0], 1.0)):
        operator = one(kind, (4,), axis=1)
        x = torch.tensor([point], dtype=torch.float64)
        slope = torch.autograd.functional.jacobian(lambda v, operator=operator: operator.evaluate({}, v)[0], x).reshape(4, 4)
        found = float(torch.linalg.matrix_norm(slope, 2))
        assert share * operator.lipschitz() * (1 - 1e-9) <= found <= operator.lipschitz() * (1 + 1e-12)


@pytest.mark.parametrize(
    "window", [([3], [1], [1]), ([3], [2], [1]), ([4], [3], [1]), ([3], [2], [2]), ([5], [4], [3]), ([3], [3], [1]), ([2], [6], [3])]
)
def test_max_pools_count_how_often_a_value_is_read(window: tuple[list[int], list[int], list[int]]) -> None:
    kernel, stride, dilation = window
    operator = one("MaxPool", (1, 40), kernel_shape=kernel, strides=stride, dilations=dilation)
    count = np.zeros(40)
    for start in range(0, 40 - (kernel[0] - 1) * dilation[0], stride[0]):
        count[start + dilation[0] * np.arange(kernel[0])] += 1
    assert operator.lipschitz() == pytest.approx(math.sqrt(count.max()), rel=1e-9)


def test_layer_normalisation_is_refused_with_its_useless_number() -> None:
    weights = {"g": np.full(4, -2.0, np.float32)}
    nodes = [node("LayerNormalization", "x g", "y", epsilon=1e-4), node("Relu", "y", "logits")]
    bounds = Bounds.of(read_onnx(model_bytes(nodes, weights, input_shape=("batch", 4))))
    with pytest.raises(NoConstant, match=r"\|scale\| / sqrt\(epsilon\) = 200, useless"):
        bounds.at("logits")


def test_rounding_errors_of_float64_products_stay_below_what_is_carried() -> None:
    """Against sums in extended precision."""
    rng = np.random.default_rng(0)
    for length in (10, 1000, 30000):
        a, b = rng.normal(size=length), rng.normal(size=length)
        exact = float(math.fsum(float(x) for x in (np.longdouble(1) * a * b)))
        assert abs(float(a @ b) - exact) <= gamma(length) * float(np.abs(a) @ np.abs(b))
    both = Rounding(3, 2.0).then(Rounding(5, 4.0)).plus(Rounding(1, 1.0))
    assert (both.terms, both.magnitude) == (9, 9.0)
