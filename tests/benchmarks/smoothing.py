"""`scripts/bench smoothing`: our sampling engine beside the bare forward pass and the published per-example loop, in one run.

Prints ratios of medians; nothing here gates a test. (a) forward pass plus one in-place normal fill and argmax, (b) this engine at the
same number of samples, (c) the published loop: one repeat, one noise tensor, one host copy and a Python count for each batch.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from certify import Model
from certify.sampling.batch import default_batch_size
from certify.sampling.streams import Stage, Stream
from certify.sampling.votes import count_votes
from tests.support.onnx_models import small_cnn

SAMPLES, SIGMA, ROUNDS = 20_000, 0.25, 5


def bare(model: Model, x: Tensor, batch: int) -> None:
    module, buffer = model.module(), torch.empty((batch, *x.shape))
    with torch.inference_mode():
        for _ in range(-(-SAMPLES // batch)):
            buffer.normal_()
            module(buffer.mul_(SIGMA).add_(x)).argmax(1)


def engine(model: Model, x: Tensor, batch: int) -> None:
    stream = Stream(b"k" * 32, 0, 0, Stage.ESTIMATION, tuple(x.shape))
    count_votes(
        model.module(),
        x,
        stream,
        sigma=SIGMA,
        samples=SAMPLES,
        batch_size=batch,
        classes=model.classes,
        should_stop=lambda: False,
        on_samples=lambda n: None,
    )


def published(model: Model, x: Tensor, batch: int) -> None:
    module, counts = model.module(), np.zeros(model.classes, dtype=int)
    with torch.no_grad():
        for _ in range(-(-SAMPLES // batch)):
            copies = x.repeat((batch, *(1,) * x.dim()))
            predictions = module(copies + torch.randn_like(copies) * SIGMA).argmax(1)
            for index in predictions.cpu().numpy():
                counts[index] += 1


def seconds(work: Callable[[Model, Tensor, int], None], model: Model, x: Tensor, batch: int) -> float:
    started = time.perf_counter()
    work(model, x, batch)
    return time.perf_counter() - started


def main() -> None:
    torch.set_num_threads(1)
    for name, size, channels in (("8 x 8", 8, 1), ("28 x 28", 28, 1), ("32 x 32 x 3", 32, 3)):
        model = Model.from_onnx(small_cnn(mean=0.5, size=size, channels=channels))
        x = torch.rand(model.input_shape, generator=torch.Generator().manual_seed(0))
        batch = default_batch_size(x.numel(), model.graph.largest_tensor(), "cpu")
        times: dict[str, list[float]] = {"bare": [], "engine": [], "published": []}
        for _ in range(ROUNDS):  # in turn, so that a drift of the machine's speed falls on all alike
            for label, work in (("bare", bare), ("engine", engine), ("published", published)):
                times[label].append(seconds(work, model, x, batch))
        a, b, c = (statistics.median(times[label]) for label in ("bare", "engine", "published"))
        sys.stdout.write(f"{name:<12} batch {batch:<5} engine / bare forward = {b / a:.2f}   published loop / engine = {c / b:.2f}\n")


if __name__ == "__main__":
    main()
