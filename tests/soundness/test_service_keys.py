"""A model that knows its noise votes on cue; under a key that is drawn after the upload it cannot.

The network holds the first two coordinates of every noisy copy that a public seed will produce, and answers class 1 within a millionth of
one of them, class 0 elsewhere. Its true probability of class 1 is below 1e-7 around every input, so that the smoothed classifier answers
0 everywhere: any certificate of class 1 is false.
"""

from __future__ import annotations

import hmac
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from certify import Examples, Model, certify
from certify.certificate import Certificate
from certify.run import Run, commitment, public_key, service_key
from certify.sampling.noise import NOISES
from certify.sampling.streams import Stage, Stream
from certify.spec import Spec, parse_spec
from certify.verdict import Verdict
from storage.database import Database
from storage.records import Job, JobState
from tests.support.files import npz
from tests.support.linear import LinearTruth
from tests.support.onnx_models import model_bytes, node
from tests.support.runs import run_for
from tests.support.salts import key_of
from tests.support.service import SECRET, Service, drive, plain
from tests.support.shop import Shop
from workers.executor import LocalExecutor

SIGMA, N0, N, WIDTH, ELEMENTS = 0.25, 100, 1000, 1e-6, 4
SMOOTHING = {"kind": "smoothing", "sigma": SIGMA, "n0": N0, "n": N}
PREDICT = {"kind": "predict", "sigma": SIGMA, "n": 1000, "alpha": 1e-6}
SPEC: dict[str, Any] = {"seed": 20, "certifiers": [{**SMOOTHING, "sampling": "fixed"}, SMOOTHING, PREDICT]}
X = np.array([[0.2, 0.7, 0.4, 0.9], [0.55, 0.1, 0.3, 0.6]], dtype=np.float32)


