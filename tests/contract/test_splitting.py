"""Splitting noise is exact: every grid input in a certified ball is tried, with the definition written a second time in fractions."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from certify import Examples, Model, certify
from certify.certificate import Certificate, SplittingEvidence
from certify.errors import InputError, SpecError
from certify.exit_codes import Exit, exit_code
from certify.facts import DatasetFacts, ModelFacts, check
from certify.norms import Norm
from certify.run import Progress
from certify.sampling.noise.splitting import Splitting, make_template
from certify.sampling.streams import Stage, Stream
from certify.spec import Spec, parse_spec
from certify.splitting import lead
from certify.verdict import Verdict
from tests.contract.certifier_laws import CertifierLaws, N
from tests.support.linear import LinearTruth
from tests.support.onnx_models import Array, linear_model, mlp, node
from tests.support.runs import run_for
from tests.support.splitting import BATCH, SEED, Definition, slow_template, split_value, split_values
from workers.plan import plan_job


def sigma_of(levels: int) -> float:
    return levels / 510 / math.sqrt(3)


def spec_of(levels: int, **changes: Any) -> Spec:
    return parse_spec({"seed": SEED, "certifiers": [{"kind": "dssn", "sigma": sigma_of(levels), **changes}]})


def grid_examples(m: Array) -> Examples:
    return Examples(tuple(range(len(m))), torch.from_numpy(m.astype(np.float32)) / 255, torch.zeros(len(m), dtype=torch.int64))


def certificates_of(model: Model, levels: int, m: Array, **changes: Any) -> list[Certificate]:
    spec = spec_of(levels)
    return list(certify(model, grid_examples(m), spec, run_for(spec, model, len(m), batch_size=BATCH, **changes)))


def steps_of(certificate: Certificate) -> int:
    """The certified distance in units of 1/255."""
    return math.floor(certificate.radius * 255 + 1e-6)


def wild_model(elements: int, classes: int, seed: int, scale: float = 0.05) -> Model:
    """A network whose answer changes often inside the cube."""
    first = [node("Sub", "x mean", "centred"), node("Div", "centred scale", "start")]
    extra = {"mean": np.full(elements, 0.5, np.float32), "scale": np.full(elements, scale, np.float32)}
    return Model.from_onnx(mlp([elements, 12, 8, classes], seed=seed, first=first, **extra))


def small_balls(levels: int, elements: int, classes: int, scale: float, *, most: int) -> tuple[Definition, Array]:
    """A network and up to eight inputs with the largest balls of at most `most` steps: small enough to try every input."""
    for seed in range(100):
        definition = Definition(wild_model(elements, classes, seed, scale), levels)
        candidates = np.random.default_rng(seed).integers(0, 256, size=(100, elements))
        steps = np.array([lead(votes)[1] for votes in definition.votes(candidates).tolist()])
        order = [i for i in np.argsort(-steps, kind="stable") if steps[i] <= most]
        if len(order) >= 3 and steps[order[0]] >= 1:
            return definition, candidates[order[:8]]
    raise AssertionError("no network has small balls")


def ladder(*, classes: int) -> Model:
    """One element: class 0 below 0.4985 (three classes) or 0.4995 (two), class 1 on top, and class 2 between 0.4985 and 0.5005."""
    weight, bias = np.array([[0.0], [2000.0], [1000.0]], np.float32), np.array([0.0, -999.0, -498.5], np.float32)
    return Model.from_onnx(linear_model(weight[:classes], bias[:classes]))


# -- soundness -----------------------------------------------------------------------------------------------------------------

# (elements, levels, classes, scale): cells narrower than [0, 1] and wider, on both sides of 255, where the two definitions meet.
SIZES = [
    (1, 300, 3, 0.02),
    (1, 2, 2, 0.02),
    (2, 30, 2, 0.05),
    (2, 31, 4, 0.02),
    (2, 254, 3, 0.05),
    (2, 255, 2, 0.05),
    (2, 256, 3, 0.05),
    (2, 310, 4, 0.05),
    (3, 12, 3, 0.02),
    (3, 260, 4, 0.02),
    (4, 9, 2, 0.02),
    (4, 257, 3, 0.02),
]


@pytest.mark.parametrize(("elements", "levels", "classes", "scale"), SIZES)
def test_every_grid_input_of_a_certified_ball_gets_the_same_answer(elements: int, levels: int, classes: int, scale: float) -> None:
    definition, m = small_balls(levels, elements, classes, scale, most={1: 60, 2: 25, 3: 7, 4: 4}[elements])
    for certificate, row, votes in zip(certificates_of(definition.model, levels, m), m, definition.votes(m), strict=True):
        assert isinstance(certificate.evidence, SplittingEvidence)
        assert list(certificate.evidence.counts) == votes.tolist()
        assert (certificate.verdict, certificate.prediction) == (Verdict.CERTIFIED, int(votes.argmax()))
        steps = steps_of(certificate)
        assert certificate.radius == steps / 255, "so that a gate at that quotient passes"
        assert Fraction(certificate.radius) * 255 < steps + 1, "no grid input beyond the steps that hold lies in the ball"
        assert definition.holds(row, certificate.prediction, steps)


@pytest.mark.parametrize(("levels", "elements"), [(60, 2), (300, 2), (20, 3)])
def test_one_step_further_the_answer_may_change(levels: int, elements: int) -> None:
    definition, m = small_balls(levels, elements, 2, 0.02, most=12 // elements)
    found = zip(m, certificates_of(definition.model, levels, m), strict=True)
    assert not all(definition.holds(row, c.prediction, steps_of(c) + 1) for row, c in found)


def test_on_a_line_the_radius_is_the_exact_distance() -> None:
    # One element and one threshold: each step moves one vote, always the same way.
    model, levels = ladder(classes=2), 300
    m = np.arange(256)[:, None]
    answers = Definition(model, levels).answers(m)
    assert set(answers) == {0, 1}
    for value, certificate in enumerate(certificates_of(model, levels, m)):
        assert certificate.prediction == answers[value]
        others = [abs(value - other) for other in range(256) if answers[other] != answers[value]]
        assert steps_of(certificate) == min(others) - 1


def without_the_tie_rule(counts: Sequence[int]) -> tuple[int, int]:
    top = lead(counts)[0]
    return top, min((counts[top] - votes) // 2 for rival, votes in enumerate(counts) if rival != top)


def against_the_runner_up_only(counts: Sequence[int]) -> tuple[int, int]:
    top = lead(counts)[0]
    second = sorted((c for c in range(len(counts)) if c != top), key=counts.__getitem__)[-1]
    return top, (counts[top] - counts[second] - (second < top)) // 2


@pytest.mark.parametrize(
    ("classes", "levels", "value", "wrong"),
    # Three classes: 1 leads 0 and 2, which are equal; 2 would lose a tie against 1 and 0 would win it.
    [(2, 256, 200, without_the_tie_rule), (3, 308, 200, without_the_tie_rule), (3, 308, 200, against_the_runner_up_only)],
)
def test_a_radius_without_the_full_rule_is_found_wrong(
    classes: int, levels: int, value: int, wrong: Callable[[Sequence[int]], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, m = ladder(classes=classes), np.array([[value]])
    definition = Definition(model, levels)
    [right] = certificates_of(model, levels, m)
    assert definition.holds(m[0], 1, steps_of(right))
    monkeypatch.setattr("certify.splitting.lead", wrong)
    [broken] = certificates_of(model, levels, m)
    assert steps_of(broken) == steps_of(right) + 1
    assert not definition.holds(m[0], 1, steps_of(broken))


def test_ties_go_to_the_lowest_class_and_a_zero_radius_is_still_an_answer() -> None:
    model, levels = ladder(classes=2), 256
    certificates = certificates_of(model, levels, np.array([[126], [127], [128], [129]]))
    assert [c.evidence.counts for c in certificates] == [(129, 127), (128, 128), (127, 129), (126, 130)]
    assert [c.prediction for c in certificates] == [0, 0, 1, 1]
    assert [steps_of(c) for c in certificates] == [1, 0, 0, 1]
    assert [c.verdict for c in certificates] == [Verdict.CERTIFIED] * 4
    assert certificates[1].radius == 0.0
    assert "exactly; its lead in votes is too small" in certificates[1].reason


@pytest.mark.parametrize(("winner", "steps"), [(0, 20), (2, 19)])
def test_a_constant_classifier_reaches_half_the_levels(winner: int, steps: int) -> None:
    bias = np.eye(3, dtype=np.float32)[winner]
    model = Model.from_onnx(linear_model(np.zeros((3, 2), np.float32), bias))
    [certificate] = certificates_of(model, 40, np.array([[0, 255]]))
    assert (certificate.prediction, certificate.radius) == (winner, steps / 255)
    assert certificate.evidence.counts == tuple(40 * (c == winner) for c in range(3))


@pytest.mark.parametrize(
    ("counts", "found"), [((5, 5), (0, 0)), ((4, 5), (1, 0)), ((4, 6), (1, 0)), ((6, 4, 5), (0, 0)), ((0, 0, 9), (2, 4))]
)
def test_the_lead_counts_the_tie_rule(counts: tuple[int, ...], found: tuple[int, int]) -> None:
    assert lead(counts) == found


# -- the copies ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 88, 127, 128, 254, 255, 256, 300, 511])
def test_every_copy_is_the_float32_nearest_to_its_definition(levels: int) -> None:
    noise = Splitting(sigma_of(levels), levels, np.zeros(256, np.int32), "cpu")
    x, copies = noise.prepare(torch.arange(256) / 255), []
    for block in range(-(-levels // noise.block)):
        copies.append(torch.empty(noise.block, 256))
        noise.apply(x, noise.draw(Stream(b"", 0, 0, Stage.PREDICTION), block), copies[-1])
    assert np.array_equal(torch.cat(copies)[:levels].numpy(), split_values(levels))


def test_copies_stay_exact_with_as_many_levels_as_a_spec_may_ask() -> None:
    noise = Splitting(sigma_of(100_000), 100_000, np.full(256, 99_999, np.int32), "cpu")
    x, out = noise.prepare(torch.arange(256) / 255), torch.empty(noise.block, 256)
    for block in (0, 1, 100_000 // noise.block - 1):
        noise.apply(x, noise.draw(Stream(b"", 0, 0, Stage.PREDICTION), block), out)
        for row in range(0, noise.block, 17):
            t = (99_999 + block * noise.block + row) % 100_000
            wanted = [np.float32(float(split_value(m, t, 100_000))) for m in range(256)]
            assert np.array_equal(out[row].numpy(), np.array(wanted))


def test_offsets_are_shared_by_all_elements_of_an_image() -> None:
    template = make_template(b"k" * 32, 50, (2, 3, 5))
    noise = Splitting(sigma_of(50), 50, template, "cpu")
    for block in (0, 1):
        drawn = noise.draw(Stream(b"", 0, 0, Stage.PREDICTION), block).numpy()
        offsets = (np.arange(noise.block) + block * noise.block).reshape(-1, 1, 1, 1)
        assert np.array_equal(drawn, (template + offsets) % 50)


def test_the_template_is_uniform_and_belongs_to_the_seed() -> None:
    first, again, other = (make_template(key, 10, (10_000,)) for key in (b"a" * 32, b"a" * 32, b"b" * 32))
    assert np.array_equal(first, again)
    assert 500 < np.count_nonzero(first == other) < 1500
    assert set(np.unique(first)) == set(range(10))
    assert np.bincount(first).min() > 850


def test_the_radius_from_shares_is_the_one_from_counts_up_to_a_step() -> None:
    noise = Splitting(sigma_of(300), 300, np.zeros(2, np.int32), "cpu")
    for votes in range(150, 301):
        steps = lead((votes, 300 - votes))[1]
        assert steps - 1e-9 <= 255 * noise.radius(votes / 300, 1 - votes / 300) + 1e-9 < steps + 1
        assert noise.reach(np.array([votes / 300]), np.array([1 - votes / 300]))[0] == pytest.approx((2 * votes - 300) / 510)


# -- laws ----------------------------------------------------------------------------------------------------------------------


class GridTruth(LinearTruth):
    """The same classifier, asked about 8-bit inputs."""

    def examples(self, count: int, *, seed: int) -> Examples:
        found = super().examples(count, seed=seed)
        return Examples(found.rows, (found.x * 255).round() / 255, found.y)


class SplittingLaws(CertifierLaws):
    norm = Norm.L1

    @pytest.fixture(params=["plain", "behind a normalisation"])
    def truth(self, request: pytest.FixtureRequest) -> LinearTruth:
        return GridTruth.random(6, 4, seed=7, normalised=request.param != "plain")

    def spec(self, **changes: Any) -> Spec:
        return parse_spec({"seed": SEED, "certifiers": [{**self.entry, **changes}]})

    def test_radius_never_exceeds_the_exact_distance(self, truth: LinearTruth) -> None:
        """The balls are too large to try every input: straight and zigzag walks of the certified length, in all directions."""
        examples, model = truth.examples(4, seed=1), truth.model()
        definition = Definition(model, self.spec().certifiers[0].levels)
        for certificate, x in zip(self.run(model, examples), examples.x, strict=True):
            walks = np.array(list(walks_from((x * 255).round().numpy().astype(int), steps_of(certificate))))
            assert (definition.answers(walks) == certificate.prediction).all()

    def test_a_point_on_the_boundary_gets_no_radius(self) -> None:
        # 127 of 0..255 is where the two classes get the same votes (levels 256).
        [certificate] = certificates_of(ladder(classes=2), 256, np.array([[127]]))
        assert (certificate.verdict, certificate.radius) == (Verdict.CERTIFIED, 0.0)

    def test_infinite_logits_are_an_error_and_never_a_vote(self) -> None:
        weight = np.full((2, 3), 3e38, dtype=np.float32)
        weight[1] *= -1
        model = Model.from_onnx(linear_model(weight, np.zeros(2, dtype=np.float32)))
        [broken, whole] = self.run(model, Examples((0, 1), torch.tensor([[1.0] * 3, [0.0] * 3]), torch.tensor([0, 0])))
        assert (broken.verdict, broken.prediction, broken.radius, broken.evidence) == (Verdict.ERROR, None, 0.0, None)
        assert whole.verdict is (Verdict.CERTIFIED if self.spec().certifiers[0].levels < 150 else Verdict.ERROR)

    def test_an_input_off_the_grid_is_refused(self, truth: LinearTruth) -> None:
        examples = truth.examples(N, seed=4)
        examples.x[3, 2] += 0.3 / 255
        with pytest.raises(InputError, match="1/255 grid"):
            self.run(truth.model(), examples)

    def test_the_row_says_what_was_counted(self, truth: LinearTruth) -> None:
        levels, seen = self.spec().certifiers[0].levels, []
        certificates = self.run(truth.model(), truth.examples(N, seed=4), on_progress=seen.append)
        template = slow_template(SEED, levels, 6)
        for certificate in certificates:
            evidence = certificate.evidence
            assert isinstance(evidence, SplittingEvidence)
            assert evidence.template == hashlib.sha256(struct.pack("<6i", *template)).hexdigest()
            assert (evidence.levels, sum(evidence.counts)) == (levels, levels)
            assert (certificate.prediction, certificate.radius) == (lead(evidence.counts)[0], lead(evidence.counts)[1] / 255)
            assert (str(certificate.statement), certificate.alpha) == ("S0-exact-grid", None)
            assert certificate.provenance.noise_key is None
        assert isinstance(seen[-1], Progress)
        assert seen[-1].samples == levels * N

    def test_nothing_depends_on_the_key_or_the_batch(self, truth: LinearTruth) -> None:
        examples, model = truth.examples(4, seed=1), truth.model()
        usual = [(c.radius, c.evidence) for c in self.run(model, examples)]
        assert [(c.radius, c.evidence) for c in self.run(model, examples, noise_key=b"x" * 32)] == usual
        for batch_size in (1, 7, 1000):
            assert [(c.radius, c.evidence) for c in self.run(model, examples, batch_size=batch_size)] == usual


class TestNarrow(SplittingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "dssn", "sigma": 0.1}  # 88 levels


class TestWide(SplittingLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "dssn", "sigma": 0.35}  # 309 levels


def walks_from(m: Array, steps: int) -> Iterator[Array]:
    """Inputs at distance `steps` where there are any: along each axis both ways, and by random mixtures of signs and lengths."""
    rng = np.random.default_rng(0)
    for axis in range(len(m)):
        for sign in (-1, 1):
            yield np.clip(m + sign * steps * np.eye(len(m), dtype=int)[axis], 0, 255)
    for _ in range(60):
        lengths = rng.multinomial(steps, rng.dirichlet(np.full(len(m), 0.5)))
        yield np.clip(m + lengths * rng.choice([-1, 1], len(m)), 0, 255)


# -- submission ----------------------------------------------------------------------------------------------------------------


def test_levels_are_the_floor_of_510_lam() -> None:
    assert [spec_of(levels).certifiers[0].levels for levels in range(2, 4000)] == list(range(2, 4000))
    assert parse_spec({"certifiers": [{"kind": "dssn", "sigma": 0.25}]}).certifiers[0].levels == 220


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sigma": 0.001}, "use at least 0.0023"),
        ({"sigma": 120.0}, "more than 100000; use at most 113"),
        ({"sigma": 0.25, "radii": [0.1, 0.44]}, "radius 0.44 is out of reach: 220 levels of sigma = 0.25 reach at most 0.4313 in l1"),
        ({"sigma": 0.25, "alpha": 0.01}, "alpha"),
        ({"sigma": 0.25, "norm": "l2"}, "norm"),
    ],
)
def test_what_is_impossible_for_any_model_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse_spec({"certifiers": [{"kind": "dssn", **changes}]})


FACTS = ModelFacts(input_shape=(4,), classes=2, parameters=1, operators=(), support=(), largest_tensor=10)


@pytest.mark.parametrize("on_grid", [True, False])
def test_a_dataset_off_the_grid_is_refused_at_submission(on_grid: bool) -> None:
    data = DatasetFacts(count=3, input_shape=(4,), low=0, high=1, label_low=0, label_high=1, on_grid=on_grid)
    others: list[dict[str, Any]] = [{"kind": "smoothing", "sigma": 0.5}, {"kind": "bounds", "method": "ibp", "norm": "l2", "epsilon": 0.1}]
    spec = parse_spec({"certifiers": [*others, {"kind": "dssn", "sigma": 0.25}]})
    if on_grid:
        check(spec, FACTS, data, None)
        return
    with pytest.raises(InputError) as refused:
        check(spec, FACTS, data, None)
    [problem] = refused.value.problems
    assert (problem.field, problem.detail.split()[0]) == ("certifiers.2.kind", "dssn")


def test_a_plan_knows_batch_and_shards() -> None:
    data = DatasetFacts(count=3, input_shape=(4,), low=0, high=1, label_low=0, label_high=1, on_grid=True)
    plan, shards = plan_job(spec_of(300, batch_size=77), FACTS, data, "cpu")
    assert (plan.batch_sizes, plan.family, len(shards)) == ((77,), 1, 1)
    assert plan_job(spec_of(300), FACTS, data, "cpu")[0].batch_sizes[0] >= 16
    assert spec_of(300).certifiers[0].work(10) == 3000.0


@pytest.mark.parametrize(("radii", "code"), [(None, Exit.DONE), ([0.01], Exit.DONE), ([0.01, 0.3], Exit.UNKNOWN)])
def test_radii_decide_the_exit_code(radii: list[float] | None, code: Exit) -> None:
    spec, model = spec_of(300, radii=radii), ladder(classes=2)
    # 60 answers 0, which is its label, and is about 70 steps from answering 1.
    certificates = list(certify(model, grid_examples(np.array([[60]])), spec, run_for(spec, model, 1)))
    assert exit_code(spec, certificates) is code
