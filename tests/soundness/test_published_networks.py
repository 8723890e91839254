"""Networks of the verification competition: none is certified where a counterexample is known."""

from __future__ import annotations

import pytest

from certify import Model
from certify.bounds.engine import LirpaEngine
from certify.errors import ModelRejected
from certify.norms import Norm
from tests.support import published


def check(
    benchmark: str, net: str | None, methods: tuple[str, ...], limit: int | None = None, value_range: tuple[float, float] | None = None
) -> dict[str, int]:
    """Certifies the instances of a benchmark at their epsilon; counts what was proved among those known to be robust."""
    place = published.folder() / benchmark
    if not place.is_dir():
        pytest.skip(f"{benchmark} is not in ASSAY_NETWORKS")
    proved: dict[str, int] = dict.fromkeys(methods, 0)
    models: dict[str, Model] = {}
    chosen = [i for i in published.instances(place) if (net is None or i.net == net) and i.target < 0]
    # Those with a known counterexample first: they are what this test is about.
    chosen.sort(key=lambda i: i.verdict != "sat")
    for instance in chosen[:limit]:
        model = models.setdefault(instance.net, published.load(place / instance.net))
        for method in methods:
            try:
                engine = LirpaEngine(model.graph, method, Norm.LINF, value_range)
            except ModelRejected:
                continue
            bound = engine.margin(instance.x, instance.label, instance.epsilon)
            assert not (bound.proved and instance.verdict == "sat"), f"{benchmark} {instance.net} {instance.index} by {method}"
            proved[method] += bound.proved and instance.verdict == "unsat"
    return proved


def test_mnist_fc_small() -> None:
    # On the clipped ball others prove 10 of these 30 with plain CROWN and none with IBP: fewer would mean precision was lost.
    proved = check("mnist_fc_2022", "mnist-net_256x2.onnx", ("ibp", "crown"), value_range=(0.0, 1.0))
    assert proved["crown"] >= 10


@pytest.mark.parametrize("net", ["mnist-net_256x4.onnx", "mnist-net_256x6.onnx"])
def test_mnist_fc_deep_never_certifies_a_counterexample(net: str) -> None:
    check("mnist_fc_2022", net, ("crown",), limit=12)


@pytest.mark.slow
@pytest.mark.parametrize(("net", "known"), [("mnist-net_256x4.onnx", 11), ("mnist-net_256x6.onnx", 9)])
def test_mnist_fc_deep(net: str, known: int) -> None:
    assert check("mnist_fc_2022", net, ("crown",), value_range=(0.0, 1.0))["crown"] >= known


@pytest.mark.parametrize("benchmark", ["cifar10_resnet_2021", "sri_resnet_a_2022", "oval21_2022", "verivital_2021"])
def test_cheap_bounds_on_every_benchmark(benchmark: str) -> None:
    check(benchmark, None, ("ibp",), limit=25)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["cifar10_resnet_2021", "oval21_2022", "verivital_2021"])
def test_crown_on_convolutional_benchmarks(benchmark: str) -> None:
    check(benchmark, None, ("crown",), limit=12)