def copies(key: bytes, certifier: int, row: int, stage: Stage, count: int) -> np.ndarray:
    """The first `count` noisy copies of an example, as the classifier will see them: (count, elements), float32."""
    noise, stream = NOISES["gaussian"](SIGMA, (ELEMENTS,), "cpu"), Stream(key, certifier, row, stage)
    blocks = [noise.draw(stream, block).clone() for block in range(-(-count // noise.block))]
    drawn = torch.cat(blocks)[:count]
    out = torch.empty_like(drawn)
    noise.apply(noise.prepare(torch.from_numpy(X[row])), drawn, out)
    return out.numpy()


def known(key: bytes) -> np.ndarray:
    """All copies that the smoothing certifiers of `SPEC` will ask about under `key`."""
    stages = ((Stage.SELECTION, N0), (Stage.ESTIMATION, N))
    return np.concatenate(
        [copies(key, certifier, row, stage, count) for certifier in (0, 1) for row in range(len(X)) for stage, count in stages]
    )


def planted(points: np.ndarray) -> bytes:
    """Class 1 where the sum over points c of max(0, 1 - (|y_0 - c_0| + |y_1 - c_1|) / width) exceeds 1/2."""
    weights: dict[str, np.ndarray] = {"steep": np.float32(-1 / WIDTH), "one": np.float32(1), "axes": np.array([1])}
    nodes = []
    for axis in (0, 1):
        pick = np.zeros((len(points), ELEMENTS), np.float32)
        pick[:, axis] = 1
        weights |= {f"pick{axis}": pick, f"minus{axis}": -points[:, axis]}
        nodes += [node("Gemm", f"x pick{axis} minus{axis}", f"from{axis}", transB=1), node("Abs", f"from{axis}", f"far{axis}")]
    nodes += [
        node("Add", "far0 far1", "far"),
        node("Mul", "far steep", "drop"),
        node("Add", "drop one", "height"),
        node("Relu", "height", "bump"),
        node("ReduceSum", "bump axes", "seen", keepdims=1),
        node("Gemm", "seen weight bias", "logits", transB=1),
    ]
    weights |= {"weight": np.array([[0], [1]], np.float32), "bias": np.array([0.5, 0], np.float32)}
    return model_bytes(nodes, weights, input_shape=("batch", ELEMENTS))


def most_class_1(points: np.ndarray) -> float:
    """An upper bound of P(f(x + N(0, sigma^2 I)) = 1) for all x: by Markov's inequality twice the mean of the sum of bumps.

    One bump has the volume 2/3 width^2 over the first two coordinates, whose density is at most 1 / (2 pi sigma^2).
    """
    return 2 * len(points) * (2 / 3 * WIDTH**2) / (2 * math.pi * SIGMA**2)


def answers(model: Model, spec: Spec, **changes: Any) -> list[Certificate]:
    examples = Examples(tuple(range(len(X))), torch.from_numpy(X), torch.ones(len(X), dtype=torch.int64))
    return list(certify(model, examples, spec, run_for(spec, model, len(X), **changes)))


@pytest.fixture(scope="module")
def cheat() -> bytes:
    return planted(known(public_key(parse_spec(SPEC))))


@dataclass(frozen=True)
class Played:
    """A job of the cheating model that went through the service."""

    service: Service
    model_id: str
    dataset_id: str
    submitted: Job
    ended: Job
    certificates: list[Certificate]


@pytest.fixture(scope="module")
def played(cheat: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    service, executor = Service(tmp_path_factory.mktemp("service")), LocalExecutor()
    dispatcher = service.dispatcher(executor)
    model_id, dataset_id = service.upload(cheat, npz(X, np.ones(len(X), np.int64)))
    service.inspected(dispatcher, model_id, dataset_id)
    job = service.submit(model_id, dataset_id, SPEC)
    drive(dispatcher, lambda: service.job(job).state.ended)
    yield Played(service, model_id, dataset_id, job, service.job(job), service.certificates(job))
    executor.close()


def test_the_truth_is_class_0_everywhere() -> None:
    points = known(public_key(parse_spec(SPEC)))
    assert len(points) == 2 * len(X) * (N0 + N)
    assert most_class_1(points) < 1e-7


def test_a_public_seed_lets_a_model_certify_what_is_false(cheat: bytes) -> None:
    """Why the service draws its own key. The certificates say `public-seed`, so that nobody takes them for more."""
    spec = parse_spec({**SPEC, "noise_key": "public-seed"})
    for claim in answers(Model.from_onnx(cheat), spec):
        assert claim.provenance.noise_key == "public-seed"
        if claim.kind == "smoothing":
            assert (claim.verdict, claim.prediction, claim.correct) == (Verdict.CERTIFIED, 1, True)
            assert claim.radius > 2 * SIGMA
            assert claim.evidence.counts[0] == 0
        else:  # samples that the model was not told of
            assert (claim.verdict, claim.prediction) == (Verdict.CERTIFIED, 0)


def test_under_the_key_of_the_service_the_same_model_is_honest(played: Played) -> None:
    assert played.ended.state is JobState.SUCCEEDED
    assert played.ended.spec.noise_key == "service"
    assert len(played.certificates) == 3 * len(X)
    assert not any(c.prediction == 1 or c.correct for c in played.certificates)
    for claim in played.certificates:
        assert (claim.verdict, claim.prediction) == (Verdict.CERTIFIED, 0)
        assert claim.evidence.counts[1] == 0


def test_the_key_is_committed_at_first_and_revealed_at_the_end(played: Played) -> None:
    assert played.submitted.noise_key is None
    assert played.submitted.noise_commitment == played.ended.noise_commitment
    assert played.ended.noise_key is not None
    assert commitment(bytes.fromhex(played.ended.noise_key)) == played.ended.noise_commitment
    assert {c.provenance.noise_key for c in played.certificates} == {f"service:{played.ended.noise_commitment}"}


def test_anyone_can_repeat_the_certificates_with_the_revealed_key(cheat: bytes, played: Played) -> None:
    model, plan, key = Model.from_onnx(cheat, (0.0, 1.0)), played.ended.plan, bytes.fromhex(played.ended.noise_key or "")
    assert plan is not None
    assert key != public_key(played.ended.spec)
    examples = Examples(tuple(range(len(X))), torch.from_numpy(X), torch.ones(len(X), dtype=torch.int64))
    repeated: list[Any] = []
    for index, attempt in enumerate(played.ended.attempts):
        origin = played.certificates[0].provenance.model_copy(update={"attempt": attempt})
        run = Run(plan=plan, noise_key=key, provenance=origin, now=lambda: 0.0, certifiers=(index,))
        repeated += certify(model, examples, played.ended.spec, run)
    assert played.ended.attempts == (1, 2, 1)  # the first two are one certifier that is tried twice
    assert plain(repeated) == plain(played.certificates)


def test_a_revealed_key_is_of_no_use_to_the_next_model(played: Played) -> None:
    """It belongs to the bytes of one model: a model that has learnt it has other bytes and gets another key."""
    spec, old = played.ended.spec, bytes.fromhex(played.ended.noise_key or "")
    model = Model.from_onnx(planted(known(old)))
    fooled = answers(model, spec, noise_key=old)
    assert [c.prediction for c in fooled if c.kind == "smoothing"] == [1] * 2 * len(X)
    digests = {"model": model.digest, "dataset": played.ended.dataset_digest, "spec": spec.digest()}
    new = service_key(SECRET, tenant=played.ended.tenant_id, **digests, salt=bytes(32))
    assert [c.prediction for c in answers(model, spec, noise_key=new)] == [0] * 3 * len(X)


def test_predict_under_a_fresh_key_contradicts_the_false_certificate(cheat: bytes) -> None:
    spec = parse_spec({"certifiers": [PREDICT]})
    for answer in answers(Model.from_onnx(cheat), spec, noise_key=b"drawn after the model was fixed "):
        assert (answer.verdict, answer.prediction, answer.alpha) == (Verdict.CERTIFIED, 0, 1e-6)
        assert answer.evidence.p_value <= 1e-6


def test_asking_again_throws_the_same_dice(played: Played) -> None:
    assert played.service.submit(played.model_id, played.dataset_id, SPEC).id == played.submitted.id


def test_the_same_question_in_another_tenant_gets_other_noise(tmp_path: Path) -> None:
    """Who has two tenants learns nothing in one about the throw of the other, and nothing about the next database either."""

    def noise_of(name: str, tenant: str) -> np.ndarray:
        db = Database(f"sqlite:///{tmp_path / name}")
        db.migrate()
        job = Shop.open(db, tenant).submit(certifiers=[SMOOTHING])
        key = key_of(db, job)
        assert commitment(key) == job.noise_commitment
        return (copies(key, 0, 0, Stage.ESTIMATION, N) - X[0]).ravel()

    noises = [noise_of("1.db", "one"), noise_of("1.db", "two"), noise_of("2.db", "one")]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(noises[i], noises[j])[0, 1]) < 5 / math.sqrt(noises[0].size)


def test_the_label_follows_the_key_and_not_the_wish() -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    model, examples = truth.model(), truth.examples(1, seed=1)
    spec = parse_spec({"noise_key": "service", "certifiers": [{"kind": "smoothing", "sigma": 0.25, "n": 100}]})
    for key, label in ((public_key(spec), "public-seed"), (b"k" * 32, f"service:{commitment(b'k' * 32)}")):
        [certificate] = certify(model, examples, spec, run_for(spec, model, 1, noise_key=key))
        assert certificate.provenance.noise_key == label


def test_every_part_of_the_question_changes_the_key_and_no_two_share_a_text() -> None:
    parts: dict[str, Any] = {"tenant": "t", "model": "m", "dataset": "d", "spec": "s", "salt": b"x"}
    keys = {service_key(b"a secret", **parts)}
    for name in ("tenant", "model", "dataset", "spec"):
        keys.add(service_key(b"a secret", **{**parts, name: "other"}))
    keys.add(service_key(b"a secret", **{**parts, "salt": b"y"}))
    keys.add(service_key(b"another secret", **parts))
    keys.add(service_key(b"a secret", **{**parts, "tenant": "tm", "model": ""}))
    keys.add(service_key(b"a secret", **{**parts, "tenant": "", "model": "tm"}))
    assert len(keys) == 9


def test_the_key_is_the_hmac_that_is_documented() -> None:
    parts = [b"assay/noise-key/2", b"tnt_1", b"aa", b"bb", b"cc", b"\x00" * 32]
    text = b"".join(struct.pack(">Q", len(part)) + part for part in parts)
    expected = hmac.digest(b"secret", text, "sha256")
    assert service_key(b"secret", tenant="tnt_1", model="aa", dataset="bb", spec="cc", salt=bytes(32)) == expected
