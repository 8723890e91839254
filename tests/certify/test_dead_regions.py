"""Where the gradient is zero all around an input, the attack still finds a way out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from certify import Examples, Model, certify
from certify.attacks.apgd import apgd
from certify.attacks.base import Counterexample
from certify.attacks.losses import LeakyBackward
from certify.norms import Norm
from certify.spec import parse_spec
from tests.support.onnx_models import model_bytes, node
from tests.support.runs import run_for

FEATURES = 200


def dead_network(threshold: float = 0.2, *, clip: bool = False) -> Model:
    """Class 1 wins where the mean of all features exceeds `threshold` by 0.1; up to `threshold` nothing depends on the input at all."""
    mean = np.full((1, FEATURES), 1 / FEATURES, np.float32)
    weights = {"w": mean, "b": np.array([-threshold], np.float32), "v": np.array([[0.0], [1.0]], np.float32)}
    weights["c"] = np.array([0.1, 0.0], np.float32)
    gate = node("Clip", "h low high", "a") if clip else node("Relu", "h", "a")
    if clip:
        weights |= {"low": np.array(0.0, np.float32), "high": np.array(1.0, np.float32)}
    nodes = [node("Gemm", "x w b", "h", transB=1), gate, node("Gemm", "a v c", "logits", transB=1)]
    return Model.from_onnx(model_bytes(nodes, weights, input_shape=("batch", FEATURES)))


def gradient(model: Model, x: Tensor) -> Tensor:
    x = x.double().unsqueeze(0).requires_grad_(True)
    logits = model.module("cpu", torch.float64)(x)
    (found,) = torch.autograd.grad(logits[0, 1] - logits[0, 0], x)
    return found


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_a_counterexample_beyond_a_dead_region_is_found_almost_at_its_distance(norm: Norm, clip: bool) -> None:
    model, x = dead_network(clip=clip), torch.zeros(FEATURES)
    assert not bool(gradient(model, x).any())
    nearest = 0.3 if norm is Norm.LINF else 0.3 * FEATURES**0.5
    spec = parse_spec({"certifiers": [{"kind": "attack", "norm": str(norm), "max_radius": 2 * nearest}]})
    [row] = certify(model, Examples((0,), x.unsqueeze(0), torch.tensor([0])), spec, run_for(spec, model, 1))
    assert row.found, row.reason
    assert nearest * (1 - 1e-6) <= row.distance_upper <= nearest * 1.01


def test_without_help_the_random_starts_all_stay_in_the_dead_region() -> None:
    """What the help is for: as many random points of the ball as the attack visits, and none of them has a gradient."""
    model = dead_network()
    points = torch.rand((5000, FEATURES), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.2 - 0.6
    points[2500:] = points[2500:].sign() * 0.6
    with torch.no_grad():
        assert int((model.module("cpu", torch.float64)(points)[:, 1] > 0).sum()) == 0


def only_beyond(classify_above: float) -> object:
    def classify(x: Tensor) -> Tensor:  # a step that no leaky slope can open
        open_ = torch.where(x[:, 0] > classify_above, x[:, 0], torch.zeros_like(x[:, 0]))
        return torch.stack([torch.full_like(open_, 0.7), open_], dim=1)

    return classify


def test_a_point_without_any_gradient_is_thrown_elsewhere() -> None:
    """One restart, which begins at the input: nothing but being thrown gets it out."""
    x = torch.zeros(6)
    found = apgd(
        only_beyond(0.5), x, 0, norm=Norm.LINF, radius=1.0, generator=torch.Generator().manual_seed(0), steps=50, restarts=1  # type: ignore[arg-type]
    )  # fmt: skip
    assert isinstance(found, Counterexample)
    assert float(found.x[0]) > 0.7


def test_the_help_changes_nothing_that_is_computed() -> None:
    x = torch.randn((50, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    functions = [torch.relu, torch.Tensor.relu, torch.nn.functional.relu, lambda x: x.clamp(-0.5, 0.5), lambda x: x.clamp(min=0)]
    functions += [lambda x: torch.clamp(x, max=0.3), lambda x: x.clamp(torch.zeros(8, dtype=x.dtype), None)]
    for function in functions:
        with LeakyBackward():
            inside = function(x)
        assert torch.equal(inside, function(x))


def test_the_help_opens_what_is_off_and_leaves_the_rest() -> None:
    x = torch.tensor([-1.0, 2.0, 0.3], dtype=torch.float64, requires_grad=True)
    with LeakyBackward():
        (found,) = torch.autograd.grad(x.clamp(0.0, 1.0).sum(), x)
    assert found.tolist() == [0.1, 0.1, 1.0]
