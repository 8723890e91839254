"""What runs is what the row says: float32 is IEEE float32, whatever the process allowed before, and bf16 and tf32 only where asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from certify import Examples, Model, certify, precision
from certify.certificate import Certificate
from certify.contradiction import suspects
from certify.errors import EngineUnavailable, InputError, SpecError
from certify.following import check_statement
from certify.precision import check_device, computing, ieee, keeps_float32, settings, sums_of_products
from certify.prediction import predict
from certify.regions import Rule
from certify.spec import Spec, parse_spec
from certify.verdict import Verdict
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model, model_bytes, node, small_cnn
from tests.support.runs import run_for

# The digests that these specs had before `precision` came.
DIGESTS: dict[str, tuple[dict[str, Any], str]] = {
    "smoothing": ({"sigma": 0.25}, "e5e722f98d94768baa2a72d23a7586f74db5d52042cec976d0c952af15c9cc4e"),
    "latent-smoothing": ({"split": "t", "sigma": 0.5}, "8a1650631b23a4c04f79c9d3ee8b430a87c2a620bf0f7d404cdc4ecb8f761878"),
    "instance-smoothing": ({"sigmas": [0.25, 0.5]}, "02e828994b5234ee9e32ad99a5deee5d720fccc0fd5cfaa14302a7ac246215be"),
    "dssn": ({"sigma": 0.5}, "4ed4f9cca6eff23f249512a739588ca5c8a4e6903a6807d4dd75575c806d2364"),
    "predict": ({"sigma": 0.25}, "5f5c24ddd217fa9ab90e46f361eb505216a3413007bf24b9f08ccaf43e2593e7"),
    "dual-predict": (
        {"sigmas": [0.25, 0.5], "selector": {"kind": "confidence", "sigma": 0.5, "thresholds": [0.9]}},
        "b43c58f1a7ab85a3cf842958b7e866de1a90ae6cff2e8fb313bb88fc9a8167d0",
    ),
    "memory-predict": (
        {"ledger": f"ldg_{0:026}", "version": 1, "sigmas": [0.25], "search": {}},
        "bd55f33d2fa11eb51b2f033c32b38a77e4277bc551df40f1e86f64fde0660f78",
    ),
}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "bounds": ({"method": "crown", "norm": "linf", "epsilon": 0.03}, "b92ccf0e2cfe39a8629922d82827142a4fb850c270a4862a3ecc722aaa93173e"),
    "lipschitz": ({}, "aa91f574bb7595290516f39a68cad0680178c1cd7efd22e7578e144f4bbc5777"),
    "attack": ({"norm": "linf", "max_radius": 0.1}, "5cafbe5fc9bbd01a9d8e412e123581fc02419fbd87a1c930cdc08bd1827f652b"),
}


@pytest.fixture(autouse=True)
def _strict_again() -> Iterator[None]:
    yield
    ieee()


def asked(kind: str, **fields: Any) -> Spec:
    return parse_spec({"certifiers": [{"kind": kind, **fields}]})


@pytest.mark.parametrize("kind", [*DIGESTS, *OTHERS])
def test_a_spec_that_asks_for_nothing_new_keeps_its_digest(kind: str) -> None:
    fields, digest = {**DIGESTS, **OTHERS}[kind]
    assert asked(kind, **fields).digest() == digest
    if kind in DIGESTS:
        assert asked(kind, **fields, precision="float32").digest() == digest
        assert asked(kind, **fields, precision="bf16").digest() != digest
        assert parse_spec(asked(kind, **fields, precision="bf16").canonical()) == asked(kind, **fields, precision="bf16")
    else:
        with pytest.raises(SpecError, match="precision: unknown field"):
            asked(kind, **fields, precision="bf16")


def test_another_precision_is_another_rule_of_a_ledger() -> None:
    entry: dict[str, Any] = {"sigmas": [0.25], "statement": "memory"}
    plain, short = (asked("instance-smoothing", **entry, precision=name).certifiers[0] for name in ("float32", "bf16"))
    assert "precision" not in Rule.of(plain, None).text
    assert Rule.of(plain, None).digest() != Rule.of(short, None).digest()


# -- what torch may do ---------------------------------------------------------------------------------------------------------


def allow_everything() -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = False
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True


def strict() -> bool:
    return (
        {one.fp32_precision for one in settings()} == {"ieee"}
        and torch.get_float32_matmul_precision() == "highest"
        and not torch.backends.cudnn.allow_tf32
        and not torch.backends.cuda.matmul.allow_tf32
        and not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
        and not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
        and torch.backends.cudnn.deterministic
        and not torch.backends.cudnn.benchmark
        and torch.are_deterministic_algorithms_enabled()
    )


def test_whoever_asks_a_model_for_its_module_gets_float32() -> None:
    allow_everything()
    assert not strict()
    Model.from_onnx(small_cnn()).module()
    assert strict()


@pytest.mark.parametrize("entry", [{"kind": "smoothing", "sigma": 0.25, "n": 200, "alpha": 0.01}, {"kind": "lipschitz"}])
def test_the_verb_computes_in_float32_whatever_was_allowed_before(entry: dict[str, Any]) -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    model, spec = truth.model(), parse_spec({"certifiers": [entry]})
    allow_everything()
    list(certify(model, truth.examples(2, seed=1), spec, run_for(spec, model, 2)))
    assert strict()


def test_shorter_products_are_allowed_only_inside_and_only_for_tf32() -> None:
    with computing("tf32"):
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    assert strict()
    for name in ("float32", "bf16"):
        with computing(name):  # type: ignore[arg-type]
            assert strict()
    with pytest.raises(RuntimeError), computing("tf32"):
        raise RuntimeError
    assert strict()


def test_what_is_proved_by_sums_of_products_runs_without_cudnn() -> None:
    with sums_of_products():
        assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled
    seen: list[bool] = []
    truth = LinearTruth.random(6, 4, seed=7)
    spec = parse_spec(
        {"certifiers": [{"kind": "bounds", "method": "ibp", "norm": "l2", "max_radius": 1.0}, {"kind": "smoothing", "sigma": 0.25}]}
    )
    run = run_for(spec, truth.model(), 1)
    watched = replace(run, on_progress=lambda _: seen.append(torch.backends.cudnn.enabled))
    list(certify(truth.model(), truth.examples(1, seed=1), spec, watched))
    assert seen[0] is False
    assert seen[-1] is True


def test_a_device_that_shortens_float32_products_all_the_same_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keeps_float32("cpu")
    for lost in (10, 7):  # bits of TF32 and of bfloat16
        rounded = float(np.round(np.float64(1 + 2.0**-12) * 2.0**lost) / 2.0**lost)
        monkeypatch.setattr(precision, "_seen", lambda device, at=rounded: iter([torch.tensor(at)]))
        keeps_float32.cache_clear()
        with pytest.raises(EngineUnavailable, match="fewer bits than they have"):
            check_device(asked("lipschitz").certifiers[0], "certifiers.0", "cpu")
    monkeypatch.undo()
    keeps_float32.cache_clear()


def test_the_workers_drop_what_would_shorten_products_from_their_environment() -> None:
    names = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "CUBLAS_WORKSPACE_CONFIG")
    script = f"import workers.settings, os; print([os.environ.get(name) for name in {names!r}])"
    environment = {**os.environ, **dict.fromkeys(names[:3], "1")}
    environment.pop(names[3], None)
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[None, None, None, ':4096:8']"


# -- a classifier in another precision -----------------------------------------------------------------------------------------


def answers(spec: Spec, model: Model, x: torch.Tensor) -> list[Certificate]:
    examples = Examples(tuple(range(len(x))), x, torch.zeros(len(x), dtype=torch.int64))
    return [row for row in certify(model, examples, spec, run_for(spec, model, len(x))) if isinstance(row, Certificate)]


def step_model() -> Model:
    """Class 1 beyond x = 1. In bfloat16 the next number after 1 is 1 + 2^-7."""
    weight, one = np.array([[-1.0], [1.0]], np.float32), np.ones(1, np.float32)
    return Model.from_onnx(linear_model(weight, np.zeros(2, np.float32), mean=one, std=one))


def test_bf16_is_the_classifier_whose_weights_and_inputs_are_rounded() -> None:
    x = torch.full((1, 1), 1.0 + 2.0**-9)
    whole, short = (predict(step_model(), x, sigma=1e-6, n=50, key=b"k" * 32, precision=name)[0] for name in ("float32", "bf16"))
    assert whole.counts == (0, 50)
    assert short.counts == (50, 0)


KINDS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "smoothing", "sigma": 0.25, "n": 500, "alpha": 0.01}, "S0-fixed-bf16"),
    ({"kind": "smoothing", "sigma": 0.25, "n": 500, "alpha": 0.01, "norm": "linf"}, "S0-fixed-bf16-from-l2"),
    ({"kind": "smoothing", "sigma": 0.25, "n": 500, "alpha": 0.01, "noise": "discrete-gaussian"}, "S0-fixed-grid-bf16"),
    ({"kind": "instance-smoothing", "sigmas": [0.1, 0.25], "n": 500, "alpha": 0.01}, "S4-dual-bf16"),
    ({"kind": "instance-smoothing", "sigmas": [0.1, 0.25], "n": 500, "alpha": 0.01, "statement": "frozen"}, "S1-frozen-bf16"),
    ({"kind": "predict", "sigma": 0.25, "n": 200}, "S0-prediction-bf16"),
    (
        {"kind": "dual-predict", "sigmas": [0.25, 0.5], "selector": {"kind": "confidence", "sigma": 0.5, "thresholds": [0.9]}},
        "S4-dual-prediction-bf16",
    ),
    (
        {"kind": "memory-predict", "ledger": f"ldg_{0:026}", "version": 1, "sigmas": [0.25], "search": {"samples": 50}},
        "S1-frozen-prediction-bf16",
    ),
    ({"kind": "dssn", "sigma": 0.1}, "S0-exact-grid-bf16"),
]


@pytest.mark.parametrize(("entry", "name"), KINDS, ids=[name for _, name in KINDS])
def test_every_kind_of_noisy_copies_runs_in_bf16_and_says_so(entry: dict[str, Any], name: str) -> None:
    model = Model.from_onnx(small_cnn(seed=1))
    x = (torch.rand((3, *model.input_shape), generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    spec = parse_spec({"certifiers": [{**entry, "precision": "bf16"}]})
    rows = answers(spec, model, x)
    assert {str(row.statement) for row in rows} == {name}
    assert {row.evidence.precision for row in rows if row.evidence} == {"bf16"}
    assert {row.provenance.dtype for row in rows} == {"bf16"}
    assert not any(row.verdict is Verdict.ERROR for row in rows)
    assert suspects(rows) == []
    for row in rows:
        check_statement(row)
    # The same rows whatever they are packed with: each alone, and in another order.
    stated = [row.model_copy(update={"seconds": 0.0}).line() for row in rows]
    for order in ([0], [2, 1, 0]):
        examples = Examples(tuple(order), x[order], torch.zeros(len(order), dtype=torch.int64))
        again = [row for row in certify(model, examples, spec, run_for(spec, model, 3)) if isinstance(row, Certificate)]
        assert [row.model_copy(update={"seconds": 0.0}).line() for row in again] == [stated[i] for i in order]


def test_noise_is_added_in_float32_before_it_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    whole = precision.network_in

    def watched(module: Any, name: Any, field: str) -> Any:
        inner = whole(module, name, field)
        return lambda x: (seen.append(x.clone()), inner(x))[1]

    monkeypatch.setattr("certify.model.network_in", watched)
    x = torch.full((1, 1, 8, 8), 0.3)
    made: dict[str, list[torch.Tensor]] = {}
    for name in ("float32", "bf16"):
        seen.clear()
        answers(asked("predict", sigma=0.25, n=100, precision=name), Model.from_onnx(small_cnn()), x)
        made[name] = list(seen)
    assert all(one.dtype == torch.float32 for one in made["bf16"])
    assert len(made["bf16"]) == len(made["float32"]) > 0
    assert all(torch.equal(a, b) for a, b in zip(made["bf16"], made["float32"], strict=True))


def test_tf32_on_a_cpu_is_refused_before_anything_is_computed() -> None:
    drawn: list[Any] = []
    truth = LinearTruth.random(6, 4, seed=7)
    spec = parse_spec({"certifiers": [{"kind": "predict", "sigma": 0.25}, {"kind": "smoothing", "sigma": 0.25, "precision": "tf32"}]})
    run = replace(run_for(spec, truth.model(), 2), on_progress=drawn.append)
    with pytest.raises(EngineUnavailable, match=r"certifiers\.1\.precision: tf32 needs a CUDA device .* and this runs on cpu; use float32"):
        list(certify(truth.model(), truth.examples(2, seed=1), spec, run))
    assert drawn == []


def test_an_operator_that_torch_has_not_in_bfloat16_is_named() -> None:
    nodes = [node("AveragePool", "x", "y", kernel_shape=[2, 2, 2]), node("Flatten", "y", "logits")]
    model = Model.from_onnx(model_bytes(nodes, {}, input_shape=("batch", 1, 3, 3, 3)))
    with pytest.raises(
        InputError, match=r"certifiers\.0\.precision: bf16: this network cannot be computed in bfloat16 on cpu .*use float32"
    ):
        answers(asked("predict", sigma=0.25, n=100, precision="bf16"), model, torch.rand((1, 1, 3, 3, 3)))


def test_setting_them_imports_no_compiler() -> None:
    """The inspector of uploads may write nothing, and torch's compiler wants a temporary folder when it is imported."""
    code = "import sys; from certify.precision import ieee; ieee(); print('torch._inductor' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
