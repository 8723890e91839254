"""What is stored as a counterexample is one after its rounding: in the ball, in the range, in float32 and in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from certify import Model
from certify.attacks.refutation import Refutation, decoded, settled
from certify.norms import Norm
from tests.support.onnx_models import linear_model

X = torch.tensor([0.5, 0.0])


def model(bias: float = 0.0) -> Model:
    """Class 0 where the first feature is positive."""
    return Model.from_onnx(linear_model(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32), np.full(2, bias, np.float32)))


def tried(*candidates: tuple[float, float], on: Model | None = None, x: torch.Tensor = X, **more: Any) -> Refutation | None:
    points = [torch.tensor(point, dtype=torch.float64) for point in candidates]
    settings: dict[str, Any] = {"norm": Norm.LINF, "limit": 2.0, "value_range": None, "device": "cpu", **more}
    return settled(on or model(), x, points, 0, **settings)


def test_the_first_that_holds_is_taken() -> None:
    found = tried((0.1, 0.0), (-3.0, 0.0), (-0.25, 0.0), (-0.125, 0.0))
    assert found is not None
    assert (found.x.tolist(), found.answer) == ([-0.25, 0.0], 1)
    assert 0.75 <= found.distance_upper <= 0.75 * (1 + 1e-12)
    assert torch.equal(decoded(found.encoded(), (2,)), found.x)


def test_none_when_none_holds() -> None:
    assert tried((0.1, 0.0), (-3.0, 0.0)) is None


def test_what_only_float64_tells_apart_is_none() -> None:
    """Beside 1e8 a millionth is lost in float32: the network that people run answers as before."""
    assert tried((-1e-6, 0.0)) is not None
    assert tried((-1e-6, 0.0), on=model(bias=1e8)) is None


def test_a_lead_that_other_runtimes_may_not_see_can_be_refused() -> None:
    assert tried((-1e-6, 0.0), on=model(bias=1.0), beyond=1e-5) is None
    assert tried((-1e-4, 0.0), on=model(bias=1.0), beyond=1e-5) is not None


@pytest.mark.parametrize(("low", "high"), [(-0.1, 1.1), (-0.25, 1.0)])
def test_ends_that_float32_cannot_hold_are_rounded_inwards(low: float, high: float) -> None:
    found = tried((-7.0, 7.0), value_range=(low, high))
    assert found is not None
    assert low <= float(found.x[0].double()) <= low + 1e-6
    assert high - 1e-6 <= float(found.x[1].double()) <= high


def test_the_limit_is_the_rounded_distance() -> None:
    candidate, x = (-0.1, 0.0), torch.tensor([0.2, 0.0])
    exact = float(x[0]) + float(torch.tensor(0.1))
    assert tried(candidate, x=x, limit=exact * (1 - 1e-9)) is None
    assert tried(candidate, x=x, limit=exact * (1 + 1e-9)) is not None


def test_no_finite_answer_is_no_answer() -> None:
    weight = np.array([[3e38, 0.0], [-3e38, 0.0]], np.float32)
    overflowing = Model.from_onnx(linear_model(weight, np.zeros(2, np.float32)))
    assert tried((-1.5, 0.0), on=overflowing) is None
    assert tried((-0.5, 0.0), on=overflowing) is not None
