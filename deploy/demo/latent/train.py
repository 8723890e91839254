"""Trains the latent example: an encoder that stretches no distance and a head that sees noise between the two; writes ONNX, npz and a spec.

The spec certifies the same network twice: with the noise behind the encoder, where only the head is sampled, and at the input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from certify.export import to_onnx
from certify.graph.reader import read_onnx
from certify.lipschitz.bound import Bounds
from certify.lipschitz.orthogonal import GroupSort, OrthogonalLinear, ParaunitaryConv2d

SIGMA = 0.5
EPOCHS = 60
TRAINED = 1297  # the rest is the test set
LATENT = 64
EXAMPLES, SAMPLES = 100, 20_000


class Split(nn.Module):
    """Encoder, then noise while it trains, then head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            ParaunitaryConv2d(1, 32, 3),  # 32 x 8 x 8
            GroupSort(),
            ParaunitaryConv2d(32, 32, 3),
            GroupSort(),
            ParaunitaryConv2d(32, 64, 2, stride=2),  # 64 x 4 x 4
            GroupSort(),
            nn.Flatten(),
            OrthogonalLinear(1024, LATENT),
        )
        self.head = nn.Sequential(nn.Linear(LATENT, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, 1, 8, 8), float32, in [0, 1]
        z = self.encoder(x)
        logits: Tensor = self.head(z + SIGMA * torch.randn_like(z) if self.training else z)
        return logits


def train(x: Tensor, y: Tensor) -> Split:  # x: (N, 1, 8, 8), float32; y: (N,), int64
    torch.manual_seed(0)
    model = Split()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return model.eval()


def spec(split: str) -> dict[str, object]:
    """The same noise level and the same number of samples at both places."""
    common = {"sigma": SIGMA, "n0": 100, "n": SAMPLES, "alpha": 0.001, "sampling": "fixed"}
    certifiers = [
        {"kind": "latent-smoothing", "split": split, **common},
        {"kind": "smoothing", **common},
        {"kind": "lipschitz", "norm": "l2"},
    ]
    return {"seed": 0, "examples": {"start": 0, "stop": EXAMPLES}, "certifiers": certifiers}


def main(folder: Path) -> None:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = (digits.images[order] / 16.0).astype(np.float32)[:, None]
    y = digits.target[order].astype(np.int64)
    model = train(torch.from_numpy(x[:TRAINED]), torch.from_numpy(y[:TRAINED]))
    with torch.no_grad():
        accuracy = float((model(torch.from_numpy(x[TRAINED:])).argmax(1).numpy() == y[TRAINED:]).mean())
    data = to_onnx(model, (1, 8, 8))
    graph = read_onnx(data)
    split = next(name for name in graph.cuts() if graph.shapes[name] == (LATENT,))
    before, whole = graph.until(split).flops(), graph.flops()
    sys.stdout.write(
        f"Accuracy without noise: {accuracy:.1%}. The encoder ends at {split!r}: Lipschitz bound {Bounds.of(graph).at(split):.7f},\n"
        f"{before / whole:.1%} of {whole:,} floating-point operations, which latent smoothing does once for an example.\n"
    )
    (folder / "model.onnx").write_bytes(data)
    (folder / "spec.json").write_text(json.dumps(spec(split), indent=2))
    np.savez(folder / "data.npz", x=x[TRAINED:], y=y[TRAINED:])


if __name__ == "__main__":
    torch.set_num_threads(1)  # small layers: threads would wait for one another
    main(Path(sys.argv[1]))
