"""Trains the demo's model: a small CNN on the handwritten digits that ship with scikit-learn, with Gaussian noise; writes ONNX and npz."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

SIGMA = 0.25
EPOCHS = 60
TRAINED = 1297  # the rest is the test set


def network() -> nn.Sequential:
    """8 x 8 pixels in [0, 1], normalisation inside."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class Normalised(nn.Module):
    """(x - mean) / std, then the network: radii stay in raw pixel units."""

    def __init__(self, inner: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.inner, self.mean, self.std = inner, mean, std

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, 1, 8, 8), float32, in [0, 1]
        out: Tensor = self.inner((x - self.mean) / self.std)
        return out


def train(x: Tensor, y: Tensor) -> nn.Module:  # x: (N, 1, 8, 8), float32; y: (N,), int64
    torch.manual_seed(0)
    model = Normalised(network(), float(x.mean()), float(x.std()))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(model(x[batch] + SIGMA * torch.randn_like(x[batch])), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return model.eval()


def main(folder: Path) -> None:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = (digits.images[order] / 16.0).astype(np.float32)[:, None]
    y = digits.target[order].astype(np.int64)
    model = train(torch.from_numpy(x[:TRAINED]), torch.from_numpy(y[:TRAINED]))
    with torch.no_grad():
        accuracy = float((model(torch.from_numpy(x[TRAINED:])).argmax(1).numpy() == y[TRAINED:]).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, 8, 8),),
            str(folder / "model.onnx"),
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_axes={"pixels": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    np.savez(folder / "data.npz", x=x[TRAINED:], y=y[TRAINED:])
    sys.stdout.write(f"     {len(y) - TRAINED} test images, accuracy without noise {accuracy:.3f}; written to {folder}\n")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(Path(sys.argv[1]))
