"""A refuted claim comes with an input that refutes it, in the ball, in float32, and in onnxruntime."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from certify import Examples, Model, certify
from certify.attacks.refutation import decoded
from certify.certificate import Certificate
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model, small_cnn
from tests.support.runs import run_for
from workers.comparison import Given, confirmed


def answered(model: Model, x: torch.Tensor, label: int, *, clip: bool = False, **entry: Any) -> Certificate:
    spec = parse_spec({"clip": clip, "certifiers": [{"kind": "bounds", "method": "crown", **entry}]})
    [certificate] = certify(model, Examples((0,), x.unsqueeze(0), torch.tensor([label])), spec, run_for(spec, model, 1))
    return certificate


@pytest.mark.parametrize("norm", list(Norm))
def test_on_a_linear_model_a_claim_is_proved_or_refuted_and_rightly(norm: Norm) -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    model, examples, seen = truth.model(), truth.examples(10, seed=1), set()
    for x, label in zip(examples.x, examples.y.tolist(), strict=True):
        exact = float(truth.distance(x.numpy(), label, norm))
        if exact <= 0:
            continue
        for share in (0.9, 1.3):
            certificate = answered(model, x, label, norm=str(norm), epsilon=exact * share)
            seen.add((share, certificate.verdict))
            if certificate.verdict is Verdict.REFUTED:
                evidence = certificate.evidence
                assert evidence.distance_upper <= exact * share
                found = decoded(evidence.counterexample, (6,))
                assert max(range(4), key=truth.logits(found.numpy()).__getitem__) != label
                difference = [abs(Fraction(float(a)) - Fraction(float(b))) for a, b in zip(found, x, strict=True)]
                size = {Norm.LINF: max(difference), Norm.L1: sum(difference)}.get(norm, Fraction(0))
                assert size <= Fraction(evidence.distance_upper)
                if norm is Norm.L2:
                    assert sum(d * d for d in difference) <= Fraction(evidence.distance_upper) ** 2
    assert seen == {(0.9, Verdict.CERTIFIED), (1.3, Verdict.REFUTED)}


@pytest.mark.parametrize("clip", [True, False])
def test_a_counterexample_stays_in_the_range_of_a_clipped_claim(clip: bool) -> None:
    model = Model.from_onnx(small_cnn(mean=0.4), value_range=(0.0, 1.0))
    x = torch.rand(model.input_shape, generator=torch.Generator().manual_seed(1)).round()
    label = int(model.module()(x.unsqueeze(0)).argmax())
    certificate = answered(model, x, label, clip=clip, norm="linf", epsilon=0.9)
    assert certificate.verdict is Verdict.REFUTED
    found = decoded(certificate.evidence.counterexample, model.input_shape)
    assert float((found - x).abs().max()) <= 0.9
    inside = float(found.min()) >= 0.0 and float(found.max()) <= 1.0
    assert inside is clip


def test_what_onnxruntime_does_not_confirm_refutes_nothing() -> None:
    weight = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    model, x = Model.from_onnx(linear_model(weight, np.zeros(2, np.float32))), torch.tensor([0.5, 0.0])
    certificate = answered(model, x, 0, norm="linf", epsilon=0.6)
    assert certificate.verdict is Verdict.REFUTED
    same = linear_model(weight, np.zeros(2, np.float32))
    other = linear_model(np.zeros_like(weight), np.array([1.0, 0.0], np.float32))  # answers 0 everywhere
    assert confirmed(certificate, Given.of(model, same, "cpu")) == certificate
    changed = confirmed(certificate, Given.of(model, other, "cpu"))
    assert changed.verdict is Verdict.UNKNOWN
    assert changed.evidence.counterexample is None
    assert "onnxruntime" in changed.reason


def test_a_ball_that_rounding_fills_is_not_attacked() -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    examples = truth.examples(1, seed=1)
    certificate = answered(truth.model(), examples.x[0], (int(examples.y[0])), norm="linf", epsilon=1e-9)
    assert certificate.verdict in (Verdict.CERTIFIED, Verdict.UNKNOWN)
