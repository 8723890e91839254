"""`scripts/bench smoothing`: the sampling engine beside the bare forward pass and the published per-example loop, in one run.

(a) forward pass plus one in-place normal fill and argmax, at the batch size and memory format that suit it best;
(b) this engine at the same number of samples, noise by name, packed, counted;
(c) the published loop: for each batch one repeat, one noise tensor, one host copy and a Python count, n = 100,000 for each example.

Prints medians of ratios taken round by round, so that a drift of the machine's speed falls on all alike; nothing here gates a test. The
adaptive rows sample simulated examples whose p_A follow the published law, each through the real network: the forward pass is computed
in full and its answer replaced by a coin of the example's p_A.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify import Examples, Model, certify
from certify.architectures import build
from certify.export import to_onnx
from certify.sampling.batch import default_batch_size
from certify.sampling.engine import Request, VoteCounter
from certify.sampling.noise import Gaussian
from certify.sampling.streams import Stage, Stream
from certify.spec import parse_spec
from tests.support.onnx_models import small_cnn
from tests.support.published_law import law
from tests.support.runs import run_for

SIGMA, ROUNDS, CALIBRATION, EXAMPLES = 0.5, 7, 0.7, 16
RADII = [0.25, 0.5, 0.75, 1.0]
BUDGET, EXPECTED = 60.0, 6000  # seconds of one adaptive measurement, samples of one example


@dataclass
class Case:
    """A network, how many samples one measurement takes, and the batch shapes."""

    name: str
    model: Model
    device: str

    def __post_init__(self) -> None:
        self.shape = self.model.input_shape
        self.module = self.model.module(self.device)
        self.batch = default_batch_size(int(np.prod(self.shape)), self.model.graph.largest_tensor(), self.device)
        self.x = torch.rand(self.shape, generator=torch.Generator().manual_seed(0))

    def bare(self, samples: int, batch: int, channels_last: bool) -> None:
        buffer = torch.empty((batch, *self.shape), device=self.device)
        if channels_last:
            buffer = buffer.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            for _ in range(-(-samples // batch)):
                self.module(buffer.normal_(0.5, SIGMA)).argmax(1)
        self.wait()

    def engine(self, samples: int) -> None:
        noise = Gaussian(SIGMA, self.shape, self.device)
        counter = VoteCounter(
            self.module,
            self.shape,
            batch_size=self.batch,
            classes=self.model.classes,
            device=self.device,
            should_stop=lambda: False,
            on_samples=lambda n: None,
        )
        x = noise.prepare(self.x)
        streams = (Stream(b"k" * 32, 0, i, Stage.ESTIMATION) for i in range(EXAMPLES))
        counter.count([Request(x, noise, stream, 0, samples // EXAMPLES) for stream in streams])

    def published(self, samples: int) -> None:
        x, counts = self.x.to(self.device), np.zeros(self.model.classes, dtype=int)
        with torch.no_grad():
            for _ in range(-(-samples // self.batch)):
                copies = x.repeat((self.batch, *(1,) * x.dim()))
                predictions = self.module(copies + torch.randn_like(copies) * SIGMA).argmax(1)
                for index in predictions.cpu().numpy():
                    counts[index] += 1

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def best_bare(case: Case, samples: int) -> tuple[int, bool]:
    """Batch size and memory format at which the bare forward pass is fastest for each sample."""

    def cost(batch: int, channels_last: bool) -> float:
        count = -(-samples // batch) * batch
        return min(seconds(lambda: case.bare(count, batch, channels_last)) for _ in range(3)) / count

    formats = (False, True) if len(case.shape) == 3 else (False,)
    largest = 12 if case.device == "cpu" else 14
    choices = [(2**power, layout) for power in range(4, largest + 1) for layout in formats if 2**power <= 2 * samples]
    return min(choices, key=lambda choice: cost(*choice))


def fixed(case: Case) -> float:
    """Prints b/a and c/b at fixed n; returns the seconds that the published loop takes for one sample."""
    probe = max(case.batch, 256)
    case.bare(probe, case.batch, False)
    samples = max(2 * case.batch, int(CALIBRATION / (seconds(lambda: case.bare(probe, case.batch, False)) / probe)))
    samples = -(-samples // EXAMPLES) * EXAMPLES
    batch, channels_last = best_bare(case, samples // 4)
    samples = -(-samples // batch) * batch  # no part of a batch is wasted by (a)
    rounds = []
    for _ in range(ROUNDS):
        a = seconds(lambda: case.bare(samples, batch, channels_last))
        b = seconds(lambda: case.engine(samples))
        c = seconds(lambda: case.published(samples))
        rounds.append((b / a, c / b, c / samples))
    b_a, c_b, each = (statistics.median(column) for column in zip(*rounds, strict=True))
    layout = "channels last" if channels_last else "contiguous"
    sys.stdout.write(
        f"{case.name:<22} {case.model.graph.flops() / 1e6:>7.2f} MFLOP   engine / bare forward = {b_a:.2f}"
        f"   published loop / engine = {c_b:.2f}   (batch {case.batch}; bare {batch}, {layout}; {samples} samples)\n"
    )
    sys.stdout.flush()
    return each


class Coins(torch.nn.Module):
    """The network's forward pass in full, with the answer of a coin: the first pixel is 1000 times the example's number.

    The noise of that pixel is compared with the quantile of the example's p_A, so class 0 wins with exactly that probability.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        quantiles: Tensor,  # (examples,)
    ) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("quantiles", quantiles)

    def forward(
        self,
        x: Tensor,  # (batch, *input)
    ) -> Tensor:
        logits: Tensor = self.module(x)
        first = x.flatten(1)[:, 0]
        example = (first / 1000).round()
        wins = (first - 1000 * example) / SIGMA < self.quantiles[example.long()]
        answer = torch.zeros_like(logits)
        answer[:, 0], answer[:, 1] = wins, 0.5
        return answer


