"""Networks of the verification competition: none is certified where a counterexample is known, and what others prove is proved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest
import torch

from certify import Examples, Model, certify
from certify.attacks.pgd import pgd
from certify.attacks.search import minimal_distance
from certify.certificate import Certificate
from certify.errors import ModelRejected
from certify.norms import Norm
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.support import published
from tests.support.runs import run_for

RANGE = (0.0, 1.0)
# What auto-LiRPA's own drivers were seen to prove on the clipped balls of mnist_fc_2022, out of 30 instances of each network.
KNOWN = {
    "mnist-net_256x2.onnx": {"ibp": 0, "crown-ibp": 6, "crown": 10, "alpha-crown": 13},
    "mnist-net_256x4.onnx": {"ibp": 0, "crown": 11, "alpha-crown": 12},
    "mnist-net_256x6.onnx": {"ibp": 0, "crown": 9},
}
CHEAP = ("ibp", "crown-ibp", "crown")


def slow(net: str) -> Any:
    """A network whose turn comes with --slow alone."""
    return pytest.param(net, marks=pytest.mark.slow)


def issue(model: Model, instances: Sequence[published.Instance], entry: dict[str, Any], *, clip: bool = False) -> list[Certificate]:
    """Certificates of the instances under one certifier, by the one verb."""
    spec = parse_spec({"certifiers": [{"kind": "bounds", **entry}], "clip": clip})
    x, y = torch.stack([i.x for i in instances]), torch.tensor([i.label for i in instances])
    examples = Examples(tuple(i.index for i in instances), x.reshape(-1, *model.input_shape), y)
    return list(certify(model, examples, spec, run_for(spec, model, len(examples))))


def check(
    benchmark: str, net: str | None, methods: Sequence[str], limit: int | None = None, value_range: tuple[float, float] | None = None
) -> dict[str, int]:
    """Certifies the instances of a benchmark at their epsilon; counts what was proved among those known to be robust."""
    place = published.folder() / benchmark
    if not place.is_dir():
        pytest.skip(f"{benchmark} is not in ASSAY_NETWORKS")
    proved: dict[str, int] = dict.fromkeys(methods, 0)
    chosen = [i for i in published.instances(place) if (net is None or i.net == net) and i.target < 0]
    # Those with a known counterexample first: they are what this test is about.
    chosen.sort(key=lambda i: i.verdict != "sat")
    chosen = sorted(chosen[:limit], key=lambda i: (i.net, i.epsilon))
    for (name, epsilon), group in groupby(chosen, key=lambda i: (i.net, i.epsilon)):
        instances = list(group)
        model = Model.from_onnx((place / name).read_bytes(), value_range)
        for method in methods:
            try:
                certificates = issue(model, instances, {"method": method, "norm": "linf", "epsilon": epsilon}, clip=value_range is not None)
            except ModelRejected:
                continue
            for instance, certificate in zip(instances, certificates, strict=True):
                assert certificate.verdict is not Verdict.ERROR, certificate.reason
                robust = certificate.verdict is Verdict.CERTIFIED
                assert not (robust and instance.verdict == "sat"), f"{benchmark} {name} {instance.index} by {method}"
                proved[method] += robust and instance.verdict == "unsat"
    return proved


def test_mnist_fc_small() -> None:
    known = KNOWN["mnist-net_256x2.onnx"]
    proved = check("mnist_fc_2022", "mnist-net_256x2.onnx", tuple(known), value_range=RANGE)
    assert {method: proved[method] >= least for method, least in known.items()} == dict.fromkeys(known, True), proved


@pytest.mark.parametrize("net", [slow("mnist-net_256x4.onnx"), "mnist-net_256x6.onnx"])
def test_mnist_fc_deep(net: str) -> None:
    proved = check("mnist_fc_2022", net, CHEAP, value_range=RANGE)
    assert proved["crown"] >= KNOWN[net]["crown"], proved


@pytest.mark.parametrize("net", [slow("mnist-net_256x2.onnx"), slow("mnist-net_256x4.onnx"), "mnist-net_256x6.onnx"])
def test_mnist_fc_never_certifies_a_counterexample_on_the_full_ball(net: str) -> None:
    methods = (*CHEAP, "alpha-crown") if net == "mnist-net_256x2.onnx" else CHEAP
    proved = check("mnist_fc_2022", net, methods)
    if "alpha-crown" in methods:
        assert proved["alpha-crown"] >= proved["crown"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("value_range", [RANGE, None], ids=["clipped", "full"])
@pytest.mark.parametrize("net", ["mnist-net_256x4.onnx", "mnist-net_256x6.onnx"])
def test_mnist_fc_deep_by_alpha_crown(net: str, value_range: tuple[float, float] | None) -> None:
    proved = check("mnist_fc_2022", net, ("alpha-crown",), value_range=value_range)
    if value_range is not None:
        assert proved["alpha-crown"] >= max(KNOWN[net].values())


@pytest.mark.parametrize("norm", [Norm.L2, Norm.L1])
@pytest.mark.parametrize("net", ["mnist-net_256x2.onnx", slow("mnist-net_256x4.onnx"), slow("mnist-net_256x6.onnx")])
def test_attacks_find_nothing_within_a_certified_radius(net: str, norm: Norm) -> None:
    place = published.folder() / "mnist_fc_2022"
    if not place.is_dir():
        pytest.skip("mnist_fc_2022 is not in ASSAY_NETWORKS")
    instances = [i for i in published.instances(place) if i.net == net and i.verdict == "unsat"][:2]
    model = published.load(place / net)
    module = model.module("cpu", torch.float64)
    largest = 40.0 if norm is Norm.L1 else 5.0
    nearest = []
    for instance in instances:
        x = instance.x.reshape(model.input_shape)
        found = minimal_distance(module, x, instance.label, norm=norm, max_radius=largest, generator=torch.Generator().manual_seed(0))
        nearest.append(math.inf if found is None else found.distance_upper)
    assert min(nearest) < math.inf
    methods = (*CHEAP, "alpha-crown") if net == "mnist-net_256x2.onnx" else CHEAP
    for method in methods:
        few = {"iterations": 3} if method == "alpha-crown" else {}
        entry = {"method": method, "norm": norm.value, "max_radius": largest, "tolerance": 0.01, **few}
        for certificate, instance, limit in zip(issue(model, instances, entry), instances, nearest, strict=True):
            assert (certificate.verdict, certificate.prediction) == (Verdict.CERTIFIED, instance.label)
            assert 0 < certificate.radius < limit
            x, generator = instance.x.reshape(model.input_shape), torch.Generator().manual_seed(1)
            assert pgd(module, x, instance.label, norm=norm, radius=certificate.radius, generator=generator) is None


@pytest.mark.parametrize("benchmark", ["cifar10_resnet_2021", "sri_resnet_a_2022", "oval21_2022", "verivital_2021"])
def test_cheap_bounds_on_every_benchmark(benchmark: str) -> None:
    check(benchmark, None, ("ibp",), limit=25)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["cifar10_resnet_2021", "oval21_2022", "verivital_2021"])
def test_crown_on_convolutional_benchmarks(benchmark: str) -> None:
    check(benchmark, None, ("crown",), limit=12)
