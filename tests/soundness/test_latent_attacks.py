"""No input inside a latent certificate gets another answer from the latent smoothed classifier: an attack looks, PREDICT decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from certify import Examples, Model, certify, predict
from certify.certificate import Certificate
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support.encoded import orthogonal
from tests.support.onnx_models import model_bytes, node, normalisation
from tests.support.runs import run_for

D, CLASSES, SIGMA, KEY = 4, 3, 0.5, b"a" * 32


def network(seed: int) -> Model:
    """(x - 0.5) / 0.2, an orthogonal layer, absolute values, another orthogonal layer; noise there; then a head with a curved boundary."""
    rng = np.random.default_rng(seed)
    front, weights = normalisation(np.full(D, 0.5, np.float32), np.full(D, 0.2, np.float32))
    nodes = [
        *front,
        node("Gemm", "normal q0 zero", "a", transB=1),
        node("Abs", "a", "b"),
        node("Gemm", "b q1 centre", "z", transB=1),
        node("Gemm", "z w0 b0", "c", transB=1),
        node("Tanh", "c", "d"),
        node("Gemm", "d w1 b1", "logits", transB=1),
    ]
    weights |= {"q0": orthogonal(D, seed), "q1": orthogonal(D, seed + 100), "zero": np.zeros(D, np.float32)}
    weights["centre"] = -weights["q1"].sum(axis=1)
    weights |= {"w0": rng.normal(size=(16, D)).astype(np.float32), "b0": rng.normal(size=16).astype(np.float32)}
    weights |= {"w1": rng.normal(size=(CLASSES, 16)).astype(np.float32), "b1": np.zeros(CLASSES, np.float32)}
    return Model.from_onnx(model_bytes(nodes, weights, input_shape=("batch", D)))


def certified(model: Model, count: int) -> tuple[Examples, list[Certificate]]:
    entry = {"kind": "latent-smoothing", "split": "z", "sigma": SIGMA, "n": 10_000, "error_rate": "per-example"}
    spec = parse_spec({"certifiers": [entry]})
    x = torch.rand(count, D, generator=torch.Generator().manual_seed(0))
    examples = Examples(tuple(range(count)), x, torch.zeros(count, dtype=torch.int64))
    return examples, [c for c in certify(model, examples, spec, run_for(spec, model, count, batch_size=1024)) if isinstance(c, Certificate)]


def attacked(model: Model, x: Tensor, answer: int, radius: float) -> Tensor:  # x: (D,)
    """The input within `radius` of x that makes `answer` least likely, as far as gradients of an expectation find it."""
    whole, generator = model.module(dtype=torch.float32), torch.Generator().manual_seed(1)
    head = model.behind("z").module()
    start = torch.randn(8, D, generator=generator)
    delta = radius * start / start.norm(dim=1, keepdim=True) * 0.5
    for step in range(60):
        delta.requires_grad_(True)
        values = {o.output: v for o, v in whole.steps(x + delta)}["z"]
        noisy = values[:, None] + SIGMA * torch.randn(len(values), 512, D, generator=generator)
        logits = head(noisy.flatten(0, 1))
        rivals = logits.index_fill(1, torch.tensor([answer]), -torch.inf).amax(1)
        (slope,) = torch.autograd.grad((logits[:, answer] - rivals).clamp(min=-1.0).sum(), delta)
        with torch.no_grad():
            moved = delta - radius * (0.3 if step < 40 else 0.05) * slope / (slope.norm(dim=1, keepdim=True) + 1e-12)
            delta = moved * (0.9999 * radius / moved.norm(dim=1, keepdim=True)).clamp(max=1.0)
    with torch.no_grad():
        values = {o.output: v for o, v in whole.steps(x + delta)}["z"]
        noisy = values[:, None] + SIGMA * torch.randn(len(values), 2048, D, generator=generator)
        wins = (head(noisy.flatten(0, 1)).argmax(1) == answer).float().reshape(len(values), -1).mean(1)
    return (x + delta)[wins.argmin()].detach()


def flipped(model: Model, examples: Examples, certificates: Sequence[Certificate], stretch: float) -> int:
    """How many certified examples lose their answer, beyond doubt, somewhere within `stretch` times the latent radius divided by L."""
    found = 0
    for certificate, x in zip(certificates, examples.x, strict=True):
        if certificate.verdict is Verdict.CERTIFIED and certificate.prediction is not None:
            other = attacked(model, x, certificate.prediction, stretch * certificate.radius)
            [answer] = predict(model, other.unsqueeze(0), sigma=SIGMA, split="z", n=20_000, alpha=1e-6, key=KEY)
            found += answer.prediction is not None and answer.prediction != certificate.prediction
    return found


@pytest.mark.parametrize("seed", range(4))
def test_no_attack_succeeds_inside_a_latent_certificate(seed: int) -> None:
    model = network(seed)
    examples, certificates = certified(model, 8)
    assert sum(c.verdict is Verdict.CERTIFIED for c in certificates) >= 5
    assert flipped(model, examples, certificates, 1.0) == 0


@pytest.mark.parametrize("stretch", [2.0, 5.0])
def test_radii_that_are_too_large_are_caught(stretch: float) -> None:
    # 5 is the constant of the normalisation: the latent radius taken for that of the input.
    model = network(0)
    examples, certificates = certified(model, 8)
    assert model.lipschitz.at("z") == pytest.approx(5.0)
    assert flipped(model, examples, certificates, stretch) >= 5