def adaptive(case: Case, published_each: float, examples: int) -> None:
    """Prints how much sooner this engine decides the four radii than the published loop at n = 100,000."""
    shares = np.sort(law()[0])[np.linspace(0, len(law()[0]) - 1, examples).round().astype(int)]  # the law's quantiles
    quantiles = torch.special.ndtri(torch.from_numpy(shares)).float().to(case.device)
    case.model._modules[(case.device, torch.float32)] = Coins(case.module, quantiles)  # type: ignore[assignment]
    x = torch.zeros((examples, *case.shape))
    x.flatten(1)[:, 0] = 1000.0 * torch.arange(examples)
    spec = parse_spec({"certifiers": [{"kind": "smoothing", "sigma": SIGMA, "radii": RADII, "error_rate": "per-example"}]})
    data = Examples(tuple(range(examples)), x, torch.zeros(examples, dtype=torch.int64))
    used: list[int] = []

    def work() -> None:
        run = run_for(spec, case.model, examples, batch_size=case.batch, device=case.device)
        used[:] = [c.evidence.n + c.evidence.n0 for c in certify(case.model, data, spec, run)]

    taken = seconds(work)
    case.model._modules[(case.device, torch.float32)] = case.module
    loop = published_each * 100_100 * examples
    sys.stdout.write(
        f"{'':<22} adaptive, four radii: published loop / engine = {loop / taken:.1f}"
        f"   ({examples} examples, {statistics.mean(used):.0f} samples each; the loop's time by its rate above)\n"
    )
    sys.stdout.flush()


def cases(device: str) -> Iterator[Case]:
    yield Case("digits CNN, 8x8", Model.from_onnx(small_cnn(mean=0.5, size=8, channels=1)), device)
    yield Case("MNIST-size CNN, 28x28", Model.from_onnx(to_onnx(build("lenet", (1, 28, 28), 10).eval(), (1, 28, 28))), device)
    yield Case("CIFAR ResNet-20", Model.from_onnx(to_onnx(build("resnet20", (3, 32, 32), 10).eval(), (3, 32, 32))), device)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench smoothing")
    parser.add_argument("--examples", type=int, default=64, help="examples of the adaptive measurement")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as a worker: one thread for each device
    for case in cases(options.device):
        each = fixed(case)
        adaptive(case, each, max(8, min(options.examples, int(BUDGET / (each * EXPECTED)))))


if __name__ == "__main__":
    main()
